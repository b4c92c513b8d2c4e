package route

import (
	"os"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

var classes = map[string]keystore.Class{
	"GET": keystore.Read, "HEAD": keystore.Read, "OPTIONS": keystore.Read,
	"POST": keystore.Write, "DELETE": keystore.Write,
}

func writeDocument(t *testing.T, text string) OpenAPI {
	t.Helper()
	file := t.TempDir() + "/openapi.yaml"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return OpenAPI{File: file}
}

func TestCosts(t *testing.T) {
	document := writeDocument(t, `
openapi: 3.1.0
paths:
  /rows:
    get: {operationId: rows, x-apikeys-cost: 3}
    post: {operationId: addRow}
  /rows/{id}:
    $ref: "#/components/pathItems/row"
  /orders/export:
    get: {operationId: documented, x-apikeys-cost: 7}
components: {pathItems: {row: {delete: {operationId: dropRow, x-apikeys-cost: 1000000}}}}
`)
	operation := func(method, path string, cost int64) Operation {
		return Operation{Permission: "orders:export", Class: "write", Method: method, Path: path,
			Cost: cost}
	}
	table, err := NewTable(TableConfig{Methods: classes, Documents: []OpenAPI{document},
		Operations: []Operation{
			operation("GET", "/orders/export", 10), operation("POST", "/orders/export", 20),
			operation("OPTIONS", "/orders/options", 2), operation("GET", "/orders/options", 30),
			operation("GET", "/orders/{id}", 0), operation("HEAD", "/orders/own", 4),
			operation("GET", "/orders/own", 5)}})
	if err != nil {
		t.Fatal(err)
	}
	for call, want := range map[string]int64{
		"GET /orders/export": 10, // the operation's, not the document's
		"GET /Orders/Export": 10, "HEAD /orders/export": 10, "POST /orders/export": 20,
		"OPTIONS /orders/export":  20, // the most expensive operation of the path
		"OPTIONS /orders/options": 2,  // its own
		"HEAD /orders/own":        4, "GET /orders/own": 5,
		"GET /orders/7": 1, "OPTIONS /orders/7": 1, "GET /nowhere": 1, "OPTIONS /nowhere": 1,
		"GET /rows": 3, "HEAD /rows": 3, "POST /rows": 1, "DELETE /rows/7": 1_000_000,
	} {
		method, path, _ := strings.Cut(call, " ")
		if _, _, cost := table.Need(method, path, "", classes[method]); cost != want {
			t.Errorf("%s costs %d, want %d", call, cost, want)
		}
	}
}

func TestInvalidCosts(t *testing.T) {
	for _, cost := range []int64{-1, 1_000_001} {
		_, err := NewTable(TableConfig{Methods: classes, Operations: []Operation{
			{Permission: "orders:export", Class: "read", Method: "GET", Path: "/", Cost: cost}}})
		if err == nil || !strings.Contains(err.Error(), "must be 1 to 1000000") {
			t.Errorf("%d: %v", cost, err)
		}
	}
	for _, field := range []string{"0", "-1", "1000001", "1.5", "x", "[1]", "null",
		"99999999999999999999"} {
		document := writeDocument(t, "openapi: 3.1.0\npaths: {/a: {get: {x-apikeys-cost: "+field+
			"}}}\n")
		_, err := NewTable(TableConfig{Methods: classes, Documents: []OpenAPI{document}})
		if err == nil || !strings.Contains(err.Error(), ":2: x-apikeys-cost must be 1 to 1000000") {
			t.Errorf("%s: %v", field, err)
		}
	}
	document := writeDocument(t, `
openapi: 3.1.0
paths: {/a: {get: {$ref: "#/x", x-apikeys-cost: 2}}}
x: {x-apikeys-cost: 3}
`)
	_, err := NewTable(TableConfig{Methods: classes, Documents: []OpenAPI{document}})
	if err == nil || !strings.Contains(err.Error(), "x-apikeys-cost is next to a $ref") {
		t.Errorf("two costs of one operation: %v", err)
	}
}

// TestCostsOfLeftOutOperations checks that a query parameter does not make a call cheaper.
func TestCostsOfLeftOutOperations(t *testing.T) {
	document := writeDocument(t, `
openapi: 3.1.0
paths:
  /export: {get: {operationId: export, x-apikeys-cost: 10}}
  /export?format=csv: {get: {operationId: csv}}
  /report?full=true: {get: {operationId: report, x-apikeys-cost: 7}}
`)
	document.SkipUnsupported = true
	table, err := NewTable(TableConfig{Methods: classes, Documents: []OpenAPI{document}})
	if err != nil {
		t.Fatal(err)
	}
	for call, want := range map[string]int64{
		"/export": 10, "/export?x=1": 10, "/export?format=csv": 10, "/export?format": 10,
		"/report": 7, "/report?full=true": 7,
	} {
		path, query, _ := strings.Cut(call, "?")
		if need, _, cost := table.Need("GET", path, query, keystore.Read); cost != want {
			t.Errorf("GET %s costs %d, want %d: %+v", call, cost, want, need)
		}
	}
}

package scenarios

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestLiveTokenInEveryField puts a valid token into every field, parameter, header and path of
// every operation in the OpenAPI document. Each request must be refused, and no response may
// contain the token. The harness then searches the logs, the metrics and the database with its
// audit log.
func TestLiveTokenInEveryField(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{APIKey: "namespace_path /v1/{namespace}/**", Global: "debug"})
	g.Namespace(t, "acme", nil)
	live := string(g.Mint(t, gate.JSON{"name": "live", "access": "read_only"}).Token)
	id := g.Mint(t, gate.JSON{"name": "another", "access": "read_only"}).ID
	var member string
	if r := g.Call(t, "POST", "/members", gate.JSON{"name": "Ada"}); r.Status != 201 {
		t.Fatal(r)
	} else {
		member = r.JSON()["id"].(string)
	}
	g.Call(t, "POST", "/roles", gate.JSON{"namespace": "acme", "name": "billing",
		"permissions": []string{"read"}})

	document := g.Call(t, "GET", "/openapi.json", nil).JSON()
	schemas := document["components"].(gate.JSON)["schemas"].(gate.JSON)
	tried := 0
	try := func(where, method, path string, body any, header ...string) {
		tried++
		r := g.Call(t, method, path, body, header...)
		if strings.Contains(fmt.Sprint(r.Header, string(r.Body)), live) {
			t.Errorf("%s %s: the answer, with status %d, repeats it", method, where, r.Status)
		}
		// A report of a leaked token may have it in every field.
		reported := r.Status == 200 && path == "/leaks" && body != nil
		if (r.Status < 400 || r.Status >= 500) && !reported {
			t.Errorf("%s %s: status %d", method, where, r.Status)
		}
	}
	for path, item := range document["paths"].(gate.JSON) {
		for method, op := range item.(gate.JSON) {
			op, method := op.(gate.JSON), strings.ToUpper(method)
			below := strings.TrimPrefix(path, "/apikeys/v1")
			target := strings.NewReplacer("{id}", id, "{namespace}", "acme", "{name}",
				"billing").Replace(below)
			if strings.HasPrefix(below, "/members") {
				target = strings.ReplaceAll(below, "{id}", member)
			} else if strings.HasPrefix(below, "/namespaces") {
				target = strings.ReplaceAll(below, "{id}", "acme")
			}
			var empty any
			content, takesBody := op["requestBody"].(gate.JSON)
			if takesBody {
				empty = gate.JSON{}
			}
			parameters, _ := op["parameters"].([]any)
			for _, p := range parameters {
				p := p.(gate.JSON)
				name := p["name"].(string)
				switch p["in"] {
				case "path":
					try(path+" "+name, method, strings.NewReplacer("{"+name+"}", live, "{id}", id,
						"{namespace}", "acme", "{name}", "billing").Replace(below), empty)
				case "query":
					try(path+"?"+name, method, target+"?"+name+"="+live, empty)
					try(path+"?"+name, method, target+"?"+name+"=x"+url.QueryEscape(live)+"x",
						empty)
				case "header":
					try(path+" "+name, method, target, empty, name+": "+live)
				}
			}
			// These need no key.
			if below != "/docs" && below != "/openapi.json" && below != "/health" {
				try(path+"? unknown", method, target+"?"+live+"=1", empty)
			}
			if !takesBody {
				continue
			}
			for contentType, media := range content["content"].(gate.JSON) {
				schema := media.(gate.JSON)["schema"].(gate.JSON)
				for where, value := range withToken(schemas, schema, live) {
					if strings.HasPrefix(where, ".token") && below == "/verify" {
						continue // a token belongs here; TestSecretsOfAWholeRun sends it
					}
					try(path+" "+contentType+" "+where, method, target, value,
						"Content-Type: "+contentType)
				}
			}
		}
	}
	if tried < 300 {
		t.Errorf("only %d places were tried", tried)
	}
	for _, path := range []string{"/keys", "/namespaces", "/roles", "/members", "/audit",
		"/audit/export", "/nodes"} {
		if r := g.Call(t, "GET", path, nil); r.Status != 200 ||
			strings.Contains(string(r.Body), live) {
			t.Errorf("%s: status %d, or it shows the token", path, r.Status)
		}
	}
	// Refusals that name a namespace.
	for _, target := range []string{"/v1/" + live + "/x", "/v1/acme/" + live, "/" + live,
		"/v1/acme?x=" + live} {
		r := g.Get(t, target, gate.Token(live))
		// A 200 comes from the upstream.
		if r.Status != 200 && strings.Contains(fmt.Sprint(r.Header, string(r.Body)), live) {
			t.Errorf("the answer to a token in the path, with status %d, repeats it", r.Status)
		}
	}
}

// withToken returns bodies by place. Each fits the schema except for a token in that place.
func withToken(schemas, schema gate.JSON, token string) map[string]any {
	if ref, ok := schema["$ref"].(string); ok {
		schema = schemas[strings.TrimPrefix(ref, "#/components/schemas/")].(gate.JSON)
	}
	bodies := map[string]any{"": token}
	valid := func() gate.JSON {
		return gate.JSON{"name": "x", "namespace": "acme", "permissions": []string{"read"},
			"token": "imported-0123456789", "keys": []any{}, "id": "new"}
	}
	properties, _ := schema["properties"].(gate.JSON)
	known := func(body gate.JSON) gate.JSON {
		maps.DeleteFunc(body, func(name string, _ any) bool { return properties[name] == nil })
		return body
	}
	for name, property := range properties {
		property := property.(gate.JSON)
		for where, value := range withToken(schemas, property, token) {
			body := known(valid())
			body[name] = value
			bodies["."+name+where] = body
		}
	}
	if properties != nil {
		body := known(valid())
		body[token] = 1
		bodies[".unknown"] = body
		twice := fmt.Sprintf(`{%q:1,%q:2}`, token, token)
		bodies[".twice"] = twice
	}
	if items, ok := schema["items"].(gate.JSON); ok {
		for where, value := range withToken(schemas, items, token) {
			bodies["[0]"+where] = []any{value}
		}
	}
	if _, ok := schema["additionalProperties"].(gate.JSON); ok {
		bodies[".value"] = gate.JSON{"a": "see " + token + "."}
		bodies[".name"] = gate.JSON{token: "a"}
	}
	if kind := schema["type"]; kind == "string" || slices.Contains(words(kind), "string") {
		bodies[" within"] = "see orders:" + token + "."
	}
	return bodies
}

func words(v any) (list []string) {
	all, _ := v.([]any)
	for _, word := range all {
		list = append(list, fmt.Sprint(word))
	}
	return list
}

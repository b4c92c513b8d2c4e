// Package openapi reads the operations of an OpenAPI 3.0 or 3.1 document, JSON or YAML: methods,
// paths, ids, tags, summaries and costs, each with its line. It ignores the rest of the document,
// even if that is invalid. It knows nothing of permissions. Start reading at [Read]; reader.go
// resolves references and merges, servers.go the base paths.
package openapi

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A Document has the operations of an OpenAPI document and of the files that its paths refer to.
type Document struct {
	Operations []Operation // in the order of the document
	SHA256     string      // of all files, in hexadecimal
}

// An Operation is one call of an API.
type Operation struct {
	Method string // in upper case
	Path   string // the path template, unchanged
	// Bases are the paths of the servers. Each of them precedes Path. A base is empty or begins
	// with a slash, and does not end with one.
	Bases   []string
	ID      string // operationId; may be empty
	Tag     string // the first one; may be empty
	Summary string // may be empty
	Cost    int64  // x-apikeys-cost; 0 if it is missing
	Place   string // FILE:LINE
}

// methods are the fields of a path item that are operations.
var methods = strings.Fields("get put post delete options head patch trace")

// Read reads a document from a file. Errors name the file and, if it is known, the line.
func Read(file string) (*Document, error) {
	r := &reader{
		files: make(map[string]*yaml.Node),
		names: make(map[*yaml.Node]map[string]*yaml.Node),
		hash:  sha256.New(),
	}
	root, err := r.open(file)
	if err != nil {
		return nil, err
	}
	d := new(Document)
	if d.Operations, err = r.document(root); err != nil {
		return nil, err
	}
	d.SHA256 = hex.EncodeToString(r.hash.Sum(nil))
	return d, nil
}

// document returns the operations of a whole document.
func (r *reader) document(root node) ([]Operation, error) {
	top, err := r.fields(root)
	if err != nil {
		return nil, err
	}
	version := top["openapi"].text()
	switch {
	case top["swagger"].Node != nil:
		return nil, root.errorf("this is Swagger %s: convert it to OpenAPI 3",
			top["swagger"].text())
	case version == "":
		return nil, root.errorf("this is not an OpenAPI document: the field openapi is missing")
	case !slices.Contains([]string{"3.0", "3.1"}, version) && !strings.HasPrefix(version, "3.0.") &&
		!strings.HasPrefix(version, "3.1."):
		return nil, top["openapi"].errorf("OpenAPI %s is not supported: must be 3.0 or 3.1",
			version)
	}
	bases, err := r.bases(top["servers"], []string{""})
	if err != nil {
		return nil, err
	}
	paths, err := r.fields(top["paths"])
	if err != nil {
		return nil, err
	}
	var list []Operation
	for _, path := range paths.inOrder() {
		if strings.HasPrefix(path, "x-") {
			continue
		}
		operations, err := r.pathItem(path, paths[path], bases)
		if err != nil {
			return nil, err
		}
		list = append(list, operations...)
	}
	if len(list) == 0 {
		return nil, root.errorf("the document must have at least one operation")
	}
	return list, nil
}

// pathItem returns the operations of a path. bases are those of the document.
func (r *reader) pathItem(path string, item node, bases []string) ([]Operation, error) {
	fields, err := r.fields(item)
	if err != nil {
		return nil, err
	}
	if bases, err = r.bases(fields["servers"], bases); err != nil {
		return nil, err
	}
	var list []Operation
	for _, name := range fields.inOrder() {
		if !slices.Contains(methods, name) {
			if lower := strings.ToLower(name); slices.Contains(methods, lower) {
				return nil, fields[name].errorf("%s: methods must be in lower case: %s", name,
					lower)
			}
			continue
		}
		o, err := r.operation(fields[name], bases)
		if err != nil {
			return nil, err
		}
		o.Method, o.Path = strings.ToUpper(name), path
		list = append(list, o)
	}
	return list, nil
}

// operation returns an operation without its method and path. bases are those of its path.
func (r *reader) operation(n node, bases []string) (o Operation, err error) {
	fields, err := r.fields(n)
	if err != nil {
		return o, err
	}
	o = Operation{ID: fields["operationId"].text(), Summary: fields["summary"].text(),
		Place: n.place()}
	if id := fields["operationId"]; id.Node != nil && id.Kind != yaml.ScalarNode {
		return o, id.errorf("operationId must be a string")
	}
	if tags := fields["tags"]; tags.Node != nil {
		list, err := tags.elements("tags")
		if err != nil {
			return o, err
		}
		if len(list) > 0 {
			o.Tag = list[0].text()
		}
	}
	if cost := fields[costField]; cost.Node != nil {
		if o.Cost, err = strconv.ParseInt(cost.text(), 10, 64); err != nil || !ValidCost(o.Cost) {
			return o, cost.errorf("%s must be 1 to %d", costField, MaxCost)
		}
	}
	o.Bases, err = r.bases(fields["servers"], bases)
	return o, err
}

// costField is the extension with the cost of an operation, in units.
const costField = "x-apikeys-cost"

// MaxCost is the maximum cost of an operation, in units.
const MaxCost = 1_000_000

// ValidCost reports whether an operation can cost this many units.
func ValidCost(units int64) bool { return units >= 1 && units <= MaxCost }

// errorf returns an error that begins with the place of n.
func (n node) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: "+format, append([]any{n.place()}, args...)...)
}

package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// maxFile limits the size of a file, in bytes. The largest public documents have less than
	// 50 MiB.
	maxFile = 128 << 20
	// maxDepth limits chains of references and merges, so circular ones end.
	maxDepth = 20
	// maxFields limits the fields that are read. Merges of merges can multiply them.
	maxFields = 1 << 20
)

// A reader has the files of a document.
type reader struct {
	files map[string]*yaml.Node                // by name
	names map[*yaml.Node]map[string]*yaml.Node // fields of mappings that pointers lead through
	hash  hash.Hash                            // of all files
	seen  int                                  // number of fields read
}

// A node is a part of a file. The zero node is a missing field.
type node struct {
	*yaml.Node
	file string
}

// open returns the root of a file. It reads a file only once.
func (r *reader) open(file string) (node, error) {
	if top, ok := r.files[file]; ok {
		return node{top, file}, nil
	}
	text, err := readFile(file)
	if err != nil {
		return node{}, err
	}
	_, _ = fmt.Fprintf(r.hash, "%d %s", len(text), text)
	top, err := parse(text)
	if err != nil {
		return node{}, fmt.Errorf("%s%w", file, err)
	}
	r.files[file] = top
	return node{top, file}, nil
}

func readFile(file string) ([]byte, error) {
	switch info, err := os.Stat(file); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // opening a named pipe would block until it has a writer
		return nil, fmt.Errorf("%s is not a regular file", file)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s has %d bytes: must have at most %d", file, info.Size(), maxFile)
	}
	text, err := os.ReadFile(file)
	return bytes.TrimPrefix(text, []byte("\ufeff")), err
}

// parse parses JSON or YAML. Errors begin with a colon and, if it is known, the line, so that they
// can follow the name of the file.
func parse(text []byte) (*yaml.Node, error) {
	var raw json.RawMessage
	var syntax *json.SyntaxError
	err := json.Unmarshal(text, &raw)
	if err == nil {
		return parseJSON(text), nil
	}
	var document yaml.Node
	switch other := yaml.Unmarshal(text, &document); {
	case other != nil && errors.As(err, &syntax) &&
		bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")):
		return nil, fmt.Errorf(":%d: %w", 1+bytes.Count(text[:syntax.Offset], []byte("\n")), err)
	case other != nil:
		return nil, fmt.Errorf(": %w", other)
	case len(document.Content) == 0:
		return nil, errors.New(": the file is empty")
	}
	return document.Content[0], nil
}

// resolve follows aliases.
func (n node) resolve() node {
	for n.Node != nil && n.Kind == yaml.AliasNode {
		n.Node = n.Alias
	}
	return n
}

// follow returns the target of a reference: a file, a JSON pointer (RFC 6901), or both.
func (r *reader) follow(from node, ref string) (node, error) {
	file, pointer, _ := strings.Cut(ref, "#")
	if strings.Contains(file, "://") || strings.HasPrefix(file, "//") {
		return node{}, errors.New("must refer to a local file: bundle the document into one file")
	}
	at, err := node{}, error(nil)
	if file == "" {
		at, err = r.open(from.file)
	} else {
		if file, err = unescape(file); err != nil {
			return node{}, err
		}
		at, err = r.open(filepath.Join(filepath.Dir(from.file), filepath.FromSlash(file)))
	}
	if err != nil || pointer == "" {
		return at, err
	}
	if pointer, err = unescape(pointer); err != nil {
		return node{}, err
	}
	if pointer[0] != '/' {
		return node{}, errors.New("the part after # must begin with /")
	}
	for word := range strings.SplitSeq(pointer[1:], "/") {
		if at = r.child(at, pointerEscapes.Replace(word)); at.Node == nil {
			return node{}, fmt.Errorf("%q does not exist", word)
		}
	}
	return at, nil
}

var pointerEscapes = strings.NewReplacer("~1", "/", "~0", "~")

// child returns the child of n with a name, which is one step of a JSON pointer.
func (r *reader) child(n node, name string) node {
	n = n.resolve()
	switch n.Kind {
	case yaml.MappingNode:
		names, known := r.names[n.Node]
		if !known {
			names = make(map[string]*yaml.Node, len(n.Content)/2)
			for i := len(n.Content) - 2; i >= 0; i -= 2 {
				names[n.Content[i].Value] = n.Content[i+1]
			}
			r.names[n.Node] = names
		}
		return node{names[name], n.file}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(n.Content) {
			return node{n.Content[i], n.file}
		}
	}
	return node{}
}

// fields are the fields of a mapping, by name.
type fields map[string]node

// inOrder returns the names, sorted by the file and position of the fields.
func (f fields) inOrder() []string {
	names := make([]string, 0, len(f))
	for name := range f {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return f[a].compare(f[b], a, b) })
	return names
}

// compare compares the places of two fields and, if these are equal, their names.
func (n node) compare(m node, name, other string) int {
	switch {
	case n.file != m.file:
		return strings.Compare(n.file, m.file)
	case n.Line != m.Line:
		return n.Line - m.Line
	case n.Column != m.Column:
		return n.Column - m.Column
	}
	return strings.Compare(name, other)
}

// fields returns the fields of a mapping, including those that are merged or referenced. It returns
// no fields if n is missing or null.
func (r *reader) fields(n node) (fields, error) {
	out := make(fields)
	if n.Node == nil || n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return out, nil
	}
	return out, r.collect(n, out, 0)
}

// collect adds the fields of n to out, except those that out already has.
func (r *reader) collect(n node, out fields, depth int) error {
	n = n.resolve()
	switch {
	case depth > maxDepth:
		return n.errorf("references and merges must not be circular, nor nested more than %d "+
			"levels deep", maxDepth)
	case n.Kind != yaml.MappingNode:
		return n.errorf("must be an object with named fields")
	}
	own := make(fields)
	var merged []node
	ref := ""
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], node{n.Content[i+1], n.file}
		if r.seen++; r.seen > maxFields {
			return n.errorf("the document must have at most %d fields, including merged ones",
				maxFields)
		}
		if key.Tag == "!!merge" {
			merged = append(merged, value)
			continue
		}
		if _, twice := own[key.Value]; twice {
			return node{key, n.file}.errorf("the field %q occurs twice", key.Value)
		}
		own[key.Value] = value
		if key.Value == "$ref" {
			ref = value.Value
			continue
		}
		if _, covered := out[key.Value]; !covered {
			out[key.Value] = value
		}
	}
	for _, m := range merged {
		parts := []node{m}
		if m.Kind == yaml.SequenceNode {
			parts, _ = m.elements("")
		}
		for _, part := range parts {
			if err := r.collect(part, out, depth+1); err != nil {
				return err
			}
		}
	}
	if ref == "" {
		return nil
	}
	target, err := r.follow(n, ref)
	if err != nil {
		return n.errorf("$ref %q: %w", ref, err)
	}
	referenced := make(fields)
	if err := r.collect(target, referenced, depth+1); err != nil {
		return err
	}
	return out.addReferenced(referenced)
}

// relevantFields are the fields that determine methods, paths, permissions and costs.
var relevantFields = append(strings.Fields("servers operationId tags url variables default enum "+
	costField), methods...)

// addReferenced adds the fields of the target of a $ref. Fields next to a $ref are allowed (OpenAPI
// 3.1 §4.8.9). It is an error if both have the same relevant field.
func (f fields) addReferenced(referenced fields) error {
	for _, name := range referenced.inOrder() {
		beside, given := f[name]
		switch {
		case !given:
			f[name] = referenced[name]
		case slices.Contains(relevantFields, name):
			return beside.errorf("%s is next to a $ref and in its target (%s), and OpenAPI does "+
				"not define which one applies: remove one of them", name, referenced[name].place())
		}
	}
	return nil
}

// elements returns the elements of a list. The error begins with the list's name.
func (n node) elements(name string) ([]node, error) {
	if n = n.resolve(); n.Kind != yaml.SequenceNode {
		return nil, n.errorf("%s must be a list", name)
	}
	list := make([]node, len(n.Content))
	for i, element := range n.Content {
		list[i] = node{element, n.file}
	}
	return list, nil
}

// text returns the value of a scalar. It returns an empty string for null, for other types and if n
// is missing.
func (n node) text() string {
	n = n.resolve()
	if n.Node == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return ""
	}
	return n.Value
}

// place returns FILE:LINE.
func (n node) place() string { return n.file + ":" + strconv.Itoa(n.Line) }

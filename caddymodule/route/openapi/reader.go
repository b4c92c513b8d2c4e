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

// maxFile bounds a file, in bytes. The largest public documents have less than 50 MiB.
const maxFile = 128 << 20

// maxDepth bounds how far references and merges lead, and so ends those that lead in circles;
// maxFields bounds how many fields merges of merges may make.
const (
	maxDepth  = 20
	maxFields = 1 << 20
)

// A reader holds the files that a document consists of.
type reader struct {
	files map[string]*yaml.Node                // by name
	names map[*yaml.Node]map[string]*yaml.Node // of mappings that references lead into
	hash  hash.Hash
	seen  int // fields
}

// A node is a part of a file. That of a field that is missing is zero.
type node struct {
	*yaml.Node
	file string
}

// open returns the whole of a file.
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
	case !info.Mode().IsRegular(): // opening a pipe would wait for its other end
		return nil, fmt.Errorf("%s is no file", file)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s has %d bytes: %d are the most", file, info.Size(), maxFile)
	}
	text, err := os.ReadFile(file)
	return bytes.TrimPrefix(text, []byte("\ufeff")), err
}

// parse reads JSON or YAML. An error begins with a colon, and the line if it is known.
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

// follow returns what a reference names: a file, a JSON pointer (RFC 6901) in it, or both.
func (r *reader) follow(from node, ref string) (node, error) {
	file, pointer, _ := strings.Cut(ref, "#")
	if strings.Contains(file, "://") || strings.HasPrefix(file, "//") {
		return node{}, errors.New("only local files are read: bundle the document into one")
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
		return node{}, errors.New("after # comes a path that begins with /")
	}
	for word := range strings.SplitSeq(pointer[1:], "/") {
		if at = r.child(at, pointerEscapes.Replace(word)); at.Node == nil {
			return node{}, fmt.Errorf("there is no %q", word)
		}
	}
	return at, nil
}

var pointerEscapes = strings.NewReplacer("~1", "/", "~0", "~")

// child is one step of a JSON pointer.
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

// fields are those of a mapping, by name.
type fields map[string]node

// inOrder returns the names in the order of the document, what is merged in last.
func (f fields) inOrder() []string {
	names := make([]string, 0, len(f))
	for name := range f {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return f[a].compare(f[b], a, b) })
	return names
}

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

// fields returns the fields of a mapping, or of the one that n refers to; none if n is missing.
func (r *reader) fields(n node) (fields, error) {
	out := make(fields)
	if n.Node == nil || n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return out, nil
	}
	return out, r.collect(n, out, 0)
}

func (r *reader) collect(n node, out fields, depth int) error {
	n = n.resolve()
	switch {
	case depth > maxDepth:
		return n.errorf("references and merges lead from one to the next more than %d times, or "+
			"in a circle", maxDepth)
	case n.Kind != yaml.MappingNode:
		return n.errorf("this is no object with named fields")
	}
	own := make(fields)
	var merged []node
	ref := ""
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], node{n.Content[i+1], n.file}
		if r.seen++; r.seen > maxFields {
			return n.errorf("the document has more than %d fields to look at", maxFields)
		}
		if key.Tag == "!!merge" {
			merged = append(merged, value)
			continue
		}
		if _, twice := own[key.Value]; twice {
			return node{key, n.file}.errorf("the field %q is there twice", key.Value)
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

// lookedAt are the fields of which it matters which one counts.
var lookedAt = append(strings.Fields("servers operationId tags url variables default enum"),
	methods...)

// addReferenced adds the fields of an object that is referred to. Beside a reference may stand
// others (OpenAPI 3.1 §4.8.9), but of those that are looked at not the same.
func (f fields) addReferenced(referenced fields) error {
	for _, name := range referenced.inOrder() {
		beside, given := f[name]
		switch {
		case !given:
			f[name] = referenced[name]
		case slices.Contains(lookedAt, name):
			return beside.errorf("%s stands beside a $ref and in what it refers to (%s), and "+
				"OpenAPI does not say which counts: remove one of them",
				name, referenced[name].place())
		}
	}
	return nil
}

// elements are those of a list.
func (n node) elements(name string) ([]node, error) {
	if n = n.resolve(); n.Kind != yaml.SequenceNode {
		return nil, n.errorf("%s is no list", name)
	}
	list := make([]node, len(n.Content))
	for i, element := range n.Content {
		list[i] = node{element, n.file}
	}
	return list, nil
}

// text is a scalar, empty for null and for what is missing or no scalar.
func (n node) text() string {
	n = n.resolve()
	if n.Node == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return ""
	}
	return n.Value
}

// place is FILE:LINE.
func (n node) place() string { return n.file + ":" + strconv.Itoa(n.Line) }

package route

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route/openapi"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// OpenAPI names a document that declares operations. Each of them has its own permission.
type OpenAPI struct {
	// The path of an OpenAPI 3.0 or 3.1 document, JSON or YAML. It is read when the config is
	// loaded. A relative path is relative to the Caddyfile, or in JSON to the working directory of
	// the process.
	File string `json:"file"`
	// The base path, which precedes the paths of the document: `/v1`, or `/` for none. Default is
	// the paths of the document's servers.
	Base string `json:"base,omitempty"`
	// Leaves out the operations that cannot have their own permission, instead of rejecting the
	// document. These are operations whose path has a query or a fragment or cannot occur in a
	// request, and operations that match the same calls as another one or would have the same
	// permission. A warning lists them, and `strict` forbids their calls. Default is false.
	SkipUnsupported bool `json:"skip_unsupported,omitempty"`
	// The digest of the document when the Caddyfile was adapted. If the document changes, the
	// config changes too, so `caddy reload` loads it. The digest is not checked.
	SHA256 string `json:"sha256,omitempty"`

	document *openapi.Document // nil until Read
}

// Digest returns the value for SHA256. Read must have succeeded.
func (o *OpenAPI) Digest() string { return o.document.SHA256 }

// Read reads the document. Once it has succeeded, further calls do nothing.
func (o *OpenAPI) Read() error {
	if o.document != nil {
		return nil
	}
	switch {
	case o.File == "":
		return errors.New("openapi: the file is missing")
	case strings.Contains(o.File, "://"):
		return errors.New("openapi: must be the path of a local file, not a URL")
	}
	var err error
	if o.document, err = openapi.Read(o.File); err != nil {
		return errors.New("openapi: " +
			strings.ReplaceAll(err.Error(), o.File, redact.Argument(o.File)))
	}
	return nil
}

// addDocuments adds the operations of the documents to the table. It ignores operations whose
// method is refused everywhere, because they cannot be called.
func (b *tableBuilder) addDocuments() error {
	permissions := make(map[string]string) // permission → place
	from := len(b.list)
	for i := range b.Documents {
		document := &b.Documents[i]
		if err := document.Read(); err != nil {
			return err
		}
		for _, o := range document.document.Operations {
			if _, mapped := b.Methods[o.Method]; !mapped {
				continue
			}
			if err := b.addDocumented(&o, document, permissions, from); err != nil {
				return fmt.Errorf("openapi: %s: %s %s: %w", o.Place, o.Method, o.Path, err)
			}
		}
	}
	// This is a second pass, because it must know which paths are also declared without a query.
	for i := range b.Documents {
		document := &b.Documents[i]
		for _, o := range document.document.Operations {
			_, mapped := b.Methods[o.Method]
			if mapped && document.SkipUnsupported && strings.ContainsAny(o.Path, "?#") {
				b.blockQuery(&o, document.Base)
			}
		}
	}
	return nil
}

// addDocumented adds an operation of a document. permissions has the permissions of the operations
// of documents that were added before, which are b.list[from:].
func (b *tableBuilder) addDocumented(
	o *openapi.Operation, document *OpenAPI, permissions map[string]string, from int,
) error {
	need := keystore.Need{
		Class: b.Methods[o.Method], Resource: b.resourceOf(o.Tag),
		Operation: operationOf(o),
	}
	permission := need.String()
	entries, err := entriesOf(o, document.Base, need)
	if _, invalid := keystore.ParsePermission(permission); invalid != nil {
		err = cmp.Or(err, fmt.Errorf("%w: give the operation a shorter operationId", invalid))
	}
	var conflicts []string // permissions of operations that o cannot be distinguished from
	if place, taken := permissions[permission]; taken {
		conflicts = append(conflicts, permission)
		err = cmp.Or(err, fmt.Errorf("its permission would be %s, the same as for %s: "+
			"give one of them another operationId", permission, place))
	}
	for i := range entries {
		if j, taken := b.taken[entries[i].shape()]; taken {
			conflicts = append(conflicts, b.list[j].need.String())
			err = cmp.Or(err, b.duplicate(&entries[i], j))
		}
	}
	switch {
	case err == nil:
		permissions[permission] = o.Place
	case document.SkipUnsupported:
		for i := from; i < len(b.list); i++ {
			other := &b.list[i]
			if other.leftOut || !slices.Contains(conflicts, other.need.String()) {
				continue
			}
			other.leftOut = true
			b.leaveOut(other.method+" "+other.pattern.text,
				fmt.Errorf("it cannot be distinguished from %s %s (%s)", o.Method, o.Path, o.Place))
		}
		b.leaveOut(o.Method+" "+o.Path, fmt.Errorf("%w (%s)", err, o.Place))
	default:
		return err
	}
	for _, entry := range entries {
		if _, taken := b.taken[entry.shape()]; !taken {
			entry.leftOut = err != nil
			b.append(entry)
		}
	}
	return nil
}

// leaveOut records that the operation of a call is left out.
func (b *tableBuilder) leaveOut(call string, reason error) {
	b.table.LeftOut = append(b.table.LeftOut, call+": "+reason.Error())
}

// entriesOf returns the rows of an operation, one for each base path.
func entriesOf(o *openapi.Operation, base string, need keystore.Need) ([]operation, error) {
	bases := []string{strings.TrimSuffix(base, "/")}
	if base == "" {
		bases = bases[:0]
		for _, decoded := range o.Bases {
			bases = append(bases, escapeTemplate.Replace(decoded))
		}
	}
	var entries []operation
	for _, base := range bases {
		p, err := parseTemplate(base + o.Path)
		if err != nil {
			return nil, err
		}
		entries = append(entries, operation{
			method: o.Method, pattern: p, need: need, cost: o.Cost, summary: o.Summary,
			place: o.Place,
		})
	}
	return entries, nil
}

// blockQuery makes the calls of an operation undeclared if its path has a query or a fragment. If
// the same path is also declared without a query, only calls with one of the query's parameters
// become undeclared. Clients do not send fragments, so these are ignored.
func (b *tableBuilder) blockQuery(o *openapi.Operation, base string) {
	plain := *o
	target, _, _ := strings.Cut(o.Path, "#")
	path, query, _ := strings.Cut(target, "?")
	plain.Path = path
	entries, err := entriesOf(&plain, base, keystore.Need{})
	if err != nil {
		return
	}
	var names []string
	for query != "" {
		var pair string
		pair, query = CutPair(query)
		name, _, _ := strings.Cut(pair, "=")
		if decoded, err := url.QueryUnescape(name); err == nil && decoded != "" {
			names = append(names, decoded)
		}
	}
	for _, entry := range entries {
		if i, taken := b.taken[entry.shape()]; taken {
			b.list[i].queries = append(b.list[i].queries, names...)
			continue
		}
		entry.leftOut = true
		b.append(entry)
	}
}

// hasParameter reports whether a raw query has a parameter with one of these names.
func hasParameter(query string, names []string) bool {
	for _, name := range names {
		for rest := query; rest != ""; {
			var pair string
			pair, rest = CutPair(rest)
			if _, found := QueryValue(pair, name); found {
				return true
			}
		}
	}
	return false
}

// escapeTemplate escapes the characters that have a meaning in a template.
var escapeTemplate = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D", "?", "%3F", "#", "%23")

// resourceOf returns the resource for a tag. It is never one that is reserved for managing keys.
func (b *tableBuilder) resourceOf(tag string) string {
	resource := permissionWord(ascii.ToLower(tag))
	switch {
	case resource == "":
		return cmp.Or(b.Resource, "default")
	case strings.HasPrefix(resource, "admin"):
		return "api-" + resource
	}
	return resource
}

// operationOf returns the name of an operation in permissions.
func operationOf(o *openapi.Operation) string {
	name := permissionWord(o.ID)
	if name == "" {
		name = permissionWord(ascii.ToLower(o.Method + "-" + o.Path))
	}
	if !keystore.ValidOperation(name) { // read and write are classes
		return "op-" + name
	}
	return name
}

// permissionWord replaces every character that a permission cannot contain with `-`, and removes
// leading punctuation.
func permissionWord(text string) string {
	return strings.TrimLeft(strings.Map(func(c rune) rune {
		if c < 128 && (c == '.' || c == '_' || keystore.ValidOperation(string(c))) {
			return c
		}
		return '-'
	}, text), "-._")
}

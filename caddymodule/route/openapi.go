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

// OpenAPI names a document whose operations have permissions of their own.
type OpenAPI struct {
	// An OpenAPI 3.0 or 3.1 document, JSON or YAML. It is read when the config is loaded. In the
	// Caddyfile a relative path begins at the Caddyfile, in JSON at the working directory of the
	// process.
	File string `json:"file"`
	// What goes before the document's paths, such as `/v1`, or `/` for nothing. Default is the
	// paths of the document's servers.
	Base string `json:"base,omitempty"`
	// Whether operations that cannot have a permission of their own are left out, rather than
	// making the document an error: those whose path has a query or a fragment, and those that
	// match the same calls, or would have the same permission, as others. A warning lists them, and
	// `strict` forbids their calls. Default is false.
	SkipUnsupported bool `json:"skip_unsupported,omitempty"`
	// What the document was when the Caddyfile was adapted. It makes a config whose document has
	// changed another config, so that `caddy reload` loads it; nothing is compared with it.
	SHA256 string `json:"sha256,omitempty"`

	document *openapi.Document // once read
}

// Digest returns the value for SHA256, after Read.
func (o *OpenAPI) Digest() string { return o.document.SHA256 }

// Read reads the document, unless it is read already.
func (o *OpenAPI) Read() error {
	if o.document != nil {
		return nil
	}
	switch {
	case o.File == "":
		return errors.New("openapi: the file is missing")
	case strings.Contains(o.File, "://"):
		return errors.New("openapi: this is a URL: only local files are read")
	}
	var err error
	if o.document, err = openapi.Read(o.File); err != nil {
		return errors.New("openapi: " +
			strings.ReplaceAll(err.Error(), o.File, redact.Argument(o.File)))
	}
	return nil
}

// addDocuments adds the operations of the documents to the table. Those of a method that is refused
// everywhere cannot be called, so they are left out.
func (b *tableBuilder) addDocuments() error {
	permissions := make(map[string]string) // → place
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
	for i := range b.Documents { // once it is known which paths stand without a query too
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

// addDocumented adds an operation. The operations of documents begin at the index from.
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
	var rivals []string // their permissions
	if place, taken := permissions[permission]; taken {
		rivals = append(rivals, permission)
		err = cmp.Or(err, fmt.Errorf("its permission would be %s, which is that of %s: "+
			"give one of them another operationId", permission, place))
	}
	for i := range entries {
		if j, taken := b.taken[entries[i].shape()]; taken {
			rivals = append(rivals, b.list[j].need.String())
			err = cmp.Or(err, b.clash(&entries[i], j))
		}
	}
	switch {
	case err == nil:
		permissions[permission] = o.Place
	case document.SkipUnsupported:
		for i := from; i < len(b.list); i++ {
			rival := &b.list[i]
			if rival.leftOut || !slices.Contains(rivals, rival.need.String()) {
				continue
			}
			rival.leftOut = true
			b.leaveOut(rival.method+" "+rival.pattern.text,
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

func (b *tableBuilder) leaveOut(call string, reason error) {
	b.table.LeftOut = append(b.table.LeftOut, call+": "+reason.Error())
}

// entriesOf returns the rows of an operation, one for each base.
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
			method: o.Method, pattern: p, need: need, summary: o.Summary, place: o.Place,
		})
	}
	return entries, nil
}

// blockQuery makes the calls of an operation undeclared whose path has a query or a fragment. If
// the same path is declared without a query, only calls with one of the query's parameters are
// undeclared. A fragment is never sent, so it makes no difference.
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

// hasParameter reports whether a raw query has a parameter of one of these names.
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

// escapeTemplate escapes what has a meaning in a template.
var escapeTemplate = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D", "?", "%3F", "#", "%23")

// resourceOf makes a resource of a tag.
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

// operationOf names an operation.
func operationOf(o *openapi.Operation) string {
	name := permissionWord(o.ID)
	if name == "" {
		name = permissionWord(ascii.ToLower(o.Method + "-" + o.Path))
	}
	if !keystore.ValidOperation(name) { // it is read or write
		return "op-" + name
	}
	return name
}

// permissionWord puts a `-` for every character that a permission cannot have, and lets none stand
// at its beginning.
func permissionWord(text string) string {
	return strings.TrimLeft(strings.Map(func(c rune) rune {
		if c < 128 && (c == '.' || c == '_' || keystore.ValidOperation(string(c))) {
			return c
		}
		return '-'
	}, text), "-._")
}

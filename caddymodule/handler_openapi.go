package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/openapi"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// OpenAPI names a document whose operations have permissions of their own.
type OpenAPI struct {
	// An OpenAPI 3.0 or 3.1 document, JSON or YAML. It is read when the config is loaded. In the Caddyfile a relative path begins at the Caddyfile,
	// in JSON at the working directory of the process.
	File string `json:"file"`
	// What goes before the document's paths, such as `/v1`, or `/` for nothing. Default is the paths of the document's servers.
	Base string `json:"base,omitempty"`
	// What the document was when the Caddyfile was adapted. It makes a config whose document has changed another config, so that `caddy reload`
	// loads it; nothing is compared with it.
	SHA256 string `json:"sha256,omitempty"`

	document *openapi.Document // once read
}

// unmarshalOpenAPI reads the document, since only the adapter knows the line for an error.
func (h *Handler) unmarshalOpenAPI(d *caddyfile.Dispenser, args []string) error {
	if len(args) == 0 || len(args) > 2 || args[0] == "" {
		return d.Err("openapi takes a file, and may take what goes before its paths, such as `openapi ./openapi.yaml` or `openapi ./openapi.yaml /v1`")
	}
	if name, ok := strings.CutPrefix(args[0], "{env."); ok {
		return d.Errf("openapi: %s is filled in when the config runs, and the document is read before: write {$%s", args[0], name)
	}
	o := OpenAPI{File: args[0]}
	if len(args) == 2 {
		if o.Base = args[1]; o.Base == "" {
			return d.Err("openapi: what goes before the paths is empty: write / for nothing, or leave it out for the paths of the document's servers")
		}
	}
	if !filepath.IsAbs(o.File) && !strings.Contains(o.File, "://") { // as `import` does
		caddyfile, err := caddy.FastAbs(d.File())
		if err != nil {
			return d.Errf("openapi: finding the directory of the Caddyfile: %v", err)
		}
		o.File = filepath.Join(filepath.Dir(caddyfile), o.File)
	}
	if err := o.read(); err != nil {
		return d.WrapErr(err)
	}
	o.SHA256 = o.document.SHA256
	h.OpenAPI = append(h.OpenAPI, o)
	return nil
}

func (o *OpenAPI) read() error {
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
		return errors.New("openapi: " + strings.ReplaceAll(err.Error(), o.File, shown(o.File)))
	}
	return nil
}

// addDocuments adds the operations of the documents to the table. Those of a method that is refused everywhere cannot be called, so they
// are left out.
func (b *tableBuilder) addDocuments(h *Handler) error {
	permissions := make(map[string]string) // → place
	for i := range h.OpenAPI {
		document := &h.OpenAPI[i]
		if err := document.read(); err != nil {
			return err
		}
		for _, o := range document.document.Operations {
			if _, mapped := b.rules.methods[o.Method]; !mapped {
				continue
			}
			if err := b.addDocumented(&o, document.Base, permissions); err != nil {
				return fmt.Errorf("openapi: %s: %s %s: %w", o.Place, o.Method, o.Path, err)
			}
		}
	}
	return nil
}

func (b *tableBuilder) addDocumented(o *openapi.Operation, base string, permissions map[string]string) error {
	need := keystore.Need{Class: b.rules.methods[o.Method], Resource: b.rules.resourceOf(o.Tag), Operation: operationOf(o)}
	permission := need.String()
	if _, err := keystore.ParsePermission(permission); err != nil {
		return fmt.Errorf("%w: give the operation a shorter operationId", err)
	}
	if place, taken := permissions[permission]; taken {
		return fmt.Errorf("its permission would be %s, which is that of %s: give one of them another operationId", permission, place)
	}
	permissions[permission] = o.Place
	bases := []string{strings.TrimSuffix(base, "/")}
	if base == "" {
		bases = bases[:0]
		for _, decoded := range o.Bases {
			bases = append(bases, escapeTemplate.Replace(decoded))
		}
	}
	for _, base := range bases {
		p, err := parseTemplate(base + o.Path)
		if err != nil {
			return err
		}
		if err := b.add(operation{o.Method, p, need, o.Summary, o.Place}); err != nil {
			return err
		}
	}
	return nil
}

// escapeTemplate escapes what has a meaning in a template.
var escapeTemplate = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D", "?", "%3F", "#", "%23")

// resourceOf makes a resource of a tag.
func (c *rules) resourceOf(tag string) string {
	resource := permissionWord(lowerASCII(tag))
	switch {
	case resource == "":
		return cmp.Or(c.resource, "default")
	case strings.HasPrefix(resource, "admin"):
		return "api-" + resource
	}
	return resource
}

// operationOf names an operation.
func operationOf(o *openapi.Operation) string {
	name := permissionWord(o.ID)
	if name == "" {
		name = permissionWord(lowerASCII(o.Method + "-" + o.Path))
	}
	if !keystore.ValidOperation(name) { // it is read or write
		return "op-" + name
	}
	return name
}

// permissionWord puts a `-` for every character that a permission cannot have, and lets none stand at its beginning.
func permissionWord(text string) string {
	return strings.TrimLeft(strings.Map(func(c rune) rune {
		if c < 128 && (c == '.' || c == '_' || keystore.ValidOperation(string(c))) {
			return c
		}
		return '-'
	}, text), "-._")
}

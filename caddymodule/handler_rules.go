package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// rules is the compiled configuration of a Handler.
type rules struct {
	sources        sources
	challenges     challenges
	namespacePaths []route.Pattern
	namespace      string // of requests that no namespace path matches; empty for the key's own
	placeholder    bool   // whether namespace contains a placeholder
	methods        map[string]keystore.Class
	allow          string // the mapped methods, for Allow
	table          *route.Table
	targets        []targetHeader
	lists          route.Lists
	public         []route.Pattern
	encodedSlash   bool
	identity       identitySet
	metadata       []metadataHeader
	charge         string // canonical name of the header; empty for none
}

type metadataHeader struct{ name, header string }

var defaultMethods = map[string]keystore.Class{
	http.MethodGet: keystore.Read, http.MethodHead: keystore.Read,
	http.MethodOptions: keystore.Read,
	http.MethodPost:    keystore.Write, http.MethodPut: keystore.Write,
	http.MethodPatch: keystore.Write, http.MethodDelete: keystore.Write,
}

const (
	defaultRealm = "api"
	maxRealm     = 100 // bytes
)

// realmOr checks a realm, which is sent between quotes. It returns fallback for an empty one.
func realmOr(realm, fallback string) (string, error) {
	odd := func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }
	if len(realm) > maxRealm || strings.ContainsFunc(realm, odd) || keystore.ContainsToken(realm) {
		return "", fmt.Errorf("realm: must be at most %d ASCII characters without quotes and "+
			"backslashes, not %q", maxRealm, redact.Argument(realm))
	}
	return cmp.Or(realm, fallback), nil
}

// compile checks the configuration. Errors name the option as the Caddyfile does.
func (h *Handler) compile() (*rules, error) {
	c := &rules{encodedSlash: h.EncodedSlash != ""}
	for _, word := range []struct{ option, value, only string }{
		{"foreign", h.Foreign, "pass"}, {"encoded_slash", h.EncodedSlash, "allow"},
		{"errors", h.Errors, "caddy"}, {"limit_headers", h.LimitHeaders, "off"},
	} {
		if word.value != "" && word.value != word.only {
			return nil, fmt.Errorf("%s: unknown value %q: must be %s or left out", word.option,
				redact.Argument(word.value), word.only)
		}
	}
	if h.Forwarded != "" && h.Forwarded != forwardedPlain && h.Forwarded != forwardedNginx {
		return nil, fmt.Errorf("forwarded: unknown value %q: must be nginx or left out",
			redact.Argument(h.Forwarded))
	}
	realm, err := realmOr(h.Realm, defaultRealm)
	if err != nil {
		return nil, err
	}
	if c.sources, err = compileSources(h.From); err != nil {
		return nil, err
	}
	for i, source := range c.sources.list {
		name := source.name
		if len(h.From) > 0 && h.From[i].Name != "" {
			name = h.From[i].Name // as it is written
		}
		if source.kind == redact.Header {
			if err := h.expected.check(name); err != nil {
				return nil, err
			}
		}
	}
	c.challenges = c.sources.challenges(realm)
	for _, add := range []func(*Handler) error{c.addNamespaces, c.addMethods, c.addTargets} {
		if err := add(h); err != nil {
			return nil, err
		}
	}
	for _, text := range h.Public {
		if c.public, err = route.AddPattern(c.public, "public", text, true); err != nil {
			return nil, err
		}
	}
	if c.identity, err = parseIdentity(h.Identity); err != nil {
		return nil, err
	}
	for _, name := range h.PassMetadata {
		if err := c.addMetadata(name); err != nil {
			return nil, err
		}
	}
	if h.Preflight != nil {
		if h.Forwarded != "" {
			return nil, errors.New("preflight cannot be combined with forwarded: the other proxy " +
				"would treat the 204 as permission and pass on the OPTIONS request. Answer " +
				"preflights in the other proxy")
		}
		for _, origin := range h.Preflight.Origins {
			if err := checkOrigin(origin); err != nil {
				return nil, err
			}
		}
	}
	if c.charge, err = h.checkCharge(); err != nil {
		return nil, err
	}
	c.table, err = route.NewTable(route.TableConfig{
		Methods: c.methods, Resource: h.Resource, Strict: h.Strict,
		Operations: h.Operation, Documents: h.OpenAPI,
	})
	if err != nil {
		return nil, err
	}
	if h.Forwarded != "" && len(h.List) > 0 {
		return nil, errors.New("list cannot be combined with forwarded: the API's responses do " +
			"not pass this handler. Filter them where the API is proxied")
	}
	c.lists, err = route.NewLists(h.List, c.methods)
	return c, err
}

func (c *rules) addNamespaces(h *Handler) error {
	var err error
	for _, text := range h.NamespacePath {
		if c.namespacePaths, err = route.AddPattern(c.namespacePaths, "namespace_path", text,
			false); err != nil {
			return err
		}
		if last := &c.namespacePaths[len(c.namespacePaths)-1]; !last.Captures() {
			return fmt.Errorf("namespace_path: path pattern %q must contain {namespace} as a whole "+
				"segment, between two slashes", redact.Argument(text))
		}
	}
	route.SortPatterns(c.namespacePaths)
	switch c.namespace = h.Namespace; {
	case c.namespace == "":
		c.namespace = keystore.DefaultNamespace
	case c.namespace == keystore.HomeNamespace:
		c.namespace = ""
	case strings.Contains(c.namespace, "{"):
		c.placeholder = true
	case !keystore.ValidNamespaceID(c.namespace):
		return fmt.Errorf("namespace: %q is not a namespace id: must be at most 64 letters, "+
			"digits, '.', '_', '~' and '-', beginning with a letter or digit, or a placeholder, "+
			"or home", redact.Argument(c.namespace))
	}
	if h.Resource != "" {
		return route.CheckResource("resource", h.Resource)
	}
	return nil
}

func (c *rules) addMethods(h *Handler) error {
	c.methods = make(map[string]keystore.Class)
	for method, class := range defaultMethods {
		c.methods[method] = class
	}
	for method, word := range h.Methods {
		if err := checkMethod(method); err != nil {
			return err
		}
		if word == "none" {
			delete(c.methods, method)
			continue
		}
		class, err := route.ParseClass("methods", word)
		if err != nil {
			return err
		}
		c.methods[method] = class
	}
	names := make([]string, 0, len(c.methods))
	for method := range c.methods {
		names = append(names, method)
	}
	slices.Sort(names)
	c.allow = strings.Join(names, ", ")
	return nil
}

func checkMethod(method string) error {
	switch {
	case method == http.MethodConnect || method == http.MethodTrace:
		return fmt.Errorf("methods: %s is always refused", method)
	case !httpguts.ValidHeaderFieldName(method): // both are tokens (RFC 9110 §5.6.2)
		return fmt.Errorf("methods: %q is not a valid method", redact.Argument(method))
	}
	return nil
}

func (c *rules) addMetadata(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("pass_metadata: %q must be valid in a header name",
			redact.Argument(name))
	}
	header := http.CanonicalHeaderKey("X-Apikey-Meta-" + foldName(name))
	for _, other := range c.metadata {
		if other.header == header {
			return fmt.Errorf("pass_metadata: %s and %s would be the same header %s",
				redact.Argument(other.name), redact.Argument(name), redact.Argument(header))
		}
	}
	c.metadata = append(c.metadata, metadataHeader{name, header})
	return nil
}

// literalWildcards returns the path patterns with a segment that looks like a wildcard but is
// literal, such as /docs*.
func (h *Handler) literalWildcards() (found []string) {
	texts := slices.Concat(h.NamespacePath, h.Public)
	for _, o := range h.Operation {
		texts = append(texts, o.Path)
	}
	for _, l := range h.List {
		texts = append(texts, l.Path)
	}
	for _, text := range texts {
		if route.LiteralWildcard(text) {
			found = append(found, text)
		}
	}
	return found
}

func (c *rules) isPublic(path string) bool {
	for i := range c.public {
		if _, ok := c.public[i].Match(path); ok {
			return true
		}
	}
	return false
}

// namespaceOf returns the id of the namespace that a call accesses with a path. It is empty for the
// key's own namespace, and for an empty placeholder.
func (c *rules) namespaceOf(call *call, path string) string {
	for i := range c.namespacePaths {
		if id, ok := c.namespacePaths[i].Match(path); ok {
			return id
		}
	}
	if c.placeholder {
		if repl, ok := call.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			return repl.ReplaceAll(c.namespace, "")
		}
		return ""
	}
	return c.namespace
}

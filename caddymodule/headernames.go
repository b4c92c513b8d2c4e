package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// expectedHeaders are the headers with an underscore or a dot that a server does not drop (see
// [caddyhttp.Server]). A nil pointer stands for an unknown server.
type expectedHeaders struct {
	ExpectedUnderscoreHeaders, ExpectedDotHeaders []string

	merged bool // whether the lists may be those of several servers
}

// expectedBy returns the headers that any server of a Caddyfile expects.
func expectedBy(helper httpcaddyfile.Helper) (*expectedHeaders, error) {
	expected := &expectedHeaders{merged: true}
	options := helper.Option("servers") // its type is not exported
	if options == nil {
		return expected, nil
	}
	encoded, err := json.Marshal(options)
	if err != nil {
		return nil, fmt.Errorf("reading the global option servers: %w", err)
	}
	var servers []expectedHeaders
	if err := json.Unmarshal(encoded, &servers); err != nil {
		return nil, fmt.Errorf("reading the global option servers: %w", err)
	}
	for _, s := range servers {
		expected.ExpectedUnderscoreHeaders = append(expected.ExpectedUnderscoreHeaders,
			s.ExpectedUnderscoreHeaders...)
		expected.ExpectedDotHeaders = append(expected.ExpectedDotHeaders, s.ExpectedDotHeaders...)
	}
	return expected, nil
}

func expectedByServer(s *caddyhttp.Server) *expectedHeaders {
	return &expectedHeaders{
		ExpectedUnderscoreHeaders: s.ExpectedUnderscoreHeaders,
		ExpectedDotHeaders:        s.ExpectedDotHeaders,
	}
}

// check returns an error if the server drops the header with this name.
func (e *expectedHeaders) check(name string) error {
	if e == nil {
		return nil
	}
	underscore, dot := strings.Contains(name, "_"), strings.Contains(name, ".")
	option, what := "expected_underscore_headers", "an underscore"
	switch {
	case underscore && dot:
		what = "an underscore and a dot"
	case dot:
		option, what = "expected_dot_headers", "a dot"
	}
	hidden := ""
	for _, list := range []struct {
		separator string
		names     []string
		applies   bool
	}{{"_", e.ExpectedUnderscoreHeaders, underscore}, {".", e.ExpectedDotHeaders, dot}} {
		for _, expected := range list.names {
			if list.applies && namesHeader(expected, name, underscore && dot) {
				return nil
			}
			hyphens := strings.ReplaceAll(expected, list.separator, "-")
			if !underscore && !dot && !e.merged && namesHeader(hyphens, name, false) {
				hidden = expected
			}
		}
	}
	switch {
	case hidden != "":
		return fmt.Errorf("from header %s: Caddy drops it, because the server expects %s: "+
			"use that header, or remove it from the server", redact.Argument(name), hidden)
	case underscore || dot:
		return fmt.Errorf("from header %s: Caddy drops headers with %s: "+
			"add `servers { %s %[1]s }` to the global options", redact.Argument(name), what, option)
	}
	return nil
}

// namesHeader reports whether an entry of a server's list names a header. The entry may end in *,
// which matches only if literally is false.
func namesHeader(entry, name string, literally bool) bool {
	name = http.CanonicalHeaderKey(name)
	if prefix, open := strings.CutSuffix(entry, "*"); open {
		return !literally && strings.HasPrefix(name, http.CanonicalHeaderKey(prefix))
	}
	return name == http.CanonicalHeaderKey(entry)
}

package caddymodule

import (
	"fmt"
	"strings"
	"testing"
)

// TestSpoofableHeaders checks the warning about a trusted header that clients can set.
func TestSpoofableHeaders(t *testing.T) {
	g := newInstance(t)
	sites := []struct {
		before string // handlers before api_keys_admin; HEADER is the header that it trusts
		warns  bool
	}{
		{"", true},
		{"forward_auth localhost:1 {\n\t\turi /\n\t\tcopy_headers HEADER\n\t}", false},
		{"forward_auth localhost:1 {\n\t\turi /\n\t\tcopy_headers X-Other\n\t}", true},
		{"reverse_proxy /other localhost:1", true},
		{"request_header HEADER fixed", false},
		{"request_header +HEADER more", true},
		{"request_header -HEADER", false},
		{"request_header -x-trust*", false},
		{"request_header -*x", true},
		{"request_header X-Other fixed", true},
		{"handle /other {\n\t\trequest_header HEADER fixed\n\t}", false},
		{"api_key {\n\t\tpublic /apikeys/*\n\t}", true},
		{"basic_auth {\n\t\tada " + bcrypted + "\n\t}", true},
		{"header HEADER fixed", true}, // of the response
	}
	var text strings.Builder
	fmt.Fprint(&text, "{\n\tapi_keys {\n\t\tdatabase sqlite DIR/keys.db\n\t}\n"+
		"\tlog {\n\t\toutput file DIR/caddy.log\n\t\tformat api_keys\n\t}\n}\n")
	option := []string{"trust_user {header.%[1]s}",
		"trust_user {http.auth.user.id}\n\t\ttrust_groups {header.%[1]s}"}
	for i, site := range sites {
		header := fmt.Sprintf("X-Trusted-%d-End", i)
		fmt.Fprintf(&text, "http://s%d.test {\n\tbind unix/DIR/%s\n\troute {\n\t%s\n\t"+
			"api_keys_admin {\n\t\t"+fmt.Sprintf(option[i%2], header)+"\n\t}\n\t"+
			"request_header %s late\n\t}\n}\n", i, g.siteSocket(),
			strings.ReplaceAll(site.before, "HEADER", header), header)
	}
	g.loadCaddyfile(text.String())
	log := readFile(t, g.path("caddy.log"))
	for i, site := range sites {
		header := fmt.Sprintf("X-Trusted-%d-End", i)
		warning := `no handler before it replaces","header":"` + header + `"`
		if strings.Contains(log, warning) != site.warns {
			t.Errorf("%q: warning %v, want %v", site.before, !site.warns, site.warns)
		}
	}
}

package caddymodule

import (
	"fmt"
	"strings"
	"testing"
)

// TestSpoofableNames checks the warnings about names that clients can choose, at the start and in
// doctor.
func TestSpoofableNames(t *testing.T) {
	g := newInstance(t)
	const auth = "forward_auth %s localhost:1 {\n\t\turi /\n\t\tcopy_headers HEADER\n\t}"
	forward := func(matcher string) string { return fmt.Sprintf(auth, matcher) }
	fixed := func(matcher string) string {
		return "handle " + matcher + " {\n\t\trequest_header HEADER fixed\n\t}"
	}
	sites := []struct {
		before string // handlers before api_keys_admin; HEADER is the header that it trusts
		warns  bool
	}{
		{"", true},
		{forward(""), false},
		{"forward_auth localhost:1 {\n\t\turi /\n\t\tcopy_headers X-Other\n\t}", true},
		{"forward_auth localhost:1 {\n\t\turi /\n\t\tcopy_headers X-Other>HEADER\n\t}", false},
		{"reverse_proxy /other localhost:1", true},
		{"request_header HEADER fixed", false},
		{"request_header +HEADER more", true},
		{"request_header -HEADER", false},
		{"request_header -x-trust*", false},
		{"request_header -*x", true},
		{"request_header -*", false},
		{"request_header X-Other fixed", true},
		{"api_key {\n\t\tpublic /apikeys/*\n\t}", true},
		{"basic_auth {\n\t\tada " + bcrypted + "\n\t}", true},
		{"header HEADER fixed", true},  // of the response
		{"header ?HEADER fixed", true}, // of the response

		// Only under a condition.
		{"handle /other {\n\t\trequest_header HEADER fixed\n\t}", true},
		{"request_header /other HEADER fixed", true},
		{"request_header /apikeys/* HEADER fixed", false},
		{"request_header /apikeys/v1/* HEADER fixed", true},
		{"@unset header !HEADER\n\trequest_header @unset HEADER fixed", true},
		{"@a not path /health /public/*\n\t" + forward("@a"), false},
		{"@a not path /apikeys/openapi.json\n\t" + forward("@a"), true},
		{"@a not path /%61pikeys/*\n\t" + forward("@a"), true},
		{"@a remote_ip 10.0.0.0/8\n\t" + forward("@a"), true},
		{"@a remote_ip 10.0.0.0/8\n\trespond @a hello\n\t" + forward(""), false},
		{"handle /apikeys/v1/* {\n\t\t" + forward("") + "\n\t}\n\thandle {\n\t\t" + forward("") +
			"\n\t}", true}, // although one of them runs
		{"handle /apikeys/v1/* {\n\t\tencode\n\t}\n\t" + fixed("/apikeys/*"), true},
		{"handle /apikeys/v1/* {\n\t\tencode\n\t}\n\tvars a b\n\t" + fixed("/apikeys/*"), true},
		{"handle /apikeys/v1/* {\n\t\trespond hello\n\t}\n\t" + fixed("/apikeys/*"), false},
		{"handle /docs/* {\n\t\tencode\n\t}\n\t" + fixed("/apikeys/*"), false},
		{"@a {\n\t\tpath /apikeys/*\n\t\tmethod GET\n\t}\n\thandle @a {\n\t\tencode\n\t}\n\t" +
			"@b not {\n\t\tpath /apikeys/*\n\t\tmethod GET\n\t}\n\t" + fixed("@b") + "\n\t" +
			fixed("/apikeys/*"), true},
		{fixed("") + "\n\thandle /other {\n\t\tencode\n\t}", false}, // the first one always runs
		{"request_header HEADER ^a.*$ fixed", true},
		{"request_header HEADER ^a.*$ fixed\n\trequest_header HEADER fixed", false},
		{"forward_auth localhost:1 {\n\t\turi /\n\t\tcopy_headers HEADER\n\t\t@no status 401\n\t\t" +
			"handle_response @no {\n\t\t\tredir * /login\n\t\t}\n\t}", false},
		{"forward_auth localhost:1 {\n\t\turi /\n\t\tcopy_headers HEADER\n\t\t@no status 401\n\t\t" +
			"handle_response @no {\n\t\t\trequest_header X-Other fixed\n\t\t}\n\t}", true},
		{"forward_auth localhost:1 {\n\t\turi /\n\t\tcopy_headers HEADER\n\t\t@no status 401\n\t\t" +
			"handle_response @no {\n\t\t\terror 403\n\t\t}\n\t}", false},
		{"forward_auth localhost:1 {\n\t\turi /\n\t\tcopy_headers HEADER\n\t\t@no status 401\n\t\t" +
			"handle_response @no {\n\t\t\tcopy_response 403\n\t\t}\n\t}", false},

		// With a rewrite after the matcher, which saw another path.
		{forward("/apikeys/*") + "\n\turi replace /x/ /", true},
		{"uri replace /x/ /\n\t" + forward("/apikeys/*"), false},
		{forward("") + "\n\turi replace /x/ /", false},
		{forward("/apikeys/*") + "\n\troute /x/* {\n\t\turi replace /x/ /\n\t}", true},
		{forward("/apikeys/*") + "\n\troute /x/* {\n\t\turi replace /x/ /\n\t\trespond a\n\t}",
			false},
		{forward("/apikeys/*") + "\n\thandle_path /static/* {\n\t\tfile_server\n\t}", false},
		{forward("/apikeys/*") + "\n\thandle_path /x/* {\n\t\tfile_server {\n\t\t\tpass_thru\n" +
			"\t\t}\n\t}", true},
		{"route /apikeys/* {\n\t\t" + forward("") + "\n\t\turi replace v2 v1\n\t}", false},
		{fixed("/apikeys/*") + "\n\thandle_path /x/* {\n\t\tencode\n\t}", true},
		{"handle_path /x/* {\n\t\tencode\n\t}\n\t" + fixed("/apikeys/*"), true},
		{fixed("/apikeys/*") + "\n\tforward_auth localhost:1 {\n\t\turi /\n\t\t@ok status 2xx\n\t\t" +
			"handle_response @ok {\n\t\t\turi replace /x/ /\n\t\t}\n\t}", true},

		// With a value that the client chooses.
		{"request_header HEADER {query.user}", true},
		{"request_header HEADER {header.HEADER}", true},
		{"request_header HEADER cn={cookie.user},dc=test", true},
		{"request_header HEADER {header.X-Other}\n\trequest_header -X-Other", true},
		{"request_header -X-Other\n\trequest_header HEADER {header.X-Other}", false},
		{"request_header HEADER {http.auth.user.id}", false},
		{forward("") + "\n\trequest_header +HEADER {query.user}", true},
		{forward("") + "\n\trequest_header /other HEADER {query.user}", true},
		{forward("") + "\n\trequest_header HEADER a {path}", true},
		{forward("") + "\n\trequest_header HEADER a b", false},
		{"vars user {header.X-Other}\n\trequest_header HEADER {vars.user}", true},
		{"vars user {http.auth.user.id}\n\trequest_header HEADER {vars.user}", false},
		{"request_header HEADER {vars.user}\n\tvars user {query.user}", false},
		{"map {http.auth.user.id} {user} {\n\t\tada admin\n\t}\n\t" +
			"request_header HEADER {user}", false},
		{"map {header.X-Other} {user} {\n\t\tada admin\n\t}\n\trequest_header HEADER {user}", true},
		{"map {http.auth.user.id} {user} {\n\t\tdefault {host}\n\t}\n\t" +
			"request_header HEADER {user}", true},
		{"map {user} {user} {\n\t\tada admin\n\t}\n\trequest_header HEADER {user}", false},
		{"map {http.auth.user.id} {user} {\n\t\tdefault {host}\n\t}\n\t" +
			"map {http.auth.user.id} {user} {\n\t\tdefault a\n\t}\n\t" +
			"request_header HEADER {user}", true}, // the first one decides
		{"request_header HEADER {http.matchers.file.relative}", true},
		{"request_header HEADER {http.url_pattern.pathname.user}", true},
		{"@u path_regexp u ^/apikeys/(.*)\n\trequest_header @u X-A a\n\t" +
			"request_header HEADER {re.1}", true},
		{"@u expression path_regexp('u', '(.*)')\n\trequest_header @u X-A a\n\t" +
			"request_header HEADER {re.u.1}", true},
		{"@u not path_regexp u ^/apikeys/v1/(.*)\n\trequest_header @u X-A a\n\t" +
			"request_header HEADER {re.u.1}", true},
		{forward("") + "\n\t@u header_regexp u HEADER (.*)@\n\t@v path_regexp v (.*)\n\t" +
			"request_header @v X-A a\n\trequest_header @u HEADER {re.u.1}", false},
		{"@u path_regexp u ^/apikeys/(.*)\n\trequest_header @u HEADER {re.u.1}", true},
		{"@u header_regexp u X-Other (.*)\n\trequest_header @u X-A a\n\t" +
			"request_header HEADER {re.u.1}", true},
		{forward("") + "\n\t@u header_regexp u HEADER (.*)@\n\t" +
			"request_header @u HEADER {re.u.1}", false},
		{forward("") + "\n\t@u vars_regexp u {query.user} (.*)@\n\t" +
			"request_header @u HEADER {re.u.1}", true},
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
	started := readFile(t, g.path("caddy.log"))
	found := guarded(t, text.String())
	for i, site := range sites {
		warning := fmt.Sprintf("from the header X-Trusted-%d-End,", i)
		if strings.Contains(started, warning) != site.warns {
			t.Errorf("%q: warning at the start %v, want %v", site.before, !site.warns, site.warns)
		}
		if strings.Contains(found, warning) != site.warns {
			t.Errorf("%q: warning of doctor %v, want %v", site.before, !site.warns, site.warns)
		}
	}
}

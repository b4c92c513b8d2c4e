package caddymodule

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/command"
)

// inspected returns what doctor reads from a Caddyfile.
func inspected(t *testing.T, caddyfile string) command.Config {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		t.Fatal(err)
	}
	found, err := inspect(config)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestRefusedAdminSites checks where an api_key refuses the requests for api_keys_admin.
func TestRefusedAdminSites(t *testing.T) {
	const public = "api_key {\npublic /apikeys/*\n}\n"
	for _, test := range []struct {
		name, caddyfile string
		want            []string
	}{
		{"alone", ":8080 {\napi_keys_admin\n}\n", nil},
		{"behind api_key", ":8080 {\napi_key\napi_keys_admin\n}\n", []string{":8080"}},
		{"public", ":8080 {\n" + public + "api_keys_admin\n}\n", nil},
		{"only the console is public",
			":8080 {\napi_key {\npublic /apikeys\n}\napi_keys_admin\n}\n", []string{":8080"}},
		{"only the REST API is public",
			":8080 {\napi_key {\npublic /apikeys/v1/**\n}\napi_keys_admin\n}\n", []string{":8080"}},
		{"public in the first of two", ":8080 {\nroute {\n" + public + "api_key\napi_keys_admin\n}\n}\n",
			[]string{":8080"}},
		{"public in the second of two",
			":8080 {\nroute {\napi_key\n" + public + "api_keys_admin\n}\n}\n", []string{":8080"}},
		{"before api_key", ":8080 {\nroute {\napi_keys_admin\napi_key\n}\n}\n", nil},
		{"in another route", ":8080 {\nhandle /api/* {\napi_key\n}\nhandle /apikeys/* {\n" +
			"api_keys_admin\n}\n}\n", nil},
		{"behind a route for all paths", ":8080 {\nroute {\nroute {\napi_key\n}\napi_keys_admin\n}\n}\n",
			[]string{":8080"}},
		{"behind a route for other paths",
			":8080 {\nroute {\nroute /api/* {\napi_key\n}\napi_keys_admin\n}\n}\n", nil},
		{"one of two sites", ":8080 {\napi_key\napi_keys_admin\n}\n:8081 {\napi_keys_admin\n}\n",
			[]string{":8080"}},
		{"many sites", ":8083, :8082 {\napi_key\napi_keys_admin\n}\n:8081 {\napi_key\n" +
			"api_keys_admin\n}\n:8080 {\napi_key\napi_keys_admin\nhandle /x {\napi_keys_admin\n}\n}\n",
			[]string{":8080", ":8081", ":8082", ":8083"}},
		{"behind one of several routes", ":8080 {\nroute {\nhandle /x {\nrespond ok\n}\nhandle {\n" +
			"api_key\n}\napi_keys_admin\n}\n}\n", nil},
		{"another site", ":8080 {\napi_key\n}\n:8081 {\napi_keys_admin\n}\n", nil},
	} {
		if got := inspected(t, test.caddyfile).Refused; !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// TestInspect checks the other parts of the configuration that doctor reads.
func TestInspect(t *testing.T) {
	const site = ":8080 {\napi_key\n}\n"
	logs := func(log string) string { return "{\n" + log + "\n}\n" + site }
	for _, test := range []struct {
		caddyfile                 string
		handlers, adminSites      int
		sources, logs, namespaces []string
	}{
		{":8080 {\nrespond ok\n}\n", 0, 0, nil, []string{"default"}, nil},
		{":8080 {\napi_keys_admin\nhandle /x {\napi_keys_admin\n}\n}\n", 0, 2, nil, []string{"default"},
			nil},
		{site, 1, 0, []string{"header X-Api-Key"}, []string{"default"}, []string{"default"}},
		{":8080 {\napi_key {\nfrom bearer\nfrom cookie c\nfrom query q\nnamespace b\n}\nhandle /x {\n" +
			"api_key {\nfrom header X-Z\nnamespace a\n}\n}\n}\n", 2, 0,
			[]string{"header X-Z", "query q"}, []string{"default"}, []string{"a", "b"}},
		{":8080 {\napi_key {\nfrom basic\nnamespace home\n}\n}\n", 1, 0, nil, []string{"default"}, nil},
		{":8080 {\napi_key {\nfrom basic\nnamespace {http.request.host}\n}\n}\n", 1, 0, nil,
			[]string{"default"}, nil},
		{":8080 {\napi_key {\nfrom basic\nnamespace_path /{namespace}/**\n}\n}\n", 1, 0, nil,
			[]string{"default"}, []string{"default"}},
		{logs("log {\nformat api_keys\n}"), 1, 0, []string{"header X-Api-Key"}, nil,
			[]string{"default"}},
		{logs("log {\nformat append {\nwrap api_keys\na b\n}\n}"), 1, 0, []string{"header X-Api-Key"},
			nil, []string{"default"}},
		{logs("log {\nformat append {\nwrap json\na b\n}\n}"), 1, 0, []string{"header X-Api-Key"},
			[]string{"default"}, []string{"default"}},
		{logs("log {\noutput discard\n}\nlog other {\ninclude admin httpx\n}\n" +
			"log third {\ninclude http.log.access\n}\nlog fourth {\ninclude http\n}\n"), 1, 0,
			[]string{"header X-Api-Key"}, []string{"fourth", "third"}, []string{"default"}},
		{logs("log {\noutput discard\n}\nlog other {\nexclude http\n}\nlog third {\nexclude http.log\n}\n" +
			"log fourth {\nexclude admin\n}"), 1, 0,
			[]string{"header X-Api-Key"}, []string{"fourth", "third"}, []string{"default"}},
	} {
		got := inspected(t, test.caddyfile)
		if got.Handlers != test.handlers || got.AdminSites != test.adminSites ||
			!slices.Equal(got.ExposedSources, test.sources) ||
			!slices.Equal(got.UnredactedLogs, test.logs) ||
			!slices.Equal(got.Namespaces, test.namespaces) {
			t.Errorf("%s\n%+v", test.caddyfile, got)
		}
	}
}

// TestInspectDocuments checks which operations of a document doctor reports as left out.
func TestInspectDocuments(t *testing.T) {
	file := document(t, " /a-b: {get: {}}\n /a/b: {get: {}}\n /c: {get: {}}")
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(
		[]byte(":8080 {\napi_key {\nopenapi "+file+" {\nskip_unsupported\n}\n}\n}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := inspect(config); err != nil || found.Unread != nil || len(found.LeftOut) != 2 {
		t.Errorf("%v %+v", err, found)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if found, err := inspect(config); err != nil || found.Unread == nil || found.LeftOut != nil {
		t.Errorf("without the document: %v %+v", err, found)
	}
	if found := inspected(t, ":8080 {\napi_key {\nopenapi "+
		document(t, " /c: {get: {}}")+"\n}\n}\n"); found.Unread != nil || found.LeftOut != nil {
		t.Errorf("without skip_unsupported: %+v", found)
	}
}

func TestFirstOf(t *testing.T) {
	for length, want := range map[int]int{0: 0, 99: 99, 100: 100, 101: 101, 150: 101} {
		list := make([]string, length)
		got := firstOf(list)
		if len(got) != want {
			t.Errorf("%d of %d", len(got), length)
		}
		if length > 100 && got[100] != fmt.Sprintf("and %d more", length-100) {
			t.Errorf("the last of %d is %q", length, got[100])
		}
	}
}

func TestLogsThatReceiveHTTP(t *testing.T) {
	for _, test := range []struct {
		include, exclude []string
		want             bool
	}{
		{nil, nil, true}, {nil, []string{"http"}, false}, {nil, []string{"http.log"}, true},
		{nil, []string{"admin"}, true}, {[]string{"http"}, nil, true},
		{[]string{"http.log.access"}, nil, true}, {[]string{"httpx"}, nil, false},
		{[]string{"admin"}, nil, false},
		{[]string{"http.log.access"}, []string{"http.log"}, false},
		{[]string{"http.log.access"}, []string{"http.lo"}, true},
		{[]string{"http"}, []string{"http.log"}, true},
	} {
		if got := (logConfig{Include: test.include, Exclude: test.exclude}).receivesHTTP(); got !=
			test.want {
			t.Errorf("include %q, exclude %q: %v", test.include, test.exclude, got)
		}
	}
}

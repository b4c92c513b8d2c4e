package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

const davOptions = "namespace_path /dav/{namespace}/**\nmethods write MOVE COPY\npublic " +
	"/dav/acme/pub/**\n"

// TestDestination checks the Destination of MOVE and COPY (RFC 4918 §10.3), a second target.
func TestDestination(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("write")
	_, reader := h.key("read")
	handler := h.handler(davOptions)
	for _, test := range []struct {
		destination, outcome string
	}{
		{"/dav/acme/g", "ok"},
		{"http://api.example.com/dav/acme/g", "ok"},
		{"http://api.example.com:80/dav/acme/g", "ok"},
		{"https://api.example.com/dav/acme/g", "ok"}, // a proxy may terminate TLS
		{"https://api.example.com:443/dav/acme/g", "ok"},
		{"HTTP://API.example.com/dav/acme/g", "ok"},
		{"/dav/acme/g?x=1", "ok"},
		{"/dav/%61cme/g", "ok"},
		{"http://api.example.com/dav/rival/g", "forbidden"},
		{"http://api.example.com/dav/globex/g", "forbidden"},
		{"/dav/globex/g", "forbidden"},
		{"/dav/%67lobex/g", "forbidden"},
		{"/DAV/globex/g", "forbidden"},
		{"/elsewhere", "forbidden"},
		{"http://api.example.com", "forbidden"},
		{"http://other.example.com/dav/acme/g", "forbidden"},
		{"http://api.example.com:8080/dav/acme/g", "forbidden"},
		{"http://api.example.com:443/dav/acme/g", "forbidden"},
		{"http://api.example.com./dav/acme/g", "forbidden"},
		{"http://u@api.example.com/dav/acme/g", "forbidden"},
		{`http://api.example.com\@other.example.com/dav/acme/g`, "forbidden"},
		{"http:///dav/acme/g", "forbidden"},
		{"ftp://api.example.com/dav/acme/g", "forbidden"},
		{"http:/dav/acme/g", "forbidden"},
		{"dav/acme/g", "forbidden"},
		{"g", "forbidden"},
		{"*", "forbidden"},
		{"", "bad_target"},
		{"//api.example.com/dav/acme/g", "bad_target"},
		{"/dav/acme/../globex/g", "bad_target"},
		{"http://api.example.com/dav/acme/%2e%2e/globex/g", "bad_target"},
		{"/dav/acme/..%2fglobex/g", "bad_target"},
		{"/dav/acme%2Fg", "bad_target"},
		{"/dav/acme/g;x", "bad_target"},
		{"/dav/acme/g#x", "bad_target"},
		{`/dav/acme/..\globex`, "bad_target"},
		{"/dav/acme/g%00", "bad_target"},
		{"/dav/acme/g.", "bad_target"},
		{"/dav/acme/g?/../../globex", "bad_target"},
		{"/dav/acme/g, /dav/globex/g", "bad_target"},
		{"/dav/acme/g,/dav/globex/g", "bad_target"},
		{"/dav/acme/g,http://api.example.com/dav/globex/g", "bad_target"},
		{"/dav/acme/g,h", "ok"},
		{"/dav/acme/g h", "bad_target"},
		{"/dav/acme/g\nDestination: /dav/acme/g", "bad_target"},
		{"/dav/acme/g\ndestination: /dav/globex/g", "bad_target"},
	} {
		for _, method := range []string{"MOVE", "COPY"} {
			a := h.send(handler, method+" /dav/acme/f\nDestination: "+
				test.destination+keyLine(token))
			if a.outcome() != test.outcome || (a.seen != nil) != (test.outcome == "ok") {
				t.Errorf("%s to %q: %s, want %s", method, test.destination, a.outcome(),
					test.outcome)
			}
			if a.seen != nil && a.seen.Header.Get("X-Apikey-Namespace") != "acme" {
				t.Errorf("%q: the namespace is that of the path, not %s", test.destination,
					a.seen.Header.Get("X-Apikey-Namespace"))
			}
		}
	}
	for wire, want := range map[string]string{
		"MOVE /dav/acme/f": "ok", // no second target
		// The header has no meaning there.
		"PUT /dav/acme/f\nDestination: /dav/globex/g":                        "ok",
		"MOVE /dav/globex/f\nDestination: /dav/acme/g":                       "forbidden",
		"MOVE /dav/acme/pub/f\nDestination: /dav/acme/g":                     "ok",
		"MOVE /dav/acme/pub/f\nDestination: /dav/globex/g":                   "forbidden",
		"COPY /dav/acme/f\nDestination: /dav/acme/pub/g":                     "ok",
		"COPY /dav/acme/pub/f\nDestination: http://x.example/dav/acme/pub/g": "forbidden",
	} {
		if a := h.send(handler, wire+keyLine(token)); a.outcome() != want {
			t.Errorf("%s: %s, want %s", wire, a.outcome(), want)
		}
	}
	for wire, want := range map[string]string{
		"MOVE /dav/acme/pub/f\nDestination: /dav/acme/pub/g":   "public",
		"MOVE /dav/acme/pub/f\nDestination: /dav/acme/g":       "missing",
		"MOVE /dav/acme/f\nDestination: http://x.example/":     "missing",
		"MOVE /dav/acme/pub/f\nDestination: /dav/acme/../rest": "bad_target",
		"LOCK /dav/acme/f\nDestination: /../":                  "method",
	} {
		if a := h.send(handler, wire); a.outcome() != want {
			t.Errorf("without a key, %s: %s, want %s", wire, a.outcome(), want)
		}
	}

	// Even if COPY is mapped to read, its Destination requires write.
	reads := h.handler("namespace_path /dav/{namespace}/**\nmethods read COPY")
	a := h.send(reads, "COPY /dav/acme/f\nDestination: /dav/acme/g"+keyLine(reader))
	if a.outcome() != "forbidden" ||
		!strings.Contains(a.body, `"needed":"write","namespace":"acme"`) ||
		!strings.Contains(a.body, "header Destination") {
		t.Errorf("COPY with only read: %s %s", a.outcome(), a.body)
	}
	if a := h.send(h.handler(""), "MOVE /dav/acme/f\nDestination: /x"+
		keyLine(token)); a.outcome() != "method" {
		t.Errorf("not mapped: %s", a.outcome())
	}
}

// TestDestinationRequiresPutPermission checks that the Destination requires the permission for PUT.
func TestDestinationRequiresPutPermission(t *testing.T) {
	h := newFixture(t)
	_, mover := h.key("files:move files:put")
	_, half := h.key("files:move")
	const table = "namespace acme\nmethods write MOVE\nstrict\noperation files:move write MOVE " +
		"/files/*\n"
	for _, test := range []struct{ name, options, destination, token, outcome string }{
		{"both permissions", table + "operation files:put write PUT /files/*", "/files/b", mover,
			"ok"},
		{"without PUT", table + "operation files:put write PUT /files/*", "/files/b", half,
			"forbidden"},
		{"PUT is not declared", table, "/files/b", mover, "forbidden"},
		{"undeclared destination", table + "operation files:put write PUT /files/*", "/other/b",
			mover,
			"forbidden"},
	} {
		a := h.send(h.handler(test.options),
			"MOVE /files/a\nDestination: "+test.destination+keyLine(test.token))
		if a.outcome() != test.outcome {
			t.Errorf("%s: %s, want %s", test.name, a.outcome(), test.outcome)
		}
	}
	anonymous := h.handler(table + "operation files:put write PUT /files/*\noptional\nforeign pass")
	for destination, want := range map[string]struct{ outcome, detail string }{
		"/files/b":                  {"anonymous", ""},
		"/other/b":                  {"forbidden", "declares no such operation for the resource"},
		"https://x.example/files/b": {"forbidden", "Destination names a resource that is not on"},
	} {
		a := h.send(anonymous, "MOVE /files/a\nDestination: "+destination)
		if a.outcome() != want.outcome || !strings.Contains(a.body, want.detail) {
			t.Errorf("without a key to %s: %s %s, want %s", destination, a.outcome(), a.body, want)
		}
	}
	if a := h.send(anonymous, "MOVE /files/a\nDestination: /other/b"+
		keyLine("another-issuers-token")); a.outcome() != "forbidden" {
		t.Errorf("foreign: %s", a.outcome())
	}
}

func TestAlsoJudge(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("write", func(s *manage.KeySpec) {
		s.Grants = []keystore.Grant{{Namespace: "globex",
			Permissions: []keystore.Permission{{Action: "read"}}}}
	})
	const options = "namespace_path /{namespace}/**\npublic /shared/**\nalso_judge " +
		"X-Amz-Copy-Source X-Copy-From\nalso_judge write X-Move-To\n"
	for headers, want := range map[string]string{
		"":                                       "ok",
		"X-Amz-Copy-Source: /globex/key":         "ok",
		"X-Amz-Copy-Source: globex/key":          "ok",
		"X-Amz-Copy-Source: %67lobex/key":        "ok",
		"X-Amz-Copy-Source: /shared/key":         "ok",
		"X-Copy-From: globex/a%20key?versionId=": "ok",
		"X-Amz-Copy-Source: http://api.example.com/globex/key": "ok",
		// Permission to write does not include read.
		"X-Amz-Copy-Source: /acme/key":                               "forbidden",
		"X-Amz-Copy-Source: /rival/key":                              "forbidden",
		"X-Amz-Copy-Source: rival/key":                               "forbidden",
		"X-Amz-Copy-Source: %72ival/key":                             "forbidden",
		"X-Amz-Copy-Source: arn:aws:s3:::globex/key":                 "forbidden",
		"X-Amz-Copy-Source: http://x.example/globex/key":             "forbidden",
		"X-Amz-Copy-Source:":                                         "bad_target",
		"X-Amz-Copy-Source: globex%2fkey":                            "bad_target",
		"X-Amz-Copy-Source: globex/../rival/key":                     "bad_target",
		"X-Amz-Copy-Source: globex/key?/../../rival/key":             "bad_target",
		"X-Amz-Copy-Source: globex/key?%2f..%2frival":                "bad_target",
		"X-Amz-Copy-Source: //globex/key":                            "bad_target",
		"X-Amz-Copy-Source: /globex/a\nX-Amz-Copy-Source: /globex/b": "bad_target",
		"X-Amz-Copy-Source: /globex/a\nX_Amz_Copy_Source: /globex/b": "bad_target",
		"X_Amz_Copy_Source: /rival/b":                                "forbidden",
		"X-Amz-Copy-Source: /globex/a\nX-Copy-From: /rival/b":        "forbidden",
		"X-Move-To: /acme/key":                                       "ok",
		"X-Move-To: /globex/key":                                     "forbidden",
	} {
		a := h.send(h.handler(options+"encoded_slash allow"),
			"PUT /acme/key"+keyLine(token)+"\n"+headers)
		if a.outcome() != want {
			t.Errorf("%s: %s, want %s", headers, a.outcome(), want)
		}
	}
	// Swift names the target of a COPY without a leading slash.
	swift := h.handler("namespace_path /{namespace}/**\nmethods write COPY\nalso_judge write " +
		"Destination")
	for destination, want := range map[string]string{"acme/b": "ok", "/acme/b": "ok",
		"globex/b": "forbidden"} {
		if a := h.send(swift, "COPY /acme/a\nDestination: "+
			destination+keyLine(token)); a.outcome() != want {
			t.Errorf("Destination: %s: %s, want %s", destination, a.outcome(), want)
		}
	}
	home := h.handler("namespace home\nalso_judge X-Copy-From")
	if a := h.send(home, "PUT /a\nX-Copy-From: /b"+keyLine(token)); a.outcome() != "forbidden" ||
		!strings.Contains(a.body, `"needed":"read","namespace":"acme"`) {
		t.Errorf("namespace home: %s %s", a.outcome(), a.body)
	}
}

// TestTargetNamespaces checks in which namespace a second target is.
func TestTargetNamespaces(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read write")
	for _, test := range []struct{ options, wire, outcome string }{
		{"namespace home\nnamespace_path /v1/{namespace}/**", "PUT /a\nX-Copy-From: /b", "ok"},
		{"namespace home\nnamespace_path /v1/{namespace}/**", "PUT /a\nX-Copy-From: /v1/acme/b",
			"ok"},
		{"namespace home\nnamespace_path /v1/{namespace}/**", "PUT /a\nX-Copy-From: /v1/globex/b",
			"forbidden"},
		// An empty placeholder is no namespace, not the key's own.
		{"namespace {http.request.header.X-Tenant}\nnamespace_path /v1/{namespace}/**",
			"PUT /v1/acme/a\nX-Copy-From: /b", "forbidden"},
		{"namespace {http.request.header.X-Tenant}\nnamespace_path /v1/{namespace}/**",
			"PUT /v1/acme/a\nX-Copy-From: /b\nX-Tenant: acme", "ok"},
	} {
		a := h.send(h.handler(test.options+"\nalso_judge X-Copy-From"), test.wire+keyLine(token))
		if a.outcome() != test.outcome {
			t.Errorf("%s, %s: %s, want %s", test.options, test.wire, a.outcome(), test.outcome)
		}
	}

	counted := make(map[string]uint64)
	h.keys.RequestCounts(func(namespace string, o keystore.Outcome, n uint64) {
		if o == keystore.Forbidden {
			counted[namespace] += n
		}
	})
	if counted["globex"] != 1 || counted["acme"] != 0 {
		t.Errorf("refusals are counted in %v", counted)
	}
}

// TestHeaderWithoutLines imitates a handler that has emptied a header.
func TestHeaderWithoutLines(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("write")
	a := h.send(h.handler("namespace acme\nalso_judge X-Copy-From"), "PUT /a"+keyLine(token),
		func(r *http.Request) { r.Header["X-Copy-From"] = nil })
	if a.outcome() != "ok" {
		t.Error(a.outcome())
	}
}

// TestNamespaceFromThePath checks that a placeholder for a part of the path is refused only with
// second targets.
func TestNamespaceFromThePath(t *testing.T) {
	const namespace = "{http.regexp.tenant.1}"
	for name, test := range map[string]struct {
		handler Handler
		want    bool
	}{
		"no targets":   {Handler{}, true},
		"also_judge":   {Handler{AlsoJudge: []JudgedHeader{{Header: "X-Copy-From"}}}, false},
		"a MOVE":       {Handler{Methods: map[string]string{"MOVE": "write"}}, false},
		"no MOVE":      {Handler{Methods: map[string]string{"MOVE": "none"}}, true},
		"other method": {Handler{Methods: map[string]string{"LOCK": "write"}}, true},
	} {
		test.handler.Namespace = namespace
		if _, err := test.handler.compile(); (err == nil) != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForwardedDestination checks that a proxy must forward the Destination and may send the host.
func TestForwardedDestination(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("write")
	handler := h.handler("namespace_path /dav/{namespace}/**\nmethods write MOVE COPY\nforwarded")
	for headers, want := range map[string]string{
		"":                           "bad_target",
		"Destination: /dav/acme/g":   "ok",
		"Destination: /dav/globex/g": "forbidden",
		"Destination: http://dav.example.com/dav/acme/g":                                    "forbidden",
		"Destination: http://dav.example.com/dav/acme/g\nX-Forwarded-Host: dav.example.com": "ok",
		"Destination: http://dav.example.com/dav/globex\nX-Forwarded-Host: dav.example.com": "forbidden",
		"Destination: http://api.example.com/dav/acme/g\nX-Forwarded-Host: dav.example.com": "forbidden",
	} {
		a := h.send(handler, "GET /auth\nX-Forwarded-Method: MOVE\nX-Forwarded-Uri: /dav/acme/f"+
			keyLine(token)+"\n"+headers, trustedPeer)
		if a.outcome() != want {
			t.Errorf("%s: %s, want %s", headers, a.outcome(), want)
		}
	}
	// also_judge applies to other methods too, which need no Destination.
	judged := h.handler("namespace_path /dav/{namespace}/**\nmethods write MOVE COPY PUT\n" +
		"also_judge write Destination\nforwarded")
	for method, want := range map[string]string{"MOVE": "bad_target", "COPY": "bad_target",
		"PUT": "ok"} {
		a := h.send(judged, "GET /auth\nX-Forwarded-Method: "+method+
			"\nX-Forwarded-Uri: /dav/acme/f"+keyLine(token), trustedPeer)
		if a.outcome() != want {
			t.Errorf("%s with also_judge and without Destination: %s, want %s", method,
				a.outcome(), want)
		}
	}
	// A client cannot set the host.
	direct := h.handler(davOptions)
	if a := h.send(direct,
		"MOVE /dav/acme/f\nDestination: http://x.example/dav/acme/g\nX-Forwarded-Host: x.example"+
			keyLine(token)); a.outcome() != "forbidden" {
		t.Errorf("X-Forwarded-Host of a client: %s", a.outcome())
	}
}

package caddymodule

import (
	"encoding/base64"
	"slices"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// TestCredentialForms checks which forms of a credential each source accepts.
func TestCredentialForms(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	for _, test := range []struct{ name, options, headers, outcome string }{
		{"a scheme without a key, and a key", "", "Authorization: Bearer\nX-API-Key: " + token,
			"ambiguous"},
		{"a shorter scheme", "", "Authorization: Bear", "missing"},
		{"another scheme, and a key", "", "Authorization: Digest x\nX-API-Key: " + token, "ok"},
		{"a longer scheme, and a key", "", "Authorization: Bearers x\nX-API-Key: " + token, "ok"},
		{"a tab behind the scheme", "", "Authorization: Bearer\t" + token, "missing"},
		{"spaces behind the scheme", "", "Authorization: Bearer   " + token, "ok"},

		{"a foreign token of all characters", "foreign pass", "Authorization: Bearer az.AZ-09_~+/==",
			"foreign"},
		{"a foreign token with = within it", "foreign pass", "Authorization: Bearer a=b", "malformed"},
		{"a foreign token of =", "foreign pass", "Authorization: Bearer ==", "malformed"},
		{"a foreign token with a comma", "foreign pass", "Authorization: Bearer a,b", "malformed"},

		{"the user without a colon", "from basic", "Authorization: Basic " +
			base64.StdEncoding.EncodeToString([]byte(token)), "malformed"},
		{"neither user nor colon", "from basic", "Authorization: Basic", "missing"},
		{"user and password", "from basic", "Authorization: Basic " + basic("x:"+token), "ok"},
		{"a colon in the password", "from basic", "Authorization: Basic " + basic("x:y:"+token),
			"malformed"},

		{"a cookie in quotes", "from cookie key", `Cookie: key="` + token + `"`, "ok"},
		{"a cookie with an opening quote", "from cookie key", `Cookie: key="` + token, "malformed"},
		{"a cookie with a closing quote", "from cookie key", `Cookie: key=` + token + `"`,
			"malformed"},
		{"a cookie with another opening quote", "from cookie key", `Cookie: key='` + token + `"`,
			"malformed"},
		{"a cookie with another closing quote", "from cookie key", `Cookie: key="` + token + `'`,
			"malformed"},
		{"a cookie of one quote", "from cookie key", `Cookie: key="`, "malformed"},
		{"an empty cookie in quotes", "from cookie key", `Cookie: key=""`, "missing"},
		{"a cookie with spaces", "from cookie key", "Cookie: a=b;\tkey = " + token + " ; c", "ok"},
		{"a longer name of a cookie", "from cookie key", "Cookie: keys=" + token, "missing"},
		{"a cookie without a value", "from cookie key", "Cookie: key", "missing"},
		{"a cookie without a value, and a key", "from cookie key\nfrom bearer",
			"Cookie: key" + keyLine(token), "ambiguous"},
	} {
		if a := h.send(h.handler("namespace acme\n"+test.options),
			"GET /\n"+test.headers); a.outcome() != test.outcome {
			t.Errorf("%s: %s, want %s", test.name, a.outcome(), test.outcome)
		}
	}
}

// TestDeclaredSources checks that the log encoder learns of every source.
func TestDeclaredSources(t *testing.T) {
	h := newFixture(t)
	got := h.handler("from basic\nfrom header x-key Token\nfrom query key\nfrom cookie session").
		rules.sources.declared()
	if want := []redact.Source{
		{Kind: redact.Header, Name: "Authorization"}, {Kind: redact.Header, Name: "X-Key"},
		{Kind: redact.Query, Name: "key"}, {Kind: redact.Cookie, Name: "session"},
	}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

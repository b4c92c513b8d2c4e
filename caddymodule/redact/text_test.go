package redact

import (
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// randomBody returns a string with the shape of a token's body. No key has it.
func randomBody() string {
	body := make([]byte, tokenBody)
	for i := range body {
		body[i] = base62[rand.IntN(len(base62))]
	}
	return string(body)
}

func TestRedactTokens(t *testing.T) {
	body := randomBody()
	encodeAll := func(text string) string {
		var out strings.Builder
		for _, c := range []byte(text) {
			out.WriteString("%" +
				string("0123456789abcdef"[c>>4]) + string("0123456789abcdef"[c&15]))
		}
		return out.String()
	}
	for name, row := range map[string]struct{ in, want string }{
		"alone":                   {"ak_" + body, "ak_REDACTED"},
		"a member's":              {"akm_" + body, "akm_REDACTED"},
		"prefix of several words": {"ak_live_eu1_" + body, "ak_live_eu1_REDACTED"},
		"longest prefix": {"abcdefghijklmnopqrstuvwx_" + body,
			"abcdefghijklmnopqrstuvwx_REDACTED"},
		"in a sentence": {"the key ak_" + body + ", sent twice",
			"the key ak_REDACTED, sent twice"},
		"several": {"ak_" + body + " b_" + body + "/c_" + body,
			"ak_REDACTED b_REDACTED/c_REDACTED"},
		"pasted twice":  {"ak_" + body + "ak_" + body + " x", "ak_REDACTED_REDACTED x"},
		"text after it": {"ak_" + body + "expired", "ak_REDACTED"},
		"after an escaped newline": {`{"msg":"line\nak_` + body + `\n"}`,
			`{"msg":"line\nak_REDACTED\n"}`},
		"JSON in JSON": {`"{\\\"a\\\":\\\"ak_` + body + `\\\"}"`,
			`"{\\\"a\\\":\\\"ak_REDACTED\\\"}"`},
		"HTML-safe JSON": {`"x\u0026ak_` + body + `\u0026y"`,
			`"x\u0026ak_REDACTED\u0026y"`},
		"escaped underscore": {`ak\u005f` + body + ` ak\\\\u005f` + body,
			`ak\u005fREDACTED ak\\\\u005fREDACTED`},
		"between percent-encoded delimiters": {"/x%3Fkey%3Dak_" + body + "%26a%3Db",
			"/x%3Fkey%3Dak_REDACTED%26a%3Db"},
		"percent-encoded underscore": {"ak%5F" + body + "%20ak%255f" + body + "%3d",
			"ak%5FREDACTED%20ak%255fREDACTED%3d"},
		"percent-encoded completely": {"/" + encodeAll("ak_"+body) + "/",
			"/" + encodeAll("ak_") + "REDACTED/"},
		"after a percent sign": {"100%ad_" + body, "100%ad_REDACTED"},
		"too short":            {"ak_" + body[1:] + " x", "ak_" + body[1:] + " x"},
		"interrupted": {"ak_" + body[:30] + "-" + body[30:],
			"ak_" + body[:30] + "-" + body[30:]},
		"hexadecimal digest": {"sha256_" + strings.Repeat("0a1b", 16),
			"sha256_" + strings.Repeat("0a1b", 16)},
		"long base62 word":   {body + body, body + body},
		"empty":              {"", ""},
		"only percent signs": {strings.Repeat("%", 200), strings.Repeat("%", 200)},
		"only backslashes":   {strings.Repeat(`\`, 200), strings.Repeat(`\`, 200)},
		"only underscores":   {strings.Repeat("_", 200), strings.Repeat("_", 200)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := string(redactTokens([]byte(row.in))); got != row.want {
				t.Errorf("redactTokens(%q)\n got %q\nwant %q", row.in, got, row.want)
			}
			// redactTokens examines every 59th byte: a token must be found at every offset.
			for pad := range 2 * tokenBody {
				padding := strings.Repeat(". ", pad)[:pad]
				if got := string(redactTokens([]byte(padding + row.in + padding))); got != padding+row.want+padding {
					t.Fatalf("with %d bytes around it:\n got %q\nwant %q", pad, got,
						padding+row.want+padding)
				}
			}
		})
	}
}

func TestRedactParams(t *testing.T) {
	sources := redactedSources.Load().with([]Source{
		{Query, "api_key"}, {Query, "access token"}, {Query, "k[0]"},
		{Query, "schlüssel"},
		{Cookie, "session"}, {Query, "both"}, {Cookie, "both"},
	})
	for _, row := range []struct{ in, want string }{
		{"/x?api_key=abcdefgh", "/x?api_key=REDACTED"},
		{"/x?a=1&api_key=abcdefgh&b=2#f", "/x?a=1&api_key=REDACTED&b=2#f"},
		{"/x?api_key=abcdefgh#f", "/x?api_key=REDACTED#f"},
		{"/x?api_key=1st&api_key=2nd", "/x?api_key=REDACTED&api_key=REDACTED"},
		{"/x?api_key=", "/x?api_key=REDACTED"},
		{"api_key=abcdefgh", "api_key=REDACTED"},
		{"/x?API_KEY=abcdefgh", "/x?API_KEY=REDACTED"},
		{"/x?%61pi%5Fke%79=abcdefgh&c", "/x?%61pi%5Fke%79=REDACTED&c"},
		{"/x?%2561pi_key=abcdefgh&c", "/x?%2561pi_key=REDACTED&c"},
		{"/x?access+token=ab&access%20token=cd",
			"/x?access+token=REDACTED&access%20token=REDACTED"},
		{"/x?k[0]=ab&k%5B0%5D=cd", "/x?k[0]=REDACTED&k%5B0%5D=REDACTED"},
		{"/x?schl%C3%BCssel=ab&schlüssel=cd", "/x?schl%C3%BCssel=REDACTED&schlüssel=REDACTED"},
		{"/x?api_key=ab%26cd%20ef%23gh", "/x?api_key=REDACTED"},
		{"/x?api_key=ab\"c'd;e,f)g=h&i", "/x?api_key=REDACTED&i"},
		{`/x?api_key=ab\u0026cd\n&e`, "/x?api_key=REDACTED&e"},
		{"/login?to=%2Fx%3Fapi_key%3Dab%2526cd%26b%3D2&c=3",
			"/login?to=%2Fx%3Fapi_key%3DREDACTED%26b%3D2&c=3"},
		{"/login?to=%252Fx%253Fapi_key%253Dabcd&c=3",
			"/login?to=%252Fx%253Fapi_key%253DREDACTED&c=3"},
		{`Get "http://up/x?api_key=abcdefgh": EOF`, `Get "http://up/x?api_key=REDACTED EOF`},
		{`{"u":"/?a=1\u0026api_key=abcdefgh"}`, `{"u":"/?a=1\u0026api_key=REDACTED`},
		{"a=b; session=ab\"cd,ef&gh; c=d", "a=b; session=REDACTED; c=d"},
		{"both=ab&cd;ef gh", "both=REDACTED gh"},

		{"/x?my_api_key=abc", "/x?my_api_key=abc"},
		{"/x?api_keys=abc", "/x?api_keys=abc"},
		{"/x?api_key", "/x?api_key"},
		{"/api_key/abc", "/api_key/abc"},
		{"/x?a=%zz&b=%", "/x?a=%zz&b=%"},
		{"text/html;q=0.9", "text/html;q=0.9"},
		{"", ""},
	} {
		if got := sources.redactParams(row.in); got != row.want {
			t.Errorf("redactParams(%q)\n got %q\nwant %q", row.in, got, row.want)
		}
	}
	if text := "/x?api_key=abc"; redactedSources.Load().redactParams(text) != text {
		t.Error("an undeclared parameter was redacted")
	}
}

// TestMayContainParam puts the bytes of a parameter at every place. The bytes around them differ
// from them by one bit.
func TestMayContainParam(t *testing.T) {
	sources := new(sourceSet).with([]Source{{Query, "key"}})
	for length := range 30 {
		for _, filler := range "a<$]\u00bd\u00a5\u00dc\x00\u00ff" {
			text := strings.Repeat(string([]byte{byte(filler)}), length)
			if sources.mayContainParam(text) {
				t.Errorf("%q may contain a parameter", text)
			}
			for at := range length {
				for _, c := range []string{"%", "\\", "="} {
					text := text[:at] + c + text[at+1:]
					if got := sources.mayContainParam(text); got != (c != "=") {
						t.Errorf("%q: %v", text, got)
					}
					if at > 0 && !sources.mayContainParam(text[:at-1]+"y"+text[at:]) {
						t.Errorf("%q, with y before %s: false", text, c)
					}
				}
			}
		}
	}
}

func TestDeclaredHeaders(t *testing.T) {
	sources := (&sourceSet{}).with([]Source{{Header, "Authorization"},
		{Header, "Proxy-Authorization"}, {Header, "X-API-Key"}})
	withCookie := sources.with([]Source{{Cookie, "session"}})
	for _, row := range []struct {
		field              string
		want, wantedCookie bool
	}{
		{"X-Api-Key", true, true},
		{"x-api-key", true, true},
		{"X_API_KEY", true, true},
		{"HTTP_X_API_KEY", true, true},
		{"Authorization", true, true},
		{"HTTP_PROXY_AUTHORIZATION", true, true},
		{"Cookie", false, true},
		{"Set-Cookie", false, true},
		{"X-Api-Kex", false, false},
		{"X-Api-Keys", false, false},
		{"", false, false},
		{strings.Repeat("x", 100), false, false},
	} {
		if got := sources.isHeader(row.field); got != row.want {
			t.Errorf("isHeader(%q) = %v", row.field, got)
		}
		if got := withCookie.isHeader(row.field); got != row.wantedCookie {
			t.Errorf("with a cookie declared: isHeader(%q) = %v", row.field, got)
		}
	}
	long := strings.Repeat("x", 100)
	if !sources.with([]Source{{Header, long}}).isHeader(long) {
		t.Error("a long header name is not found")
	}
}

func TestDeclareSources(t *testing.T) {
	forgetSources(t)
	Declare(Source{Header, "X-One"}, Source{Query, "one"})
	first := redactedSources.Load()
	Declare(Source{Header, "x-one"}, Source{Query, "one"},
		Source{Header, ""})
	if redactedSources.Load() != first {
		t.Error("declaring the same sources again stored a new set")
	}
	Declare(Source{Cookie, "two"})
	if s := redactedSources.Load(); !s.isHeader("X-One") || s.param("one") == nil ||
		s.param("two") == nil || !s.isHeader("Cookie") {
		t.Error("a later declaration lost an earlier one")
	}
	if first.param("two") != nil {
		t.Error("Declare changed a set in use")
	}
}

// forgetSources removes the sources that other tests have declared, until the test ends.
func forgetSources(t testing.TB) {
	before := redactedSources.Load()
	t.Cleanup(func() { redactedSources.Store(before) })
	redactedSources.Store((&sourceSet{}).with([]Source{
		{Header, "Authorization"}, {Header, "Proxy-Authorization"},
	}))
}

// FuzzRedactTokens checks that a token's body is removed from any text, escaped up to three times.
func FuzzRedactTokens(f *testing.F) {
	f.Add("ak", "", "", uint8(0))
	f.Add("ak_live", `{"a":"\n`, `\"}`, uint8(1))
	f.Add("a", "/x%3F%2", "%26", uint8(2))
	f.Add("ad", "100%", "%", uint8(3))
	body := randomBody()
	f.Fuzz(func(t *testing.T, prefix, before, after string, escapes uint8) {
		text := before + prefix + "_" + body + after
		for range escapes % 4 {
			text = url.QueryEscape(text)
		}
		got := string(redactTokens([]byte(text)))
		if strings.Contains(got, body) {
			t.Errorf("redactTokens(%q) = %q", strings.ReplaceAll(text, body, "<body>"),
				strings.ReplaceAll(got, body, "<body>"))
		}
		if strings.Contains(string(redactTokens([]byte(got))), body) || len(got) > len(text) {
			t.Error("the result contains the body, or is longer than the text")
		}
	})
}

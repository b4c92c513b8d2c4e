package adversarial

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// tamper returns changed forms of a token, all with 8 to 512 visible characters.
func tamper(token string) map[string]string {
	body := strings.TrimPrefix(token, "ak_")
	flipped := []byte(body)
	for i, c := range flipped {
		if c >= 'a' && c <= 'z' {
			flipped[i] = c - 'a' + 'A'
			break
		}
	}
	shorter := token[:len(token)-1]
	tag := []byte(token[:len(token)-6])
	tag[len(tag)-1] = base62[(strings.IndexByte(base62, tag[len(tag)-1])+1)%62]
	secret := []byte(token[:len(token)-6])
	secret[20] = base62[(strings.IndexByte(base62, secret[20])+1)%62]
	return map[string]string{
		"suffix":              token + "123",
		"last byte missing":   shorter,
		"one letter's case":   "ak_" + string(flipped),
		"upper case":          strings.ToUpper(token),
		"lower case":          strings.ToLower(token),
		"upper-case prefix":   "AK_" + body,
		"other prefix":        withCheck("sk_" + body[:52]),
		"longer prefix":       withCheck("ak_ak_" + body[:52]),
		"no prefix":           body,
		"no underscore":       "ak" + body,
		"dash":                "ak-" + body,
		"member prefix":       withCheck("akm_" + body[:52]),
		"tag":                 withCheck(string(tag)),
		"secret":              withCheck(string(secret)),
		"checksum":            token[:len(token)-6] + "000000",
		"twice":               token + token,
		"two with a comma":    token + "," + token,
		"two with a space":    token + " " + token,
		"quoted":              `"` + token + `"`,
		"SQL comment":         token + "'--",
		"secret-token: twice": "secret-token:secret-token:" + token,
		"percent-encoded":     "%61" + token[1:],
		"not ASCII":           "é" + token[1:],
		"full-width letter":   "ａ" + token[1:],
		"KELVIN SIGN":         strings.Replace(token, "ak", "a\u212a", 1), // lower-cases to k
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	bearer := "Authorization: Bearer {R}"
	item := "GET /v1/items/1"
	rows := []row{
		{what: "no key", send: item, want: "401 missing_key"},
		{what: "empty header", send: item, header: []string{"X-Api-Key:"},
			want: "401 missing_key"},
		{what: "blank header", on: "1", send: item, header: []string{"X-Api-Key:   "},
			want: "401 missing_key"},
		{what: "empty bearer", send: item, header: []string{"Authorization: Bearer"},
			want: "401 missing_key"},
		{what: "blank bearer", send: item, header: []string{"Authorization: Bearer "},
			want: "401 missing_key"},
		{what: "empty Authorization", send: item, header: []string{"Authorization:"},
			want: "401 missing_key"},
		{what: "valid and invalid", send: item, header: []string{"X-Api-Key: {R}",
			"X-Api-Key: {J}"},
			want: "400 ambiguous_credentials"},
		{what: "invalid and valid", send: item, header: []string{"X-Api-Key: {J}",
			"X-Api-Key: {R}"},
			want: "400 ambiguous_credentials"},
		{what: "the same twice", send: item, header: []string{"X-Api-Key: {R}", "X-Api-Key: {R}"},
			want: "400 ambiguous_credentials"},
		{what: "valid and empty", send: item, header: []string{"X-Api-Key: {R}", "X-Api-Key:"},
			want: "400 ambiguous_credentials"},
		{what: "comma", send: item, header: []string{"X-Api-Key: {R}, {J}"},
			want: "401 invalid_key"},
		{what: "comma in bearer", send: item,
			header: []string{"Authorization: Bearer {R}, Bearer {J}"}, want: "401 invalid_key"},
		{what: "case of the name", send: item,
			header: []string{"x-api-key: {R}", "X-API-KEY: {J}"},
			want:   "400 ambiguous_credentials"},
		{what: "two sources", send: item,
			header: []string{"X-Api-Key: {R}", "Authorization: Bearer {J}"},
			want:   "400 ambiguous_credentials"},
		{what: "two sources reversed", send: item, header: []string{"X-Api-Key: {J}", bearer},
			want: "400 ambiguous_credentials"},
		{what: "the same in two sources", send: item, header: []string{"X-Api-Key: {R}", bearer},
			want: "400 ambiguous_credentials"},
		{what: "one of two empty", send: item, header: []string{"X-Api-Key:", bearer},
			want: "400 ambiguous_credentials"},
		{what: "two Authorization", send: item,
			header: []string{bearer, "Authorization: Bearer {J}"},
			want:   "400 ambiguous_credentials"},
		{what: "two Authorization, one of another scheme", send: item,
			header: []string{bearer, "Authorization: Basic {basic a:b}"},
			want:   "400 ambiguous_credentials"},
		{what: "two Authorization, another scheme first", send: item,
			header: []string{"Authorization: Basic {basic a:b}", bearer},
			want:   "400 ambiguous_credentials"},
		{what: "header", send: item, header: []string{"X-API-Key: {R}"}, want: "200",
			gone: []string{"X-Api-Key"}},
		{what: "bearer", send: item, header: []string{bearer}, want: "200",
			gone: []string{"Authorization"}},
		{what: "bearer in lower case", send: item, header: []string{"Authorization: bearer {R}"},
			want: "200", gone: []string{"Authorization"}},
		{what: "bearer in upper case", send: item, header: []string{"Authorization: BEARER {R}"},
			want: "200", gone: []string{"Authorization"}},
		{what: "query", send: "GET /v1/items/1?api_key={R}", want: "401 missing_key"},
		{what: "access_token of RFC 6750", send: "GET /v1/items/1?access_token={R}",
			want: "401 missing_key"},
		{what: "SQL", send: item, header: []string{"X-Api-Key: ' OR '1'='1"},
			want: "401 invalid_key"},
		{what: "percent", send: item, header: []string{"X-Api-Key: %"}, want: "401 invalid_key"},
		{what: "star", send: item, header: []string{"X-Api-Key: *"}, want: "401 invalid_key"},
		{what: "8 KiB", send: item, header: []string{"X-Api-Key: " + strings.Repeat("a", 8<<10)},
			want: "401 invalid_key"},
		{what: "8 KiB after a prefix", send: item,
			header: []string{"X-Api-Key: ak_" + strings.Repeat("a", 8<<10)},
			want:   "401 invalid_key"},
		{what: "20 KiB", send: item,
			header: []string{"X-Api-Key: " + strings.Repeat("a", 20<<10)}, want: "refused"},
		{what: "64 KiB", send: item,
			header: []string{"X-Api-Key: " + strings.Repeat("a", 64<<10)}, want: "refused"},
		{what: "NUL", send: item, header: []string{"X-Api-Key: {R}\x00"}, want: "refused"},
		{what: "bare CR", send: item, header: []string{"X-Api-Key: {R}\rX"}, want: "refused"},
		{what: "forged", send: item, header: []string{"X-Api-Key: {J}"},
			want: "401 invalid_key"},
		{what: "secret-token", send: item,
			header: []string{"Authorization: Bearer secret-token:{R}"}, want: "200",
			gone: []string{"Authorization"}},
		{what: "secret-token in a header", send: item,
			header: []string{"X-API-Key: secret-token:{R}"}, want: "200"},
		{what: "secret-token without a token", send: item,
			header: []string{"X-API-Key: secret-token:"}, want: "refused"},
		{what: "cookie", send: item, header: []string{"Cookie: api_key={R}; X-API-Key={R}"},
			want: "401 missing_key"},
		{what: "Proxy-Authorization", send: item,
			header: []string{"Proxy-Authorization: Bearer {R}"}, want: "401 missing_key"},
		{what: "subprotocol", send: item,
			header: []string{"Sec-WebSocket-Protocol: bearer, {R}"}, want: "401 missing_key"},
		{what: "body", send: "POST /v1/items/1", body: "api_key={R}",
			header: []string{"Content-Type: application/x-www-form-urlencoded"},
			want:   "401 missing_key"},
		{what: "basic", send: item, header: []string{"Authorization: Basic {basic user:{R}}"},
			want: "401 missing_key"},
		{what: "no scheme", send: item, header: []string{"Authorization: {R}"},
			want: "401 missing_key"},
		{what: "another scheme", send: item, header: []string{"Authorization: Token {R}"},
			want: "401 missing_key"},
		{what: "a longer scheme", send: item, header: []string{"Authorization: BearerX {R}"},
			want: "401 missing_key"},
		{what: "name with underscores", send: item, header: []string{"X_API_Key: {R}"},
			want: "401 missing_key"},
		{what: "user info in an absolute target", on: "1",
			send: "GET http://x:{R}@api.example.com/v1/items/1", want: "refused"},
		{what: "copies", send: item,
			header: []string{"X-API-Key: {R}", "Referer: https://app.example.com/?api_key={R}",
				"X-Original-Url: /?api_key={R}"}, want: "200"},
		{what: "underscores beside hyphens", send: item,
			header: []string{"X-API-Key: {R}", "X_API_Key: {J}"}, want: "200"},
		{what: "user agent", send: item, header: []string{"User-Agent: GoogleHC/1.0"},
			want: "401 missing_key"},
		{what: "health-check agent", send: item, header: []string{"User-Agent: kube-probe/1.31"},
			want: "401 missing_key"},
		{what: "revoked", send: item, header: []string{"X-API-Key: {X}"}, want: "401 key_revoked"},
		{what: "1000 lines", on: "1", send: item,
			header: slices.Repeat([]string{"X-Api-Key: a"}, 1000),
			want:   "400 ambiguous_credentials"},
		{what: "300 lines", send: item, header: slices.Repeat([]string{"X-Api-Key: a"}, 300),
			want: "400 ambiguous_credentials"},
		{what: "10000 headers", send: item, header: slices.Repeat([]string{"X-A: a"}, 10000),
			want: "refused"},
	}
	for n := range 4 {
		rows = append(rows, row{what: fmt.Sprintf("length %d", n+1), send: item,
			header: []string{"X-Api-Key: " + "aaaa"[:n+1]}, want: "401 invalid_key"})
	}
	for what, token := range tamper(w.tokens["R"]) {
		rows = append(rows,
			row{what: "header, " + what, send: item, header: []string{"X-API-Key: " + token},
				want: "401 invalid_key"},
			row{what: "bearer, " + what, send: item,
				header: []string{"Authorization: Bearer " + token}, want: "401 invalid_key"})
	}
	w.run(t, rows)
}

func TestSources(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations + `
		from bearer
		from header X-API-Key
		from header X-Auth Token
		from basic
		from query api_key
		from cookie apikey
	`})
	item := "GET /v1/items/1"
	// Each source alone and each pair of sources. A pair that shares the Authorization header sends
	// it twice.
	sources := []struct{ name, header, query string }{
		{"bearer", "Authorization: Bearer ", ""},
		{"header", "X-API-Key: ", ""},
		{"header with a scheme", "X-Auth: Token ", ""},
		{"basic", "Authorization: Basic ", ""},
		{"query", "", "api_key="},
		{"cookie", "Cookie: apikey=", ""},
	}
	var rows []row
	for i, one := range sources {
		rows = append(rows, row{what: one.name, want: "200", at: "/v1/items/1",
			gone: []string{"Authorization", "X-Api-Key", "X-Auth", "Cookie"}})
		carry(&rows[len(rows)-1], one, "{R}")
		for _, other := range sources[i+1:] {
			for _, tokens := range [][2]string{{"{R}", "{R}"}, {"{R}", "{J}"}, {"{J}", "{R}"}} {
				r := row{what: fmt.Sprintf("%s and %s %v", one.name, other.name, tokens),
					want: "400 ambiguous_credentials"}
				carry(&r, one, tokens[0])
				carry(&r, other, tokens[1])
				rows = append(rows, r)
			}
		}
	}
	rows = append(rows, []row{
		{what: "query twice", send: item + "?api_key={R}&api_key={J}",
			want: "400 ambiguous_credentials"},
		{what: "query twice reversed", send: item + "?api_key={J}&api_key={R}",
			want: "400 ambiguous_credentials"},
		{what: "semicolon", send: item + "?api_key={J};api_key={R}",
			want: "400 ambiguous_credentials"},
		{what: "semicolon after another", send: item + "?a=1;api_key={R}", want: "200",
			at: "/v1/items/1?a=1"},
		{what: "semicolon after it", send: item + "?api_key={R};a=1", want: "200",
			at: "/v1/items/1?a=1"},
		{what: "semicolon in another parameter", send: item + "?a=1;b&api_key={R}&c=;",
			want: "200", at: "/v1/items/1?a=1;b&c=;"},
		{what: "name encoded", send: item + "?api%5Fkey={R}", want: "200", at: "/v1/items/1"},
		{what: "name all encoded", send: item + "?%61%70%69%5f%6b%65%79={R}&a", want: "200",
			at: "/v1/items/1?a"},
		{what: "name encoded and plain", send: item + "?api%5Fkey={R}&api_key={J}",
			want: "400 ambiguous_credentials"},
		{what: "value encoded", send: item + "?api_key=%61k_{Rest}", want: "200",
			at: "/v1/items/1"},
		{what: "empty and valid", send: item + "?api_key=&api_key={R}",
			want: "400 ambiguous_credentials"},
		{what: "no value and valid", send: item + "?api_key&api_key={R}",
			want: "400 ambiguous_credentials"},
		{what: "empty", send: item + "?api_key=", want: "401 missing_key"},
		{what: "no value", send: item + "?api_key", want: "401 missing_key"},
		{what: "bad escape in the name", send: item + "?api%ZZkey={R}", want: "401 missing_key"},
		{what: "bad escape in the value", send: item + "?api_key={R}%ZZ", want: "refused"},
		{what: "case of the name", send: item + "?API_KEY={R}", want: "401 missing_key"},
		{what: "array", send: item + "?api_key[]={R}", want: "401 missing_key"},
		{what: "order and spelling of the rest", send: item + "?b=%7e+&api_key={R}&a=1&b=2&&=",
			want: "200", at: "/v1/items/1?b=%7e+&a=1&b=2&&="},
		{what: "fragment", send: item + "?api_key={R}#x", want: "refused"},
		{what: "cookie among others", send: item, header: []string{"Cookie: a=1; apikey={R}; b=2"},
			want: "200", kept: []string{"Cookie: a=1; b=2"}},
		{what: "cookie first", send: item, header: []string{"Cookie: apikey={R}; b=2"}, want: "200",
			kept: []string{"Cookie: b=2"}},
		{what: "cookie twice", send: item, header: []string{"Cookie: apikey={R}; apikey={J}"},
			want: "400 ambiguous_credentials"},
		{what: "cookie twice, reversed", send: item,
			header: []string{"Cookie: apikey={J}; apikey={R}"}, want: "400 ambiguous_credentials"},
		{what: "cookie in two lines", send: item,
			header: []string{"Cookie: apikey={R}", "Cookie: apikey={J}"},
			want:   "400 ambiguous_credentials"},
		{what: "cookie twice, without a space", send: item,
			header: []string{"Cookie: apikey={R};apikey={J}"}, want: "400 ambiguous_credentials"},
		{what: "cookie twice, one empty", send: item,
			header: []string{"Cookie: apikey=; apikey={R}"}, want: "400 ambiguous_credentials"},
		{what: "cookie empty", send: item, header: []string{"Cookie: apikey="},
			want: "401 missing_key"},
		{what: "cookie in another case", send: item, header: []string{"Cookie: ApiKey={R}"},
			want: "401 missing_key"},
		{what: "cookie after one that net/http drops", send: item,
			header: []string{"Cookie: a b=1; apikey={R}; apikey={J}"},
			want:   "400 ambiguous_credentials"},
		{what: "header twice, one scheme wrong", send: item,
			header: []string{"X-Auth: Token {R}", "X-Auth: Other {J}"},
			want:   "400 ambiguous_credentials"},
		{what: "header without its scheme", send: item, header: []string{"X-Auth: {R}"},
			want: "refused"},
		{what: "basic, token as user", send: item,
			header: []string{"Authorization: Basic {basic {R}:}"}, want: "200",
			gone: []string{"Authorization"}},
		{what: "basic, token as password", send: item,
			header: []string{"Authorization: basic {basic me:{R}}"}, want: "200",
			gone: []string{"Authorization"}},
		{what: "basic, two tokens: the password is used", send: item,
			header: []string{"Authorization: Basic {basic {R}:{J}}"}, want: "401 invalid_key"},
		{what: "basic, no colon", send: item, header: []string{"Authorization: Basic {basic {R}}"},
			want: "refused"},
		{what: "basic, bad base64", send: item, header: []string{"Authorization: Basic !!!!"},
			want: "refused"},
		{what: "basic, empty", send: item, header: []string{"Authorization: Basic {basic :}"},
			want: "401 missing_key"},
		{what: "basic, no credentials", send: item, header: []string{"Authorization: Basic"},
			want: "401 missing_key"},
	}...)
	w.tokens["Rest"] = strings.TrimPrefix(w.tokens["R"], "ak_")
	w.run(t, rows)
}

// carry puts a token into the request where a source reads it.
func carry(r *row, source struct{ name, header, query string }, token string) {
	if r.send == "" {
		r.send = "GET /v1/items/1"
	}
	switch {
	case source.query != "":
		r.send += "?" + source.query + token
	case strings.HasSuffix(source.header, "Basic "):
		r.header = append(r.header, source.header+"{basic user:"+token+"}")
	default:
		r.header = append(r.header, source.header+token)
	}
}

// TestUnknownIsMalformed checks that the response to an unknown token does not disclose why it is
// invalid, or that it was valid once.
func TestUnknownIsMalformed(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations})
	deleted := w.mint(t, "D", gate.JSON{"access": "read_only"})
	w.Revoke(t, deleted.ID)
	if r := w.Call(t, "DELETE", "/keys/"+deleted.ID, nil); r.Status != 200 {
		t.Fatalf("deleting a revoked key: %v", r)
	}
	imported := "sk-imported-0123456789abcdef"
	w.Import(t, gate.JSON{"name": "I", "access": "read_only", "token": imported})
	if r := w.Get(t, "/v1/items/1", gate.Token(imported)); r.Status != 200 {
		t.Fatalf("an imported key: %v", r)
	}
	for _, protocol := range gate.Protocols {
		answers := map[string]string{}
		for what, token := range map[string]string{
			"forged": w.tokens["J"], "deleted": string(deleted.Token),
			"another format": "sk-imported-0123456789abcdeg", "too short": "x",
			"too long": strings.Repeat("a", 600), "wrong checksum": w.tokens["R"][:40] + "x",
		} {
			got := w.Do(t, gate.Request{Protocol: protocol, Target: "/v1/items/1",
				Header: []string{"Authorization: Bearer " + token}})
			w.judge(t, row{want: "401 invalid_key"}, "", got)
			got.Header.Del("Date")
			answers[fmt.Sprint(got.Status, got.Header, string(got.Body))] += " " + what
		}
		if len(answers) != 1 {
			t.Errorf("%v: the answers differ: %v", protocol, answers)
		}
	}
}

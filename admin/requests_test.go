//go:build unix

package admin_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// FuzzRequests sends the same random requests to an interface on SQLite and to one on PostgreSQL.
// Their bodies, parameters and headers are nearly valid for an operation of the OpenAPI document.
// No answer is 5xx, both databases accept the same requests, and created objects can be listed.
func FuzzRequests(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	server := postgrestest.StartFor(f)
	postgres, err := sqldb.OpenPostgres(context.Background(), server.URL(server.Schema(f)))
	if err != nil {
		f.Fatal(err)
	}
	apis := []*testAPI{open(f), openOn(f, postgres)}
	f.Fuzz(func(t *testing.T, seed uint64) {
		s := &sender{Rand: rand.New(rand.NewPCG(seed, 1)), api: apis[0].Describe()}
		ids := make([]map[string]string, len(apis)) // by the names of objects in requests
		for i, d := range apis {
			ids[i] = map[string]string{"KEY": d.mint(t, root, readOnly).Key.ID,
				"REVOKED": d.mint(t, root, readOnly).Key.ID}
			d.call(t, root, "POST", "/keys/"+ids[i]["REVOKED"]+"/revoke", nil)
			var m api.Member
			d.call(t, root, "POST", "/members", `{"name":"Ada"}`).into(t, 201, &m)
			ids[i]["MEMBER"] = m.ID
			d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`)
			d.call(t, root, "POST", "/roles",
				`{"namespace":"acme","name":"billing","permissions":["orders:read"]}`)
			d.call(t, root, "POST", "/plans", `{"namespace":"acme","name":"gold"}`)
			d.call(t, root, "POST", "/plans", `{"namespace":"*","name":"free"}`)
			addUsage(t, d, ids[i]["KEY"])
		}
		for range 100 {
			r := s.request()
			var first answer
			for i, d := range apis {
				a := d.send(t, root, r.of(t, ids[i]))
				if a.status >= 500 {
					t.Errorf("database %d: %s: %d %s", i, r, a.status, a.text)
				}
				if first.status == 0 {
					first = a
				}
				if a.status != first.status {
					t.Errorf("%s: %d and %d: %s %s", r, first.status, a.status, first.text, a.text)
				}
			}
		}
		for _, path := range []string{"/keys?limit=1000", "/keys?sort=name",
			"/namespaces?limit=1000", "/roles?limit=1000", "/plans?limit=1000", "/members?limit=1000",
			"/audit?limit=1000", "/audit/verify", "/usage?group_by=key&step=month"} {
			for i, d := range apis {
				if a := d.call(t, root, "GET", path, nil); a.status != 200 {
					t.Errorf("database %d: %s: %d %s", i, path, a.status, a.text)
				}
			}
		}
	})
}

// A sender generates requests.
type sender struct {
	*rand.Rand
	api *huma.OpenAPI
}

// A generated request contains the names of objects, in capitals, in place of their ids.
type generated struct {
	method, target, body, contentType string
	header                            http.Header
}

func (r generated) String() string {
	return fmt.Sprintf("%s %s %v %.2000s", r.method, r.target, r.header, r.body)
}

// of returns the request with the ids of one database.
func (r generated) of(t *testing.T, ids map[string]string) *http.Request {
	t.Helper()
	var pairs []string
	for name, id := range ids {
		pairs = append(pairs, name, id)
	}
	names := strings.NewReplacer(pairs...)
	req := httptest.NewRequest(r.method, "/", nil)
	u, err := url.Parse(names.Replace(r.target))
	if err != nil {
		t.Fatal(err)
	}
	req.URL, req.Header = u, r.header.Clone()
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
		req.Body = io.NopCloser(strings.NewReader(names.Replace(r.body)))
	}
	return req
}

func pick[T any](s *sender, list ...T) T { return list[s.IntN(len(list))] }

// mostly returns the valid value, or one of the others in one of twelve calls.
func mostly(s *sender, valid string, others ...string) string {
	if s.IntN(12) == 0 {
		return pick(s, others...)
	}
	return valid
}

func (s *sender) request() generated {
	paths := make([]string, 0, len(s.api.Paths))
	for path := range s.api.Paths {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	path := pick(s, paths...)
	if s.IntN(3) == 0 {
		path = pick(s, "/keys", "/keys", "/keys/{id}", "/keys/import", "/keys/import",
			"/members/{id}/token")
		path = api.Prefix + path
	}
	item := s.api.Paths[path]
	ops := slices.DeleteFunc([]*huma.Operation{item.Get, item.Post, item.Patch, item.Delete},
		func(op *huma.Operation) bool { return op == nil })
	op := pick(s, ops...)
	r := generated{method: op.Method, header: make(http.Header)}
	query := make(url.Values)
	for _, p := range op.Parameters {
		value := func() string { return s.value(p.Name) }
		switch {
		case p.In == "path":
			id := pick(s, "KEY", "KEY", "REVOKED", "MEMBER", "acme", "billing", "gold", "default",
				url.PathEscape(s.text()))
			path = strings.ReplaceAll(path, "{"+p.Name+"}", id)
		case s.IntN(3) > 0:
		case p.In == "query":
			query.Set(p.Name, value())
		case p.In == "header":
			r.header.Set(p.Name, inHeader(value()))
		}
	}
	if response := op.Responses["200"]; response != nil && len(response.Content) > 1 {
		r.header.Set("Accept", pick(s, "", "*/*", "text/*;q=0.5", api.CSV, api.NDJSON+";q=x",
			"application/json;q=0, text/csv;q=0.1", inHeader(s.text())))
	}
	r.target = path
	if len(query) > 0 {
		r.target += "?" + query.Encode()
	}
	if op.RequestBody != nil {
		types := make([]string, 0, 2)
		for contentType := range op.RequestBody.Content {
			types = append(types, contentType)
		}
		slices.Sort(types)
		r.contentType = pick(s, types...)
		r.body = s.json(op.RequestBody.Content[r.contentType].Schema, "", 0)
	}
	return r
}

// inHeader returns s without the characters that every server rejects in a header.
func inHeader(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, s)
}

// value returns a value of a parameter.
func (s *sender) value(name string) string {
	if s.IntN(4) == 0 {
		return s.text()
	}
	switch name {
	case "limit":
		return pick(s, "1", "1000", "9223372036854775807", "9223372036854775808", "-1", "1e3",
			"0x10", "007")
	case "cursor":
		inner := pick(s, "1 a", "-9223372036854775808 a", "9223372036854775807 \x00",
			"99999999999999999999 a", "1 "+s.text(), `["a"]`, `{"permission":"x"}`, s.text()+" 1",
			"1", "")
		return pick(s, base64.RawURLEncoding, base64.StdEncoding).EncodeToString([]byte(inner))
	case "wait":
		return pick(s, "0s", "1ms", "-0s", "9223372036854775807ns", "1e9s", "0.000000000001s")
	case "If-Match":
		return pick(s, `"1"`, `*`, `"9223372036854775807"`, `"9223372036854775808"`, `"-1"`,
			`W/"1"`, `"1", "2"`, `"1-gzip"`)
	case "from", "to", "expires_at":
		return s.time()
	case "sort":
		return pick(s, "name", "-name", "expires_at", "-last_used_at", "created_at")
	case "step":
		return pick(s, "minute", "hour", "day", "month")
	case "group_by":
		return pick(s, "key", "namespace", "owner", "outcome", "operation")
	case "status":
		return pick(s, "active", "inactive", "expired", "revoked")
	case "partial":
		return pick(s, "0", "1")
	}
	return s.word(name)
}

func (s *sender) time() string {
	return pick(s, "2037-01-01T00:00:00Z", "9999-12-31T23:59:59-05:00",
		"9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.999999999+23:59",
		"0000-01-01T00:00:00+23:59",
		"0001-01-01T00:00:00Z", "2037-06-30T23:59:60Z", "2037-01-01t00:00:00z",
		"2037-01-01T00:00:00.123456789-00:00", "10000-01-01T00:00:00Z", "-001-01-01T00:00:00Z",
		"1677-09-21T00:12:43Z", "2262-04-11T23:47:17Z")
}

// text returns a text that is rarely a valid value.
func (s *sender) text() string {
	return pick(s, "", " ", "\x00", "a\x00b", "\x01", "\x7f", "\u0085", "\u2028", "\ufeff",
		"\ufffd", "\U0001d11e", "e\u0301", "\u202e", "\ufdd0", "'", `"`, `\`, "%", "_", "{}",
		"null",
		strings.Repeat("x", 201), strings.Repeat("é", 5000), "..", ".", "/", "a/b", "-1",
		"9223372036854775808", "*", "admin:*")
}

// word returns a likely value of a field with this name.
func (s *sender) word(name string) string {
	switch name {
	case "id", "namespace", "parent":
		return mostly(s, pick(s, "acme", "default", fmt.Sprint("n", s.IntN(1000))), "*", "eu",
			"home")
	case "owner", "actor", "created_by":
		return mostly(s, "root", "MEMBER", "m_000000000000", "KEY")
	case "token":
		return mostly(s, fmt.Sprint("imported-", s.Uint64()), "abcdefgh", "secret-token:abcdefgh",
			"ak_x", "akm_x")
	case "sha256":
		return mostly(s, fmt.Sprintf("%064x", s.Uint64()), strings.Repeat("ab", 32),
			strings.Repeat("AB", 32), "00")
	case "grace":
		return mostly(s, "0s", "24h", "720h", "720h0m0.000000001s", "9223372036854775807ns",
			"1h-1h", "0.5ns")
	case "permission", "permissions":
		return mostly(s, pick(s, "read", "write", "*", "orders:read", "orders:search", "orders:*",
			"admin.keys:create", "admin:*"), "a:b:c", "A:b", ":")
	case "allowed_ips":
		return mostly(s, pick(s, "10.0.0.0/8", "::1"), "::ffff:10.0.0.1", "::ffff:0:0/95",
			"0.0.0.0/0", "10.0.0.0/33", "fe80::1%eth0", "010.0.0.1")
	case "roles", "key_roles", "role":
		return mostly(s, "viewer", "billing", "nope", "*")
	case "plan", "default_plan":
		return mostly(s, "free", "gold", "nope", "*")
	case "kind":
		return mostly(s, pick(s, "person", "service"), "account", "")
	case "token_prefix":
		return mostly(s, "ak", "ak_b", "akm")
	case "expires_at", "from", "to":
		return s.time()
	case "per":
		return pick(s, "1s", "1h30m", "month", "day", "24h", "hour", "25h", "-1s", "1ns")
	case "edit_policy":
		return pick(s, "free", "grow_only")
	case "access":
		return mostly(s, "custom", "read_only", "read_write")
	}
	return fmt.Sprint("name ", s.IntN(1000))
}

// quoted returns a JSON string, sometimes with escapes that encode no valid character.
func (s *sender) quoted(name string) string {
	if s.IntN(40) == 0 {
		return pick(s, `"\ud800"`, `"\udc00\ud800"`, `"a\ud800b"`, `"\u0000"`, `"\uFFFF"`,
			"\"\xff\"", "\"\xed\xa0\x80\"", `"\ud834\udd1e"`, `null`, `7`, `1e999`, `[]`, `{}`)
	}
	text := s.word(name)
	if s.IntN(25) == 0 {
		text = s.text()
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range text {
		if c < ' ' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, `\u%04x`, c)
		} else {
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// json returns a value that nearly matches a schema.
func (s *sender) json(schema *huma.Schema, name string, depth int) string {
	for schema.Ref != "" {
		schema = s.api.Components.Schemas.SchemaFromRef(schema.Ref)
	}
	switch schema.Type {
	case huma.TypeString:
		return s.quoted(name)
	case huma.TypeBoolean:
		return pick(s, "true", "false", "false", "null")
	case huma.TypeInteger, huma.TypeNumber:
		return mostly(s, pick(s, "1", "7", "100"), "0", "-1", "9223372036854775808", "1e999",
			"1e-400", "0.1", "1.0", "null")
	case huma.TypeArray:
		list := make([]string, 1+s.IntN(2)-s.IntN(12)/11)
		for i := range list {
			list[i] = s.json(schema.Items, name, depth+1)
		}
		return "[" + strings.Join(list, ",") + "]"
	case huma.TypeObject:
		var members []string
		names := make([]string, 0, len(schema.Properties))
		for property := range schema.Properties {
			names = append(names, property)
		}
		slices.Sort(names)
		for _, property := range names {
			oneIn := 4 // the frequency of the property
			switch property {
			case "new_roles", "sha256":
				oneIn = 30
			case "permissions", "token", "requests", "per":
				oneIn = 1
			case "unlimited":
				oneIn = 8
			}
			if slices.Contains(schema.Required, property) || s.IntN(oneIn) == 0 {
				members = append(members, `"`+property+`":`+
					s.json(schema.Properties[property], property, depth+1))
			}
		}
		if values, ok := schema.AdditionalProperties.(*huma.Schema); ok {
			for range s.IntN(3) {
				members = append(members, pick(s, `"team"`, `"a\u0000"`, `"\ud800"`, `"é"`, `""`)+
					":"+s.json(values, "metadata", depth+1))
			}
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	deep := pick(s, 1, 20, 31, 40)
	return pick(s, "null", "1e999", strings.Repeat("[", deep)+strings.Repeat("]", deep))
}

// TestExpiryAfterYear9999 sends a time in the year 10000 UTC, which an answer could not contain, to
// all operations with an expiry. Other systems use such times for never.
func TestExpiryAfterYear9999(t *testing.T) {
	d := open(t)
	id := d.mint(t, root, readOnly).Key.ID
	var m api.Member
	d.call(t, root, "POST", "/members", `{"name":"Ada"}`).into(t, 201, &m)
	const never = `"expires_at":"9999-12-31T23:59:59-05:00"`
	for _, row := range [][2]string{
		{"POST /keys", `{"name":"a","access":"read_only",` + never + `}`},
		{"PATCH /keys/" + id, `{` + never + `}`},
		{"POST /members/" + m.ID + "/token", `{` + never + `}`},
		{"POST /keys/import", `{"keys":[{"name":"a","access":"read_only","token":"credential-1",` +
			never + `}]}`},
	} {
		method, path, _ := strings.Cut(row[0], " ")
		p := d.call(t, root, method, path, row[1]).problem(t)
		if p.Status != 422 || !strings.Contains(fmt.Sprint(p.Errors, p.Refused), "expires_at") {
			t.Errorf("%s: %+v", row[0], p)
		}
	}
	lines := `{"name":"a","access":"read_only","token":"credential-1"}
{"name":"b","access":"read_only","token":"credential-2",` + never + `}
{"name":"c","access":"read_only","token":"credential-3","expires_at":"9999-12-31T18:59:59.999999-05:00"}
`
	var done api.Imported
	d.call(t, root, "POST", "/keys/import?partial=1", lines, "Content-Type", api.NDJSON).into(t,
		201, &done)
	if done.Imported != 2 || len(done.Refused) != 1 || done.Refused[0].Line != 2 {
		t.Errorf("%+v", done)
	}
	if a := d.call(t, root, "GET", "/keys", nil); a.status != 200 ||
		!strings.Contains(a.text, "9999-12-31T23:59:59.999999Z") {
		t.Errorf("%d %s", a.status, a.text)
	}
}

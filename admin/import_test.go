package admin_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

func TestImport(t *testing.T) {
	const one, two = "legacy-credential-one", "legacy-credential-two"
	sum := sha256.Sum256([]byte(two))
	lines := []string{
		fmt.Sprintf(`{"name":"one","access":"read_only","token":%q}`, one),
		fmt.Sprintf(`{"name":"two","access":"read_only","sha256":%q,"metadata":{"from":"before"}}`,
			hex.EncodeToString(sum[:])),
	}
	for contentType, body := range map[string]string{
		"application/json; charset=UTF-8": "\ufeff" + `{"keys":[` + strings.Join(lines, ",") +
			`]}`,
		"application/x-ndjson; charset=UTF-8": "\ufeff" + strings.Join(lines, "\n"),
		api.JSON:                              `{"keys":[` + strings.Join(lines, ",") + `]}`,
		api.NDJSON:                            strings.Join(lines, "\n"),
		api.NDJSON + "; charset=utf-8":        "\n" + strings.Join(lines, "\r\n\r\n") + "\r\n",
		"application/json; charset=\"utf-8\"": " { \"keys\" : [\n" + strings.Join(lines, " , ") +
			" ] } \n",
	} {
		t.Run(contentType, func(t *testing.T) {
			d := open(t)
			a := d.call(t, root, "POST", "/keys/import", body, "Content-Type", contentType)
			var done api.Imported
			if a.into(t, 201, &done); done.Imported != 2 || len(done.Created) != 2 ||
				len(done.Refused) != 0 {
				t.Fatalf("%d %s", a.status, a.text)
			}
			for i, created := range done.Created {
				var k api.Key
				d.call(t, root, "GET", "/keys/"+created.ID, nil).into(t, 200, &k)
				if k.Name != []string{"one", "two"}[i] || created.Line < 1 {
					t.Errorf("%+v: %s", created, k.Name)
				}
			}
			for token, name := range map[string]string{one: "one", two: "two"} {
				var v api.Verdict
				d.call(t, root, "POST", "/verify", api.VerifyRequest{Token: token}).into(t, 200, &v)
				if v.Outcome != "ok" || v.Key == nil || v.Key.Name != name {
					t.Errorf("%s: %+v", name, v)
				}
			}
			// The second import adds none.
			a = d.call(t, root, "POST", "/keys/import", body, "Content-Type", contentType)
			if p := a.problem(t); p.Status != 422 || len(p.Refused) != 2 ||
				p.Refused[0].Code != "already_used" || strings.Contains(a.text, one) {
				t.Errorf("the same import again: %s", a.text)
			}
		})
	}
}

// TestImportRefusals imports one valid line among invalid ones.
func TestImportRefusals(t *testing.T) {
	d := open(t)
	minted := d.mint(t, root, readOnly)
	forged := minted.Token[:len(minted.Token)-1] + map[bool]string{true: "0",
		false: "1"}[minted.Token[len(minted.Token)-1] != '0']
	const good = "a-good-credential"
	derived, err := keystore.Derive(good, keystore.Caveats{ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	lines := []struct{ text, code, about string }{
		{fmt.Sprintf(`{"name":"good","access":"read_only","token":%q}`, good), "", ""},
		{``, "", ""},
		{`{"name":"x","access":"read_only"`, "syntax", ""},
		{`{"name":"x","name":"y","access":"read_only","token":"credential-a"}`, "syntax", "name"},
		{`{"access":"read_only","token":"credential-b"}`, "invalid_fields", "name"},
		{`{"name":"x","access":"read_only","token":"credential-c","tokn":1}`, "invalid_fields",
			"tokn"},
		{`{"name":"x","access":"read_only"}`, "invalid_fields", "sha256"},
		{`{"name":"x","access":"read_only","token":"credential-d","sha256":"` +
			strings.Repeat("0a", 32) + `"}`, "invalid_fields", "sha256"},
		{`{"name":"x","access":"read_only","sha256":"` + strings.Repeat("0a", 31) + `"}`,
			"invalid_fields", "sha256"},
		{`{"name":"x","access":"read_only","sha256":"` + strings.Repeat("0a", 33) + `"}`,
			"invalid_fields", "sha256"},
		{`{"name":"x","access":"read_only","sha256":"` + strings.Repeat("zz", 32) + `"}`,
			"invalid_fields", "sha256"},
		{`{"name":"x","access":"read_only","token":"short"}`, "invalid_credential", "8 to 512"},
		{`{"name":"x","access":"read_only","token":"with a space in it"}`, "invalid_credential",
			"visible"},
		{`{"name":"x","access":"read_only","token":"` + forged + `"}`, "invalid_credential",
			"prefix"},
		{`{"name":"x","access":"read_only","token":"` + derived + `"}`, "invalid_credential",
			"derived"},
		{`{"name":"x","access":"read_only","token":"` + minted.Token + `"}`, "exists", ""},
		{`{"name":"x","access":"read_only","token":"` + good + `"}`, "already_used", ""},
		{`{"name":"x","access":"read_only","token":"credential-e","rate_limit":{"requests":1}}`,
			"invalid_fields", "rate_limit.per"},
		{`{"name":"x","access":"read_only","token":"credential-i","quota":{"requests":1e3,"per":"day"}}`,
			"invalid_fields", "quota.requests"},
		{`{"name":"x","access":"read_only","token":"credential-j","plan":"gold"}`,
			"invalid_fields", "plan"},
		{`{"name":"x","access":"read_only","token":"credential-f",` +
			`"expires_at":"2001-01-01T00:00:00Z"}`, "invalid_fields", "expires_at"},
		{`{"name":"x","access":"read_only","token":"credential-g","namespace":"nowhere"}`,
			"invalid_fields", "nowhere"},
		{`{"name":"x","token":"credential-h","permissions":["a b"]}`, "invalid_fields",
			"permissions[0]"},
		{`[]`, "invalid_fields", "object"},
	}
	var body bytes.Buffer
	var codes, got []string
	for i, l := range lines {
		fmt.Fprintln(&body, l.text)
		if l.code != "" {
			codes = append(codes, fmt.Sprintf("%d %s", i+1, l.code))
		}
	}
	check := func(refused []api.Refused) {
		t.Helper()
		got = nil
		for _, r := range refused {
			got = append(got, fmt.Sprintf("%d %s", r.Line, r.Code))
			if r.Detail == "" || !strings.Contains(r.Detail, lines[r.Line-1].about) {
				t.Errorf("line %d: %q says nothing about %q", r.Line, r.Detail,
					lines[r.Line-1].about)
			}
		}
		if !reflect.DeepEqual(got, codes) {
			t.Errorf("refused\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(codes, "\n"))
		}
	}

	whole := d.call(t, root, "POST", "/keys/import", body.String(), "Content-Type", api.NDJSON)
	if p := whole.problem(t); p.Status != 422 || p.Code != "invalid_fields" || len(p.Errors) != 0 {
		t.Errorf("all or nothing: %s", whole.text)
	} else {
		check(p.Refused)
	}
	var list api.Keys
	d.call(t, root, "GET", "/keys", nil).into(t, 200, &list)
	if len(list.Items) != 1 {
		t.Fatalf("%d keys after an import that was refused, want 1", len(list.Items))
	}

	partial := d.call(t, root, "POST", "/keys/import?partial=1", body.String(), "Content-Type",
		api.NDJSON)
	var imported api.Imported
	partial.into(t, 201, &imported)
	check(imported.Refused)
	if imported.Imported != 1 {
		t.Errorf("imported %d, want 1", imported.Imported)
	}
	for _, secret := range []string{good, minted.Token, forged, "credential-", "with a space"} {
		if strings.Contains(whole.text+partial.text+d.log.String(), secret) {
			t.Errorf("an answer or the log repeats a token of the request")
		}
	}
}

func TestImportBodies(t *testing.T) {
	d := open(t)
	for _, test := range []struct {
		contentType, body string
		status            int
		code              string
	}{
		{api.JSON, ``, 400, "incomplete_body"},
		{api.JSON, `{"keys":[`, 400, "incomplete_body"},
		{api.JSON, `{"keys":[{]}`, 400, "syntax"},
		{api.JSON, `{"keys":[]}{}`, 400, "syntax"},
		{api.JSON, `{"keys":[],"keys":[]}`, 422, "invalid_fields"},
		{api.JSON, `{"key":[]}`, 422, "invalid_fields"},
		{api.JSON, `{"keys":{}}`, 422, "invalid_fields"},
		{api.JSON, `[]`, 422, "invalid_fields"},
		{api.NDJSON, `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 400, "syntax"},
	} {
		a := d.call(t, root, "POST", "/keys/import", test.body, "Content-Type", test.contentType)
		if p := a.problem(t); p.Status != test.status || p.Code != test.code {
			t.Errorf("%.40s: %s, want %d %s", test.body, a.text, test.status, test.code)
		}
	}
	for _, contentType := range []string{api.JSON, api.NDJSON} {
		body := map[string]string{api.JSON: `{"keys":[]}`, api.NDJSON: "\n\n"}[contentType]
		if a := d.call(t, root, "POST", "/keys/import", body, "Content-Type",
			contentType); a.status != 201 {
			t.Errorf("nothing to import: %s", a.text)
		}
	}
}

// TestImportLong imports more than the limit of other bodies.
func TestImportLong(t *testing.T) {
	d := open(t)
	const n = 4000
	var body bytes.Buffer
	for i := range n {
		line, _ := json.Marshal(api.ImportKey{
			MintRequest: api.MintRequest{Name: fmt.Sprint("key ", i), Access: "read_only"},
			Token:       fmt.Sprintf("legacy-%0200d-%032d", i, n-i),
		})
		body.Write(append(line, '\n'))
	}
	if body.Len() <= 1<<20 {
		t.Fatalf("only %d bytes", body.Len())
	}
	var got api.Imported
	d.call(t, root, "POST", "/keys/import", body.String(), "Content-Type", api.NDJSON,
		"Idempotency-Key", "the lot").into(t, 201, &got)
	if got.Imported != n {
		t.Errorf("imported %d of %d", got.Imported, n)
	}
	if len(got.Created) != n || got.Created[n-1].Line != n {
		t.Fatalf("%d ids", len(got.Created))
	}
	var k api.Key
	if d.call(t, root, "GET", "/keys/"+got.Created[n-2].ID, nil).into(t, 200,
		&k); k.Name != fmt.Sprint("key ", n-2) {
		t.Errorf("line %d is %s", n-1, k.Name)
	}
	if p := d.call(t, root, "POST", "/keys/import", body.String(), "Content-Type", api.NDJSON,
		"Idempotency-Key", "the lot").problem(t); p.Code != "already_made" {
		t.Errorf("a repeat: %+v", p)
	}
}

// lines is a body that calls next for each line when it is read. It ends when next returns "".
type lines struct {
	next func(n int) string
	n    int
	rest string
}

func (l *lines) Read(b []byte) (int, error) {
	if l.rest == "" {
		l.n++
		if l.rest = l.next(l.n); l.rest == "" {
			return 0, io.EOF
		}
	}
	n := copy(b, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

func validLine(n int) string {
	return fmt.Sprintf("{\"name\":\"k\",\"access\":\"read_only\",\"token\":\"legacy-%032d\"}\n", n)
}

func (d *testAPI) importFrom(
	t *testing.T, c manage.Caller, query, contentType string, body io.Reader,
) answer {
	t.Helper()
	r := httptest.NewRequest("POST", api.Prefix+"/keys/import"+query, body)
	r.Header.Set("Content-Type", contentType)
	return d.send(t, c, r)
}

// TestImportOfInvalidLines checks that an import stops when too many keys are refused, and lists
// each refusal once.
func TestImportOfInvalidLines(t *testing.T) {
	unknown := `{"` + strings.Repeat(`a":0,"a`, 200) + `":0`
	for i := range 200 {
		unknown = strings.Replace(unknown, `"a"`, fmt.Sprintf(`"%d"`, i), 1)
	}
	for name, line := range map[string]string{
		"not an object":       "0",
		"not JSON":            "{",
		"unknown fields":      unknown + "}",
		"a long unknown name": `{"` + strings.Repeat("<", 5000) + `":0}`,
		"invalid permissions": `{"name":"x","permissions":["` + strings.Repeat(`<>","`, 120) +
			`"]}`, // more errors than an answer names
	} {
		for _, query := range []string{"", "?partial=1"} {
			t.Run(name+query, func(t *testing.T) {
				d := open(t)
				body := &lines{next: func(n int) string {
					if n > 5000 {
						return ""
					}
					return line + "\n"
				}}
				a := d.importFrom(t, root, query, api.NDJSON, body)
				p := a.problem(t)
				if p.Status != 422 || p.Code != "too_many_refused" || len(p.Refused) != 1000 ||
					len(p.Errors) != 0 || !strings.Contains(p.Detail, "more than 1000") {
					t.Errorf("%d %s, %d refused, %d errors: %s", p.Status, p.Code, len(p.Refused),
						len(p.Errors), p.Detail)
				}
				if body.n > 2100 || len(a.text) > 8<<20 {
					t.Errorf("%d lines were read, and %d bytes answered", body.n, len(a.text))
				}
			})
		}
	}
}

// TestPartialImportStreams checks that a partial import imports keys before the body ends.
func TestPartialImportStreams(t *testing.T) {
	d := open(t)
	stored := func() int {
		list, _, err := d.keys.ListKeys(t.Context(), root, keystore.KeyFilter{}, "", 1000)
		if err != nil {
			t.Error(err)
		}
		return len(list)
	}
	a := d.importFrom(t, root, "?partial=1", api.NDJSON, &lines{next: func(n int) string {
		if n == 1002 && stored() != 999 {
			t.Errorf("%d keys are stored when line %d is read", stored(), n)
		}
		if n == 1100 {
			return strings.Repeat("x", 2<<20)
		}
		return validLine(max(n, 2)) // the second is refused
	}})
	p := a.problem(t)
	if p.Status != 400 || !strings.Contains(p.Detail, "999 keys were imported before this") ||
		!strings.Contains(p.Detail, "line 1100") ||
		len(p.Refused) != 1 || p.Refused[0].Line != 2 {
		t.Errorf("%d %s: %s, %v", p.Status, p.Code, p.Detail, p.Refused)
	}
}

// TestImportOfEndlessKey checks the limit of the length of a key, in both formats.
func TestImportOfEndlessKey(t *testing.T) {
	for contentType, start := range map[string]string{api.NDJSON: `{"name":"`,
		api.JSON: `{"keys":[{},{"name":"`} {
		for _, filler := range []string{"x", " "} {
			d := open(t)
			body := &lines{next: func(n int) string {
				if n == 1 && filler == " " {
					return strings.TrimSuffix(start, `{"name":"`) + filler
				}
				if n == 1 {
					return start
				}
				return strings.Repeat(filler, 32<<10)
			}}
			a := d.importFrom(t, root, "", contentType, body)
			if p := a.problem(t); p.Status != 400 || !strings.Contains(p.Detail, "longer than") {
				t.Errorf("%s: %s", contentType, a.text)
			}
			if body.n > 150 {
				t.Errorf("%s: %d chunks of 32 KiB were read", contentType, body.n)
			}
		}
	}
	d := open(t)
	long := `{"name":"` + strings.Repeat("x", 1<<20-20) + `"}`
	if a := d.importFrom(t, root, "", api.JSON,
		strings.NewReader(`{"keys":[`+long+`,`+long+`]}`)); a.status != 422 ||
		len(a.problem(t).Refused) != 2 {
		t.Errorf("keys of just under 1 MiB: %.300s", a.text)
	}
}

// TestImportByKey checks that only root may import any number of keys at once.
func TestImportByKey(t *testing.T) {
	d := open(t)
	key := d.caller(t, d.mint(t, root,
		`{"name":"importer","permissions":["admin.keys:create","read"]}`).Token)
	long := strings.Repeat("x", 900_000)
	for name, line := range map[string]func(n int) string{
		"many": validLine,
		"long": func(n int) string {
			return fmt.Sprintf(
				`{"name":"k","access":"read_only","token":"legacy-%09d","metadata":{"a":"%s"}}`+"\n",
				n, long)
		},
	} {
		body := &lines{next: line}
		a := d.importFrom(t, key, "", api.NDJSON, body)
		if p := a.problem(t); p.Status != 422 || p.Code != "too_many" {
			t.Errorf("%s: %s", name, a.text)
		}
		if body.n > 10_100 {
			t.Errorf("%s: %d lines were read", name, body.n)
		}
	}
	a := d.importFrom(t, key, "", api.NDJSON, &lines{next: func(n int) string {
		if n > 2000 {
			return ""
		}
		return validLine(n)
	}})
	if a.status != 201 {
		t.Errorf("2000 keys: %s", a.text)
	}
}

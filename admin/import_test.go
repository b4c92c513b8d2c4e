package admin_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

func TestImport(t *testing.T) {
	const one, two = "legacy-credential-one", "legacy-credential-two"
	sum := sha256.Sum256([]byte(two))
	lines := []string{
		fmt.Sprintf(`{"name":"one","access":"read_only","token":%q}`, one),
		fmt.Sprintf(`{"name":"two","access":"read_only","sha256":%q,"metadata":{"from":"before"}}`, hex.EncodeToString(sum[:])),
	}
	for contentType, body := range map[string]string{
		api.JSON:                              `{"keys":[` + strings.Join(lines, ",") + `]}`,
		api.NDJSON:                            strings.Join(lines, "\n"),
		api.NDJSON + "; charset=utf-8":        "\n" + strings.Join(lines, "\r\n\r\n") + "\r\n",
		"application/json; charset=\"utf-8\"": " { \"keys\" : [\n" + strings.Join(lines, " , ") + " ] } \n",
	} {
		t.Run(contentType, func(t *testing.T) {
			d := open(t)
			a := d.call(t, root, "POST", "/keys/import", body, "Content-Type", contentType)
			if a.status != 201 || strings.TrimSpace(a.text) != `{"imported":2,"refused":[]}` {
				t.Fatalf("%d %s", a.status, a.text)
			}
			for token, name := range map[string]string{one: "one", two: "two"} {
				var v api.Verdict
				d.call(t, root, "POST", "/verify", api.VerifyRequest{Token: token}).into(t, 200, &v)
				if v.Outcome != "ok" || v.Key == nil || v.Key.Name != name {
					t.Errorf("%s: %+v", name, v)
				}
			}
			// A second time, none of them.
			a = d.call(t, root, "POST", "/keys/import", body, "Content-Type", contentType)
			if p := a.problem(t); p.Status != 422 || len(p.Refused) != 2 || p.Refused[0].Code != "already_used" || strings.Contains(a.text, one) {
				t.Errorf("again: %s", a.text)
			}
		})
	}
}

// TestImportRefusals imports one good line among bad ones.
func TestImportRefusals(t *testing.T) {
	d := open(t)
	minted := d.mint(t, root, readOnly)
	forged := minted.Token[:len(minted.Token)-1] + map[bool]string{true: "0", false: "1"}[minted.Token[len(minted.Token)-1] != '0']
	const good = "a-good-credential"
	lines := []struct{ text, code, about string }{
		{fmt.Sprintf(`{"name":"good","access":"read_only","token":%q}`, good), "", ""},
		{``, "", ""},
		{`{"name":"x","access":"read_only"`, "syntax", ""},
		{`{"name":"x","name":"y","access":"read_only","token":"credential-a"}`, "syntax", "name"},
		{`{"access":"read_only","token":"credential-b"}`, "invalid_fields", "name"},
		{`{"name":"x","access":"read_only","token":"credential-c","tokn":1}`, "invalid_fields", "tokn"},
		{`{"name":"x","access":"read_only"}`, "invalid_fields", "sha256"},
		{`{"name":"x","access":"read_only","token":"credential-d","sha256":"` + strings.Repeat("0a", 32) + `"}`, "invalid_fields", "sha256"},
		{`{"name":"x","access":"read_only","sha256":"` + strings.Repeat("0a", 31) + `"}`, "invalid_fields", "sha256"},
		{`{"name":"x","access":"read_only","sha256":"` + strings.Repeat("0a", 33) + `"}`, "invalid_fields", "sha256"},
		{`{"name":"x","access":"read_only","sha256":"` + strings.Repeat("zz", 32) + `"}`, "invalid_fields", "sha256"},
		{`{"name":"x","access":"read_only","token":"short"}`, "invalid_credential", "8 to 512"},
		{`{"name":"x","access":"read_only","token":"with a space in it"}`, "invalid_credential", "visible"},
		{`{"name":"x","access":"read_only","token":"` + forged + `"}`, "invalid_credential", "prefix"},
		{`{"name":"x","access":"read_only","token":"` + minted.Token + `"}`, "exists", ""},
		{`{"name":"x","access":"read_only","token":"` + good + `"}`, "already_used", ""},
		{`{"name":"x","access":"read_only","token":"credential-e","rate_limit":{"requests":1}}`, "not_built", "rate_limit"},
		{`{"name":"x","access":"read_only","token":"credential-f","expires_at":"2001-01-01T00:00:00Z"}`, "invalid_fields", "expires_at"},
		{`{"name":"x","access":"read_only","token":"credential-g","namespace":"nowhere"}`, "invalid_fields", "nowhere"},
		{`{"name":"x","token":"credential-h","permissions":["a b"]}`, "invalid_fields", "permissions[0]"},
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
				t.Errorf("line %d: %q says nothing about %q", r.Line, r.Detail, lines[r.Line-1].about)
			}
		}
		if !reflect.DeepEqual(got, codes) {
			t.Errorf("refused\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(codes, "\n"))
		}
	}

	whole := d.call(t, root, "POST", "/keys/import", body.String(), "Content-Type", api.NDJSON)
	if p := whole.problem(t); p.Status != 422 || p.Code != "invalid_fields" || len(p.Errors) != len(codes) {
		t.Errorf("all or nothing: %s", whole.text)
	} else {
		check(p.Refused)
	}
	var list api.Keys
	d.call(t, root, "GET", "/keys", nil).into(t, 200, &list)
	if len(list.Items) != 1 {
		t.Fatalf("%d keys after an import that was refused, want 1", len(list.Items))
	}

	partial := d.call(t, root, "POST", "/keys/import?partial=1", body.String(), "Content-Type", api.NDJSON)
	var imported api.Imported
	partial.into(t, 201, &imported)
	check(imported.Refused)
	if imported.Imported != 1 {
		t.Errorf("imported %d, want 1", imported.Imported)
	}
	for _, secret := range []string{good, minted.Token, forged, "credential-", "with a space"} {
		if strings.Contains(whole.text+partial.text+d.log.String(), secret) {
			t.Errorf("an answer or the log repeats a token that was sent")
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
		if a := d.call(t, root, "POST", "/keys/import", body, "Content-Type", contentType); a.status != 201 {
			t.Errorf("nothing to import: %s", a.text)
		}
	}
}

// TestImportLong is longer than any other body may be.
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
	d.call(t, root, "POST", "/keys/import", body.String(), "Content-Type", api.NDJSON, "Idempotency-Key", "the lot").into(t, 201, &got)
	if got.Imported != n {
		t.Errorf("imported %d of %d", got.Imported, n)
	}
	if p := d.call(t, root, "POST", "/keys/import", body.String(), "Content-Type", api.NDJSON, "Idempotency-Key", "the lot").problem(t); p.Code != "already_made" {
		t.Errorf("a repeat: %+v", p)
	}
}

package admin_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

var nobody = manage.Anonymous("198.51.100.7")

// report sends reports without a caller and returns the labels.
func (d *testAPI) report(t *testing.T, reports ...api.LeakReport) []string {
	t.Helper()
	var labels []api.LeakLabel
	d.call(t, nobody, "POST", "/leaks", leakBody(reports...)).into(t, 200, &labels)
	out := make([]string, len(labels))
	for i, l := range labels {
		sum := sha256.Sum256([]byte(reports[i].Token))
		if l.TokenHash != hex.EncodeToString(sum[:]) || l.TokenType != reports[i].Type {
			t.Errorf("label %+v of %+v", l, reports[i])
		}
		out[i] = l.Label
	}
	return out
}

// leakBody is what a scanner sends.
func leakBody(reports ...api.LeakReport) string {
	list := make([]map[string]string, len(reports))
	for i, r := range reports {
		list[i] = map[string]string{"token": r.Token, "type": r.Type, "url": r.URL,
			"source": r.Source, "later_field": "x"}
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// leaked returns the rows about leaked tokens, newest first.
func (d *testAPI) leaked(t *testing.T) []api.AuditRow {
	t.Helper()
	var rows api.AuditRows
	d.call(t, root, "GET", "/audit?action=key.leaked", nil).into(t, 200, &rows)
	return rows.Items
}

func TestLeaks(t *testing.T) {
	d := open(t)
	keys := make(map[string]api.Minted)
	for id, onLeak := range map[string]string{"r": `"revoke"`, "i": `"inactivate"`, "n": `"notify"`,
		"none": "null"} {
		d.call(t, root, "POST", "/namespaces", `{"id":"`+id+`"}`).into(t, 201, new(api.Namespace))
		d.call(t, root, "PATCH", "/namespaces/"+id, `{"on_leak":`+onLeak+`}`).into(t, 200,
			new(api.NamespaceChanged))
		keys[id] = d.mint(t, root, `{"name":"CI","access":"read_only","namespace":"`+id+`"}`)
	}
	var member api.Member
	d.call(t, root, "POST", "/members", `{"name":"Ada"}`).into(t, 201, &member)
	var token api.MemberChanged
	d.call(t, root, "POST", "/members/"+member.ID+"/token", `{}`).into(t, 200, &token)

	report := func(m string) api.LeakReport {
		return api.LeakReport{Token: m, Type: "ak", URL: "https://example.com/a?token=" + m,
			Source: "commit\x00\n"}
	}
	forged := keys["r"].Token[:len(keys["r"].Token)-1] + "!"
	labels := d.report(t, report(keys["r"].Token), report(keys["i"].Token),
		report(keys["n"].Token), report(keys["none"].Token), report(token.Token), report(forged),
		report("x"), report(keys["r"].Token))
	want := "true_positive true_positive true_positive true_positive true_positive " +
		"false_positive false_positive true_positive"
	if got := strings.Join(labels, " "); got != want {
		t.Errorf("labels %s", got)
	}
	for id, want := range map[string]string{"r": "revoked", "i": "inactive", "n": "active",
		"none": "active"} {
		var k api.Key
		d.call(t, root, "GET", "/keys/"+keys[id].Key.ID, nil).into(t, 200, &k)
		if k.Status != want {
			t.Errorf("key in %s is %s, want %s", id, k.Status, want)
		}
		if id == "r" && (k.RevokedBy == nil || *k.RevokedBy != k.ID ||
			!strings.HasPrefix(*k.RevokeReason, "leaked: ")) {
			t.Errorf("revoked key %+v", k)
		}
	}
	if a, err := d.keys.LookupMember(t.Context(), token.Token, d.keys.Now()); err != nil ||
		a.Record == nil {
		t.Errorf("member token: %+v %v", a, err)
	} else if verdict := d.call(t, root, "GET", "/audit?action=key.revoke", nil); strings.Count(
		verdict.text, `"key.revoke"`) != 2 {
		t.Errorf("revokes: %s", verdict.text)
	}
	rows := d.leaked(t)
	if len(rows) != 5 {
		t.Fatalf("%d rows: %+v", len(rows), rows)
	}
	for _, row := range rows {
		text, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), `"url":"(withheld`) ||
			!strings.Contains(string(text), `"source":"commit"`) ||
			row.Address != "198.51.100.7" || row.Actor != row.Object {
			t.Errorf("row %s", text)
		}
		for _, m := range keys {
			if strings.Contains(string(text), m.Token) {
				t.Error("a row contains a token")
			}
		}
	}
	if strings.Contains(d.log.String(), keys["r"].Token) {
		t.Error("the log contains a token")
	}
}

// TestRepeatedLeaks: nobody can fill the audit log by reporting one token repeatedly, and invented
// tokens leave nothing behind.
func TestRepeatedLeaks(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"r","on_leak":"revoke"}`).into(t, 201,
		new(api.Namespace))
	notified := d.mint(t, root, `{"name":"CI","access":"read_only"}`)
	revoked := d.mint(t, root, `{"name":"CI","access":"read_only","namespace":"r"}`)
	for i := range 30 {
		for range 2 {
			d.report(t, api.LeakReport{Token: notified.Token, URL: fmt.Sprint("https://x/", i)})
		}
	}
	if rows := d.leaked(t); len(rows) != 20 {
		t.Errorf("%d rows about one key", len(rows))
	}
	for i := range 3 {
		labels := d.report(t, api.LeakReport{Token: revoked.Token,
			URL: fmt.Sprint("https://x/", i)})
		if labels[0] != "true_positive" {
			t.Errorf("label %s", labels[0])
		}
	}
	if rows := d.leaked(t); len(rows) != 21 {
		t.Errorf("%d rows after a revoke", len(rows))
	}
	// The old token of a rotated key proves nothing about the new one.
	var rotated api.KeyChanged
	old := d.mint(t, root, `{"name":"CI","access":"read_only","namespace":"r"}`)
	d.call(t, root, "POST", "/keys/"+old.Key.ID+"/rotate", `{}`).into(t, 200, &rotated)
	if labels := d.report(t, api.LeakReport{Token: old.Token}); labels[0] != "true_positive" {
		t.Errorf("label %s", labels[0])
	}
	var k api.Key
	d.call(t, root, "GET", "/keys/"+old.Key.ID, nil).into(t, 200, &k)
	if k.Status != "active" || len(d.leaked(t)) != 21 {
		t.Errorf("a report of a rotated token changed %+v", k)
	}
	before := d.keys.Applied()
	var many []api.LeakReport
	for i := range 100 {
		many = append(many, api.LeakReport{Token: fmt.Sprint("ak_invented", i), URL: "https://x"})
	}
	for _, label := range d.report(t, many...) {
		if label != "false_positive" {
			t.Errorf("label %s", label)
		}
	}
	if d.keys.Applied() != before || len(d.leaked(t)) != 21 {
		t.Error("invented tokens changed something")
	}
}

// TestImportedLeaks: credentials without a tag are recognized by their digest, and guessing them is
// limited.
func TestImportedLeaks(t *testing.T) {
	d := open(t)
	d.call(t, root, "POST", "/namespaces", `{"id":"r","on_leak":"revoke"}`).into(t, 201,
		new(api.Namespace))
	d.call(t, root, "POST", "/keys/import", `{"keys":[{"name":"ERP","namespace":"r",
		"access":"read_only","token":"plain-words"}]}`).into(t, 201, new(api.Imported))
	if labels := d.report(t, api.LeakReport{Token: "plain-words", URL: "https://x/plain-words"},
		api.LeakReport{Token: "other-words"}); labels[0] != "true_positive" ||
		labels[1] != "false_positive" {
		t.Errorf("labels %v", labels)
	}
	if rows := d.leaked(t); len(rows) != 1 ||
		strings.Contains(string(rows[0].After), "plain-words") {
		t.Errorf("rows %+v", rows)
	}
	tagged := d.mint(t, root, `{"name":"CI","access":"read_only","namespace":"r"}`)
	limited := false
	for i := range 300 {
		reports := []api.LeakReport{{Token: fmt.Sprint("guess-", i)}}
		if limited {
			reports = append(reports, api.LeakReport{Token: tagged.Token})
		}
		status := d.call(t, nobody, "POST", "/leaks", leakBody(reports...)).status
		if limited {
			break
		}
		limited = status == http.StatusTooManyRequests
	}
	var k api.Key
	d.call(t, root, "GET", "/keys/"+tagged.Key.ID, nil).into(t, 200, &k)
	if !limited || k.Status != "revoked" {
		t.Errorf("limited %v; a token beside guesses is %s", limited, k.Status)
	}
}

func TestInvalidLeakReports(t *testing.T) {
	d := open(t)
	for name, c := range map[string]struct {
		body   string
		status int
	}{
		"too many":    {"[" + strings.Repeat(`{"token":"x"},`, 100) + `{"token":"x"}]`, 422},
		"no token":    {`[{"url":"https://x"}]`, 422},
		"no list":     {`{"token":"x"}`, 422},
		"too long":    {`[{"token":"` + strings.Repeat("x", 1<<20) + `"}]`, 413},
		"not JSON":    {`token`, 400},
		"empty list":  {`[]`, 200},
		"empty texts": {`[{"token":"x","url":"","type":"","source":""}]`, 200},
		"null":        {`null`, 422},
	} {
		if got := d.call(t, nobody, "POST", "/leaks", c.body).status; got != c.status {
			t.Errorf("%s: %d, want %d", name, got, c.status)
		}
	}
	if got := d.call(t, nobody, "GET", "/leaks", nil).status; got != 405 {
		t.Errorf("GET: %d", got)
	}
}

// TestDerivedLeaks: a derived token stands for the key that it was derived from, if its signature
// is valid.
func TestDerivedLeaks(t *testing.T) {
	d := open(t)
	d.call(t, root, "PATCH", "/namespaces/default", `{"on_leak":"revoke"}`).into(t, 200,
		new(api.NamespaceChanged))
	m := d.mint(t, root, `{"name":"CI","access":"read_only"}`)
	derive := func(life time.Duration) string {
		derived, err := keystore.Derive(m.Token, keystore.Caveats{ExpiresAt: time.Now().Add(life)})
		if err != nil {
			t.Fatal(err)
		}
		return derived
	}
	derived := derive(48 * time.Hour) // not valid before tomorrow
	signature := strings.LastIndexByte(derived, '.') + 1
	if signature == 0 {
		t.Fatal("no signature")
	}
	changed := byte('A')
	if derived[signature+5] == 'A' {
		changed = 'B'
	}
	forged := derived[:signature+5] + string(changed) + derived[signature+6:]
	status := func() string {
		var k api.Key
		d.call(t, root, "GET", "/keys/"+m.Key.ID, nil).into(t, 200, &k)
		return k.Status
	}
	if got := d.report(t, api.LeakReport{Token: forged}); got[0] != "false_positive" ||
		status() != "active" {
		t.Errorf("forged: %v, the key is %s", got, status())
	}
	// Nobody can use it any more.
	if d.report(t, api.LeakReport{Token: derive(-time.Hour)}); status() != "active" {
		t.Errorf("after an expired derived token, the key is %s", status())
	}
	if got := d.report(t, api.LeakReport{Token: derived,
		URL: "https://x/" + derived}); got[0] != "true_positive" || status() != "revoked" {
		t.Errorf("derived: %v, the key is %s", got, status())
	}
	if rows := d.leaked(t); len(rows) != 1 || !strings.Contains(string(rows[0].After),
		"(withheld") {
		t.Errorf("rows %+v", rows)
	}
}

// TestForgedDerivedLeaks: reports of derived tokens are limited like those of other credentials
// that anyone can make up, even if they are longer than any other credential.
func TestForgedDerivedLeaks(t *testing.T) {
	d := open(t)
	for name, namespace := range map[string]string{"short": "acme", "long": strings.Repeat("a", 63)} {
		c := keystore.Caveats{ExpiresAt: time.Now().Add(time.Hour)}
		for i := range 8 {
			c.Namespaces = append(c.Namespaces, fmt.Sprint(namespace[:len(namespace)-1], i))
		}
		limited := false
		for n := 0; n < 3 && !limited; n++ {
			var reports []api.LeakReport
			for i := range manage.MaxLeaks {
				forged, err := keystore.Derive(fmt.Sprint("nobody's-", n, "-", i), c)
				if err != nil {
					t.Fatal(err)
				}
				reports = append(reports, api.LeakReport{Token: forged})
			}
			limited = d.call(t, nobody, "POST", "/leaks", leakBody(reports...)).status ==
				http.StatusTooManyRequests
		}
		if !limited {
			t.Errorf("%s: not limited", name)
		}
	}
}

// TestInvalidLeakEntries reports a live token beside entries that are not valid. They must not keep
// it alive.
func TestInvalidLeakEntries(t *testing.T) {
	d := open(t)
	d.call(t, root, "PATCH", "/namespaces/default", `{"on_leak":"revoke"}`).into(t, 200,
		new(api.NamespaceChanged))
	for _, entry := range []string{`null`, `{"token":null}`, `{"token":1}`, `{}`, `"x"`, `[]`,
		`{"token":""}`, `{"token":"` + strings.Repeat("x", 9000) + `"}`,
		`{"token":"x","url":null,"type":7,"source":{}}`} {
		m := d.mint(t, root, `{"name":"CI","access":"read_only"}`)
		var labels []api.LeakLabel
		d.call(t, nobody, "POST", "/leaks", `[`+entry+`,{"token":"`+m.Token+
			`","url":null}]`).into(t, 200, &labels)
		if len(labels) != 2 || labels[0].Label != "false_positive" ||
			labels[1].Label != "true_positive" {
			t.Errorf("beside %.40s: %+v", entry, labels)
		}
		var k api.Key
		d.call(t, root, "GET", "/keys/"+m.Key.ID, nil).into(t, 200, &k)
		if k.Status != "revoked" {
			t.Errorf("beside %.40s: the key is %s", entry, k.Status)
		}
	}
}

// gitHubExample is an example of GitHub's documentation: the key, a body and its signature.
var gitHubExample = struct{ id, key, body, signature string }{
	id: "90a421169f0a406205f1563a953312f0be898d3c7b6c06b681aa86a874555f4a",
	key: "-----BEGIN PUBLIC KEY-----\n" +
		"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9MJJHnMfn2+H4xL4YaPDA4RpJqUq\n" +
		"kCmRCBnYERxZanmcpzQSXs1X/AljlKkbJ8qpVIW4clayyef9gWhFbNHWAA==\n" +
		"-----END PUBLIC KEY-----",
	body: `[{"token":"some_token","type":"some_type","url":"some_url"}]`,
	signature: "MEUCIQDKZokqnCjrRtw0tni+2Ltvl/uiMJ1EGumEsp1BsNr32AIgQY1YXD2nlj+XNfGK4rBfkMJ1JDO" +
		"QcYXxa2sY8FNkrKc=",
}

// keysDocument is what GitHub serves.
func keysDocument(t *testing.T, keys map[string]string) string {
	t.Helper()
	list := []map[string]any{{"key_identifier": "broken", "key": "x", "is_current": false}}
	for id, key := range keys {
		list = append(list, map[string]any{"key_identifier": id, "key": key, "is_current": true})
	}
	text, err := json.Marshal(map[string]any{"public_keys": list})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// signer returns a public key, and a function that signs bodies with its private key.
func signer(t *testing.T) (public string, sign func(body string) string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return public, func(body string) string {
		sum := sha256.Sum256([]byte(body))
		signature, err := ecdsa.SignASN1(rand.Reader, private, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(signature)
	}
}

// TestLeakKeysSources: redirects are not followed, and a file is read again with each
// configuration.
func TestLeakKeysSources(t *testing.T) {
	public, sign := signer(t)
	d := open(t)
	status := func(id string) int {
		return d.call(t, nobody, "POST", "/leaks", `[]`, "Github-Public-Key-Identifier", id,
			"Github-Public-Key-Signature", sign(`[]`)).status
	}
	document := keysDocument(t, map[string]string{"ours": public})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/", http.StatusFound)
			return
		}
		fmt.Fprint(w, document)
	}))
	defer server.Close()
	d.SetLeakKeys(admin.NewLeakKeys(server.URL + "/moved"))
	if got := status("ours"); got != 503 {
		t.Errorf("after a redirect: %d", got)
	}

	file := filepath.Join(t.TempDir(), "keys.json")
	for _, id := range []string{"first", "second"} {
		text := keysDocument(t, map[string]string{id: public})
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d.SetLeakKeys(admin.NewLeakKeys(file))
		if got := status(id); got != 200 {
			t.Errorf("%s key of a file: %d", id, got)
		}
	}
}

// TestLeakKeysWait: a report with a known key does not wait while the keys are read again.
func TestLeakKeysWait(t *testing.T) {
	public, sign := signer(t)
	entered, proceed := make(chan struct{}), make(chan struct{})
	again := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if again {
			close(entered)
			<-proceed
		}
		again = true
		fmt.Fprint(w, keysDocument(t, map[string]string{"ours": public}))
	}))
	defer server.Close()
	d := open(t)
	keys := admin.NewLeakKeys(server.URL)
	d.SetLeakKeys(keys)
	status := func(id string) int {
		return d.call(t, nobody, "POST", "/leaks", `[]`, "Github-Public-Key-Identifier", id,
			"Github-Public-Key-Signature", sign(`[]`)).status
	}
	if got := status("ours"); got != 200 {
		t.Fatal(got)
	}
	keys.Age(2 * time.Minute)
	unknown := make(chan int)
	go func() { unknown <- status("unknown") }()
	<-entered
	if got := status("ours"); got != 200 {
		t.Errorf("a known key during a read: %d", got)
	}
	close(proceed)
	if got := <-unknown; got != 401 {
		t.Errorf("an unknown key: %d", got)
	}
}

func TestSignedLeakReports(t *testing.T) {
	public, sign := signer(t)
	g := gitHubExample
	document := keysDocument(t, map[string]string{g.id: g.key, "ours": public})
	var fetched atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		fmt.Fprint(w, document)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{server.URL, file} {
		d := open(t)
		d.SetLeakKeys(admin.NewLeakKeys(source))
		status := func(body, id, signature string) int {
			return d.call(t, nobody, "POST", "/leaks", body, "Github-Public-Key-Identifier", id,
				"Github-Public-Key-Signature", signature).status
		}
		d.call(t, root, "PATCH", "/namespaces/default", `{"on_leak":"revoke"}`).into(t, 200,
			new(api.NamespaceChanged))
		m := d.mint(t, root, `{"name":"CI","access":"read_only"}`)
		body := leakBody(api.LeakReport{Token: m.Token, URL: "https://github.com/x"})
		for _, c := range []struct {
			name, body, id, signature string
			want                      int
		}{
			{"GitHub's example", g.body, g.id, g.signature, 200},
			{"GitHub's example with another body", g.body + " ", g.id, g.signature, 401},
			{"of another key", body, g.id, sign(body), 401},
			{"unknown key", body, "nobody's", sign(body), 401},
			{"no signature", body, "ours", "", 401},
			{"no key", body, "", sign(body), 401},
			{"not base64", body, "ours", "!", 401},
			{"key on no curve", body, "broken", sign(body), 401},
		} {
			if got := status(c.body, c.id, c.signature); got != c.want {
				t.Errorf("%s: %d, want %d", c.name, got, c.want)
			}
		}
		var k api.Key
		d.call(t, root, "GET", "/keys/"+m.Key.ID, nil).into(t, 200, &k)
		if k.Status != "active" {
			t.Errorf("a report with a bad signature made the key %s", k.Status)
		}
		if got := status(body, "ours", sign(body)); got != 200 {
			t.Errorf("signed: %d", got)
		}
		d.call(t, root, "GET", "/keys/"+m.Key.ID, nil).into(t, 200, &k)
		rows := d.leaked(t)
		if k.Status != "revoked" || len(rows) != 1 ||
			!strings.Contains(string(rows[0].After), `"signed":true`) {
			t.Errorf("the key is %s", k.Status)
		}
		d.SetLeakKeys(nil)
		if got := status(g.body, g.id, g.signature); got != 401 {
			t.Errorf("without leak_keys: %d", got)
		}
	}
	if n := fetched.Load(); n != 1 {
		t.Errorf("the keys were fetched %d times", n)
	}
	d := open(t)
	d.SetLeakKeys(admin.NewLeakKeys(filepath.Join(t.TempDir(), "missing.json")))
	if got := d.call(t, nobody, "POST", "/leaks", g.body, "Github-Public-Key-Identifier", g.id,
		"Github-Public-Key-Signature", g.signature).status; got != 503 {
		t.Errorf("keys that cannot be read: %d", got)
	}
	if !admin.Open(api.Prefix + "/leaks") {
		t.Error("reports on a site require a caller")
	}
}

package scenarios

import (
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestCompressedETag checks that conditional requests work with the ETag of a response that
// `encode` has compressed.
func TestCompressedETag(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: `
		encode {
			gzip
			zstd
			minimum_length 1
		}
		api_keys_admin
		respond 404`})
	member := g.Call(t, "POST", "/members",
		gate.JSON{"name": "Ada", "grants": []gate.JSON{{"namespace": "*",
			"roles": []string{"client-admin"}}}}).JSON()["id"].(string)
	token := g.Call(t, "POST", "/members/"+member+"/token", nil).JSON()["token"].(string)
	bearer := "Authorization: Bearer " + token
	for _, coding := range []string{"gzip", "zstd"} {
		path := "/apikeys/v1/keys/" + g.Mint(t, gate.JSON{"name": "a", "access": "read_only"}).ID
		shown := g.Do(t, gate.Request{Target: path,
			Header: []string{bearer, "Accept-Encoding: " + coding}})
		etag := shown.Header.Get("ETag")
		if shown.Status != 200 || etag != `"1-`+coding+`"` {
			t.Fatalf("ETag %s: %v", etag, shown.Header)
		}
		change := gate.Request{Method: "PATCH", Target: path,
			Header: []string{bearer, "If-Match: \"7\", " + etag,
				"Content-Type: application/json"}, Body: `{"name":"b"}`}
		if r := g.Do(t, change); r.Status != 200 {
			t.Errorf("If-Match: %s: %d %s", etag, r.Status, r.Body)
		}
		if r := g.Do(t, change); r.Status != 412 {
			t.Errorf("If-Match: %s, and version 2: %d %s", etag, r.Status, r.Body)
		}
		if r := g.Do(t, gate.Request{Target: path,
			Header: []string{bearer, "If-None-Match: \"2-" + coding + "\""}}); r.Status != 304 {
			t.Errorf("If-None-Match: %d %s", r.Status, r.Body)
		}
	}
}

package route

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// publicDocument decompresses a document of testdata/openapi (see NOTICE there) and returns its
// path.
func publicDocument(t testing.TB, name string) string {
	t.Helper()
	packed, err := os.Open(filepath.Join("testdata", "openapi", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packed.Close() }()
	text, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, text); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}

// TestPublicDocuments checks that every operation of large public documents is found and has its
// own permission.
func TestPublicDocuments(t *testing.T) {
	for _, test := range []struct {
		name       string
		operations int
		calls      map[string]string
	}{
		{"github.json", 1223, map[string]string{
			"GET /repos/golang/go/compare/a...b":     "repos:repos-compare-commits",
			"GET /repos/golang/go":                   "repos:repos-get",
			"HEAD /Repos/golang/go/":                 "repos:repos-get",
			"GET /repos/golang/go/issues/1/comments": "issues:issues-list-comments",
			"DELETE /user/emails":                    "users:users-delete-email-for-authenticated-user",
			"GET /user/emails/x":                     "read",
			"POST /orgs/x/actions/runners/1/labels":  "actions:actions-add-custom-labels-to-self-hosted-runner-for-org",
		}},
		{"blockfrost.yaml", 2 * 126, // at /api/v0 and at /
			map[string]string{
				"GET /api/v0/blocks/latest": "cardano---blocks:get--blocks-latest",
				"GET /blocks/7":             "cardano---blocks:get--blocks--hash_or_number-",
				"POST /api/v0/tx/submit":    "cardano---transactions:post--tx-submit",
				"GET /api/v1/blocks/latest": "read",
			}},
		{"rclone.json", 101, map[string]string{"POST /rc/noop": "default:rcNoop",
			"POST /core/version": "default:coreVersion", "GET /rc/noop": "read"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			methods := map[string]keystore.Class{
				"GET": keystore.Read, "HEAD": keystore.Read, "OPTIONS": keystore.Read,
				"POST": keystore.Write, "PUT": keystore.Write, "PATCH": keystore.Write,
				"DELETE": keystore.Write,
			}
			table, err := NewTable(TableConfig{Methods: methods,
				Documents: []OpenAPI{{File: publicDocument(t, test.name)}}})
			if err != nil {
				t.Fatal(err)
			}
			if len(table.Declared) != test.operations {
				t.Errorf("%d operations, want %d", len(table.Declared), test.operations)
			}
			for request, want := range test.calls {
				method, path, _ := strings.Cut(request, " ")
				if need, got, _ := table.Need(method, path, "",
					methods[method]); got != want || got != need.String() {
					t.Errorf("%s requires %s, want %s", request, got, want)
				}
			}
			for _, o := range table.Declared {
				path := strings.NewReplacer("{", "~", "}", "").Replace(o.Path)
				got := table.index.find(o.Method, path)
				compareFinds(t, table.index, o.Method, path)
				if got == nil || got.need.String() != o.Permission {
					t.Errorf("%s %s: found %v, want %s", o.Method, path, got, o.Permission)
				}
			}
		})
	}
}

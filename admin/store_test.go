package admin_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// A failingDB is a database whose calls fail while down is set.
type failingDB struct {
	keystore.Database
	down atomic.Bool
}

var errDown = errors.New("disk I/O error on /var/lib/apikeys.db")

func (f *failingDB) Update(
	ctx context.Context, change func(keystore.Tx) error,
) (keystore.Revision, error) {
	if f.down.Load() {
		return 0, errDown
	}
	return f.Database.Update(ctx, change)
}

func (f *failingDB) Key(ctx context.Context, id string) (*keystore.Key, error) {
	if f.down.Load() {
		return nil, errDown
	}
	return f.Database.Key(ctx, id)
}

func (f *failingDB) Keys(
	ctx context.Context, filter keystore.KeyFilter, cursor string, limit int,
) ([]keystore.Key, string, error) {
	if f.down.Load() {
		return nil, "", errDown
	}
	return f.Database.Keys(ctx, filter, cursor, limit)
}

func (f *failingDB) Policy(ctx context.Context, since keystore.Position) (*keystore.Policy, error) {
	if f.down.Load() {
		return nil, errDown
	}
	return f.Database.Policy(ctx, since)
}

func (f *failingDB) Audits(
	ctx context.Context, filter keystore.AuditFilter, cursor string, limit int,
) ([]keystore.AuditRow, string, error) {
	if f.down.Load() {
		return nil, "", errDown
	}
	return f.Database.Audits(ctx, filter, cursor, limit)
}

func (f *failingDB) KeyByDigest(
	ctx context.Context, digest keystore.Digest,
) (*keystore.Key, keystore.Position, error) {
	if f.down.Load() {
		return nil, keystore.Position{}, errDown
	}
	return f.Database.KeyByDigest(ctx, digest)
}

func (f *failingDB) Renew(
	ctx context.Context, incarnation string, at keystore.Position,
) (keystore.Head, error) {
	if f.down.Load() {
		return keystore.Head{}, errDown
	}
	return f.Database.Renew(ctx, incarnation, at)
}

// A silentNodeDB is a database with an additional node that acknowledges nothing while silent is
// set.
type silentNodeDB struct {
	keystore.Database
	silent atomic.Bool
}

func (c *silentNodeDB) Nodes(ctx context.Context) ([]keystore.Node, error) {
	nodes, err := c.Database.Nodes(ctx)
	if c.silent.Load() {
		nodes = append(nodes, keystore.Node{Incarnation: "silent", Address: "elsewhere/1",
			Lease: time.Hour, State: keystore.NodeActive})
	}
	return nodes, err
}

// TestPending checks the answer 202 while a node may use the previous state. It names the node and
// its time limit.
func TestPending(t *testing.T) {
	db, err := sqldb.OpenSQLite(context.Background(), fleet.File(t))
	if err != nil {
		t.Fatal(err)
	}
	c := &silentNodeDB{Database: db}
	d := openOn(t, c)
	path := "/keys/" + d.mint(t, root, readOnly).Key.ID
	c.silent.Store(true)
	for _, request := range [][3]string{
		{"PATCH", path, `{"name":"b"}`}, {"POST", path + "/rotate", "{}"},
		{"POST", path + "/grants", `{"add":[{"access":"read_write"}]}`},
		{"POST", path + "/revoke", "{}"}, {"DELETE", path, "{}"},
		{"PATCH", "/namespaces/default", `{"name":"b"}`},
	} {
		var got api.KeyChanged
		d.call(t, root, request[0], request[1]+"?wait=0s", request[2]).into(t, 202, &got)
		p := got.Propagation
		if p.Complete || p.Nodes != 2 || p.Acknowledged != 1 || len(p.Pending) != 1 ||
			p.Pending[0].Node != "elsewhere/1" || time.Until(p.Pending[0].Until) <= 0 {
			t.Errorf("%v: %+v", request, p)
		}
	}
}

// TestStoreFails checks that operations that need the failing database get 503 with the cause only
// in the log, and that they work again afterwards.
func TestStoreFails(t *testing.T) {
	db, err := sqldb.OpenSQLite(context.Background(), fleet.File(t))
	if err != nil {
		t.Fatal(err)
	}
	f := &failingDB{Database: db}
	d := openOn(t, f)
	key := d.mint(t, root, readOnly)
	path := "/keys/" + key.Key.ID
	f.down.Store(true)
	for _, test := range []struct{ method, path, body string }{
		{"POST", "/keys", readOnly},
		{"GET", "/keys", ""},
		{"GET", path, ""},
		{"PATCH", path, `{"name":"b"}`},
		{"DELETE", path, ""},
		{"POST", path + "/revoke", ""},
		{"POST", path + "/rotate", ""},
		{"POST", path + "/grants", `{"add":[{"access":"read_write"}]}`},
		{"POST", "/keys/import",
			`{"keys":[{"name":"a","access":"read_only","token":"a-credential"}]}`},
		{"POST", "/keys/import?partial=1",
			`{"keys":[{"name":"a","access":"read_only","token":"a-credential"}]}`},
		{"GET", "/namespaces", ""},
		{"POST", "/namespaces", `{"id":"acme"}`},
		{"GET", "/namespaces/default", ""},
		{"PATCH", "/namespaces/default", `{"name":"b"}`},
		{"DELETE", "/namespaces/default", ""},
		{"GET", "/roles", ""},
		{"POST", "/roles", `{"namespace":"*","name":"a","permissions":["read"]}`},
		{"GET", "/roles/*/viewer", ""},
		{"GET", "/members", ""},
		{"POST", "/members", `{"name":"Ada"}`},
		{"POST", "/members/m_000000000000/token", ""},
		{"GET", "/audit", ""},
		{"GET", "/audit/verify", ""},
		{"GET", "/audit/export", ""},
		{"GET", "/nodes", ""},
		{"POST", "/verify", `{"token":"` + key.Token + `"}`},
	} {
		d.log.Reset()
		var body any
		if test.body != "" {
			body = test.body
		}
		a := d.call(t, root, test.method, test.path, body)
		if p := a.problem(t); p.Status != 503 || p.Code != "unavailable" ||
			a.header.Get("Retry-After") == "" {
			t.Errorf("%s %s: %v %s", test.method, test.path, a.header, a.text)
		}
		if half := strings.Contains(a.text,
			"completely or not at all"); half != (test.method != "GET" &&
			test.path != "/verify") {
			t.Errorf("%s %s: %s", test.method, test.path, a.text)
		}
		if strings.Contains(a.text, "disk") {
			t.Errorf("%s %s shows the cause: %s", test.method, test.path, a.text)
		}
		if !strings.Contains(d.log.String(), errDown.Error()) {
			t.Errorf("%s %s does not log the cause: %s", test.method, test.path, d.log)
		}
	}
	var h api.Health
	if d.call(t, root, "GET", "/health", nil).into(t, 503, &h); h.Healthy || h.Problem == "" {
		t.Errorf("health: %+v", h)
	}

	f.down.Store(false)
	var k api.Key
	d.call(t, root, "GET", path, nil).into(t, 200, &k)
	if k.Version != 1 {
		t.Errorf("a failed change was partly made: %+v", k)
	}
	if d.call(t, root, "GET", "/health", nil).into(t, 200, &h); !h.Healthy {
		t.Errorf("health: %+v", h)
	}
}

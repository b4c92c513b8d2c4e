package console_test

import (
	"context"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

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

// TestPending checks the progress page until all nodes have applied the change.
func TestPending(t *testing.T) {
	db, err := sqldb.OpenSQLite(ctx, fleet.File(t))
	if err != nil {
		t.Fatal(err)
	}
	c := &silentNodeDB{Database: db}
	s := openOn(t, c, node.Settings{})
	p, developer := s.signedIn(t, "Ada", "*=@client-admin"), s.signedIn(t, "Dev",
		"default=@developer")
	id, _ := p.createKey("name", "A key")
	c.silent.Store(true)
	a := p.submit("/apikeys/keys/"+id+"/revoke", "confirm", "revoke").want(200,
		"<title>Key revoked: applying the change on all servers", "<bdi>Key revoked</bdi>",
		">A key</bdi>", "Applied on 1 of 2 servers</strong>", "elsewhere/1",
		`<noscript><meta http-equiv="refresh"`)
	at := a.At.RequestURI()
	if until := regexp.MustCompile(`until <time datetime="[^"]+">[\d-]{10} \d\d:\d\d:\d\d UTC</time>`); !until.MatchString(a.Text) {
		t.Errorf("no time limit with seconds: %s", a.Text)
	}
	// naming nodes requires admin.nodes:read
	developer.get(at).want(200, "Applied on 1 of 2 servers</strong>",
		"Another server", "Applying the change on all servers", "<h1>Progress of a change").
		lacks("elsewhere/1", "Key revoked")
	// Each refresh names the change, and so does the page of the key.
	p.get(at).want(200, "elsewhere/1", "<bdi>Key revoked</bdi>")
	for range 2 {
		p.get("/apikeys/keys/"+id).want(200, "Key revoked",
			"Applied on 1 of 2 servers</strong>", "elsewhere/1", "Show progress")
	}
	for _, other := range []*person{p, developer} {
		other.get("/apikeys/keys").want(200).lacks("1 of 2 servers")
	}
	developer.get("/apikeys/keys/" + id).want(200).lacks("1 of 2 servers")
	c.silent.Store(false)
	p.get(at).want(200, "<title>Key revoked: applied on all servers",
		"Applied on all servers (1 of 1).", "/apikeys/keys/"+id).
		lacks(`http-equiv="refresh"`, `class="sub"`)
	p.get("/apikeys/keys/"+id).want(200).lacks("1 of 2 servers", "Show progress")
	for _, wrong := range []string{"", "?revision=x&since=1", "?revision=1"} {
		p.get("/apikeys/progress" + wrong).want(404)
	}
}

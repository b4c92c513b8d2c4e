package manage_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// noMetrics is an Observer that counts nothing.
type noMetrics struct{}

func (noMetrics) LookedUp(node.Tier, time.Duration) {}
func (noMetrics) Propagated(time.Duration)          {}
func (noMetrics) UsageFlushed(time.Duration)        {}

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()

	ctx := context.Background()
	db, err := sqldb.OpenSQLite(ctx, filepath.Join(dir, "apikeys.db"))
	if err != nil {
		log.Fatal(err)
	}
	keys, err := manage.Open(ctx, db, nil, node.Settings{}, noMetrics{},
		slog.New(slog.DiscardHandler))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = keys.Close() }()

	root := manage.Root("example")
	key, token, err := keys.MintKey(ctx, root, manage.KeySpec{
		Name: "CI",
		Home: &keystore.Grant{Permissions: []keystore.Permission{{Action: "read"}}},
	}, nil)
	if err != nil {
		log.Fatal(err)
	}

	accepted := func() keystore.Outcome {
		answer, err := keys.Lookup(ctx, token.Reveal(), time.Now())
		switch {
		case err != nil:
			return keystore.Unavailable
		case answer.Outcome != keystore.OK:
			return answer.Outcome
		}
		policy := keys.Policy()
		return keystore.Decide(answer.Record, &keystore.Request{
			Now:       answer.Now,
			Policy:    policy,
			Namespace: policy.Namespace(keystore.DefaultNamespace),
			Need:      keystore.Need{Class: keystore.Read},
		})
	}
	fmt.Println(accepted())

	_, done, err := keys.RevokeKey(ctx, root, key.ID, "leaked", false, manage.ChangeOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("in force on every node:", done.Complete)
	fmt.Println(accepted())
	// Output:
	// ok
	// in force on every node: true
	// revoked
}

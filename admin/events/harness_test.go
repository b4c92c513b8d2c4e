package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// hook is a webhook without filters.
var hook = Webhook{Shown: "https://example.com/h", URL: "https://example.com/h",
	Secrets: []string{testSecret}}

// A receiver is the receiving end of webhooks, in memory.
type receiver struct {
	mu       sync.Mutex
	messages []message
	at       time.Time                     // of the latest one
	answer   func(m *message) (int, error) // nil: 200
	got      chan struct{}                 // with a capacity of one
}

func newReceiver() *receiver { return &receiver{got: make(chan struct{}, 1)} }

func (r *receiver) send(ctx context.Context, m *message, at time.Time) (int, error) {
	r.mu.Lock()
	answer := r.answer
	r.mu.Unlock()
	status, err := 200, error(nil)
	if answer != nil {
		status, err = answer(m)
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err == nil {
		r.mu.Lock()
		r.messages, r.at = append(r.messages, *m), at
		r.mu.Unlock()
		select {
		case r.got <- struct{}{}:
		default:
		}
	}
	return status, err
}

func (r *receiver) answering(f func(m *message) (int, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// types returns the types of the received events, in order.
func (r *receiver) types() (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.messages {
		list = append(list, m.kind)
	}
	return list
}

// firsts returns the ids of the received events, in the order of their first arrival.
func (r *receiver) firsts() (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := make(map[string]bool)
	for _, m := range r.messages {
		if !seen[m.id] {
			seen[m.id] = true
			ids = append(ids, m.id)
		}
	}
	return ids
}

// A testNode is a node with its dispatcher, which delivers to a receiver.
type testNode struct {
	*Dispatcher
	keys  *manage.Keystore
	close func() // at the latest when the test ends
}

func startNode(d fleet.Fleet, to *receiver, hooks ...Webhook) testNode {
	d.Helper()
	n := idleNode(d)
	n.configure(to, hooks...)
	return n
}

func idleNode(d fleet.Fleet) testNode {
	d.Helper()
	return idleNodeOn(d, openSQLite(d))
}

func openSQLite(d fleet.Fleet) *sqldb.DB {
	d.Helper()
	db, err := sqldb.OpenSQLite(context.Background(), d.Path)
	if err != nil {
		d.Fatal(err)
	}
	return db
}

func idleNodeOn(d fleet.Fleet, db keystore.Database) testNode {
	d.Helper()
	logger := slog.New(slog.DiscardHandler)
	k, err := manage.Open(context.Background(), db, nil, node.Settings{Thresholds: true},
		fleet.Observer{}, logger)
	if err != nil {
		d.Fatal(err)
	}
	closing := sync.OnceFunc(func() {
		if err := k.Close(); err != nil {
			d.Error(err)
		}
	})
	d.Cleanup(closing)
	return testNode{New(k, admin.New(k, logger), logger), k, closing}
}

// configure is Configure with a receiver in memory.
func (n testNode) configure(to *receiver, hooks ...Webhook) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range hooks {
		id := hooks[i].ID()
		n.running[id] = n.start(hooks[i], to.send, n.running[id])
	}
}

// audit returns the audit log, oldest first.
func audit(t testing.TB, k *manage.Keystore) (rows []keystore.AuditRow) {
	t.Helper()
	err := k.ExportAudit(context.Background(), fleet.Root, func(page []keystore.AuditRow) error {
		rows = append(rows, page...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// wantAll checks that the events of all rows of the audit log, except the first `after` ones, were
// received, and that their first arrivals were in order.
func wantAll(t testing.TB, k *manage.Keystore, r *receiver, after int) {
	t.Helper()
	var want []string
	for _, row := range audit(t, k)[after:] {
		want = append(want, row.EventID())
	}
	if got := r.firsts(); !slices.Equal(got, want) {
		t.Fatalf("received %d events, want %d\n%v\n%v", len(got), len(want), got, want)
	}
}

func status(t testing.TB, k *manage.Keystore) manage.WebhookStatus {
	t.Helper()
	list, err := k.ListWebhooks(context.Background(), fleet.Root)
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	return list[0]
}

func (r *receiver) last(t testing.TB) (e api.Event) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := json.Unmarshal(r.messages[len(r.messages)-1].body, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

var errDown = errors.New("connection refused")

func mint(t testing.TB, k *manage.Keystore, n int) *keystore.Key {
	t.Helper()
	key, _ := fleet.Mint(t, k, manage.KeySpec{Name: fmt.Sprint("key ", n)})
	return key
}

// noSecrets fails if a text contains a token or the digest of one.
func noSecrets(t testing.TB, text, token string) {
	t.Helper()
	digest := keystore.DigestOf(token)
	if keystore.ContainsToken(text) || strings.Contains(text, token) ||
		strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", digest[:])) {
		t.Errorf("a token or its digest is in %s", text)
	}
}

package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
)

// Store is a server that a node reaches over an Edge.
type Store int

// The stores of a fleet.
const (
	Database Store = iota
	Cache
)

// Stores are all stores.
var Stores = []Store{Database, Cache}

func (s Store) String() string { return [...]string{"PostgreSQL", "Redis"}[s] }

// Edge is the connection from one node to one store, which a proxy can break. It has one state at a
// time, and leaving a broken state closes the connections that were open in it. Its methods are
// safe for concurrent use and return when the new state is in force.
type Edge struct {
	t     testing.TB
	proxy *toxiproxy.Proxy

	mu     sync.Mutex
	toxics []string
}

// NewEdge starts a proxy to an address, in the working state, until the test ends.
func NewEdge(t testing.TB, name, address string) *Edge {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	for try := 0; ; try++ { // another program may take the port before the proxy does
		e := &Edge{t: t, proxy: toxiproxy.NewProxy(server, name,
			fmt.Sprintf("127.0.0.1:%d", freeport.For(t)), address)}
		err := e.proxy.Start()
		if err == nil {
			t.Cleanup(e.proxy.Stop)
			return e
		}
		if try == 4 {
			t.Fatal(err)
		}
	}
}

// Address returns the host:port on which the proxy listens.
func (e *Edge) Address() string { return e.proxy.Listen }

// Cut closes all connections and refuses new ones.
func (e *Edge) Cut() { e.become(false) }

// Hang keeps connections open and accepts new ones, but forwards nothing.
func (e *Edge) Hang() {
	e.become(true, toxic{"timeout", "upstream", nil}, toxic{"timeout", "downstream", nil})
}

// HangReplies forwards what the node sends, but no replies.
func (e *Edge) HangReplies() { e.become(true, toxic{"timeout", "downstream", nil}) }

// Reset resets each connection as soon as the node sends something.
func (e *Edge) Reset() { e.become(true, toxic{"reset_peer", "upstream", nil}) }

// Slow delays data by half of d in each direction.
func (e *Edge) Slow(d time.Duration) {
	half := JSON{"latency": (d / 2).Milliseconds()}
	e.become(true, toxic{"latency", "upstream", half}, toxic{"latency", "downstream", half})
}

// Heal repairs the connection.
func (e *Edge) Heal() { e.become(true) }

// LeadTo connects the proxy to another server of the same kind and keeps its state.
func (e *Edge) LeadTo(address string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	up := e.proxy.Enabled
	e.proxy.Stop()
	e.proxy.Upstream = address
	if !up {
		return
	}
	if err := e.start(); err != nil {
		e.t.Errorf("proxy from %s: %v", e.proxy.Name, err)
	}
}

// start retries for a while, because the kernel may not have freed the port yet.
func (e *Edge) start() error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := e.proxy.Start()
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

type toxic struct {
	kind, stream string
	attributes   JSON
}

func (e *Edge) become(up bool, toxics ...toxic) {
	e.mu.Lock()
	defer e.mu.Unlock()
	changed := make(chan error, 1)
	go func() { changed <- e.change(up, toxics) }()
	select {
	case err := <-changed:
		if err != nil {
			e.t.Errorf("proxy from %s: %v", e.proxy.Name, err)
		}
	case <-time.After(30 * time.Second):
		e.t.Errorf("proxy from %s: stuck", e.proxy.Name)
	}
}

func (e *Edge) change(up bool, toxics []toxic) error {
	if len(e.toxics) > 0 || !up {
		e.proxy.Stop()
	}
	for _, name := range e.toxics {
		if err := e.proxy.Toxics.RemoveToxic(context.Background(), name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	e.toxics = nil
	for _, t := range toxics {
		name := t.kind + " " + t.stream
		text, err := json.Marshal(JSON{"name": name, "type": t.kind, "stream": t.stream,
			"attributes": t.attributes})
		if err != nil {
			return err
		}
		if _, err := e.proxy.Toxics.AddToxicJson(bytes.NewReader(text)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		e.toxics = append(e.toxics, name)
	}
	if up && !e.proxy.Enabled {
		return e.start()
	}
	return nil
}

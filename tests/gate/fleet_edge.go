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

// Store is what a node reaches over an Edge.
type Store int

// The stores of a fleet.
const (
	Database Store = iota
	Cache
)

// Stores are all of them.
var Stores = []Store{Database, Cache}

func (s Store) String() string { return [...]string{"PostgreSQL", "Redis"}[s] }

// Edge is the way from one node to one store, in one state at a time. Its methods may be called by
// any goroutine, and return when the new state is in force. A state that another one follows has
// closed the connections that were open in it.
type Edge struct {
	t     testing.TB
	proxy *toxiproxy.Proxy

	mu     sync.Mutex
	toxics []string
}

// NewEdge is a way of its own, to an address. It is in the good state, and ends with the test.
func NewEdge(t testing.TB, name, address string) *Edge {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	for try := 0; ; try++ { // another program may take a port between our look and the proxy's
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

// Address is where the way begins.
func (e *Edge) Address() string { return e.proxy.Listen }

// Cut closes all connections and refuses new ones.
func (e *Edge) Cut() { e.become(false) }

// Hang is a black hole: connections stay open, new ones are accepted, and nothing comes through.
func (e *Edge) Hang() {
	e.become(true, toxic{"timeout", "upstream", nil}, toxic{"timeout", "downstream", nil})
}

// HangReplies lets what the node sends come through, and nothing back.
func (e *Edge) HangReplies() { e.become(true, toxic{"timeout", "downstream", nil}) }

// Reset breaks each connection as soon as something is sent over it.
func (e *Edge) Reset() { e.become(true, toxic{"reset_peer", "upstream", nil}) }

// Slow delays all that is sent, either way, by half of d.
func (e *Edge) Slow(d time.Duration) {
	half := JSON{"latency": (d / 2).Milliseconds()}
	e.become(true, toxic{"latency", "upstream", half}, toxic{"latency", "downstream", half})
}

// Heal makes the way good again.
func (e *Edge) Heal() { e.become(true) }

// LeadTo has the way lead to another server of the same kind, for good, and leaves it as good or
// bad as it is.
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

// start tries for a while: what listened before may not have ended on the kernel's side.
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

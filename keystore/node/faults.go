//go:build faults

package node

import (
	"context"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A process that is built with the tag faults can be broken through the directory that
// APIKEYS_FAULTS names, so that tests/faults can show what each part of the protocol is for:
//
//	ablate      read at start: the one part of the protocol that is left out, by its name in ablations
//	clock       read at start: the rate of the process's clock
//	hold.POINT  while it is there, whoever comes to a point waits, having made held.POINT
var faultsDir = os.Getenv("APIKEYS_FAULTS")

// ablations are named as in tests/model, and some more.
var ablations = []string{
	"lease-from-reply",      // the lease counts from the database's answer
	"no-drift-margin",       // a revoke waits as long as the lease, and not for slow clocks
	"no-fill-token",         // a read that a change overtook is kept
	"check-then-insert",     // whether one did is looked at before the lock is taken to keep it
	"delete-before-bump",    // a change removes what is cached, and then says that it has
	"join-any-flight",       // a request takes the answer of a read that began before a change
	"shared-without-asof",   // an entry in the shared cache counts however old it is
	"members-before-commit", // a revoke reads the nodes before it commits
	"ack-before-purge",      // a node acknowledges a change before it has applied it
	"lease-before-apply",    // a node takes its lease before it has applied what it read
	"cached-clock",          // requests are judged by a clock that a ticker sets
	"reload-resets",         // a reload begins to count generations anew
	"no-mac",                // an entry in the shared cache counts whoever wrote it
	"remove-without-wait",   // a node that is given up is forgotten at once
	"no-cut",                // what runs goes on when its key dies
	"rate-shortens-wait",    // a revoke waits by the rate of the database's clock as measured last
	// a node goes on with a database that has not answered for a while, and was only read from
	// since
	"silence-without-write",
	"newer-than-applied", // what is read at a revision that the node has not applied is kept
	"forget-readers",     // nodes of a history that is gone are not waited for
}

var ablation = func() string {
	name := faultsFile("ablate")
	if name != "" && !slices.Contains(ablations, name) {
		log.Fatalf("there is no ablation %q", name)
	}
	return name
}()

func faultsFile(name string) string {
	if faultsDir == "" {
		return ""
	}
	text, _ := os.ReadFile(filepath.Join(faultsDir, name)) // not there is empty
	return strings.TrimSpace(string(text))
}

func ablated(name string) bool { return name == ablation }

func hold(point string) {
	if faultsDir == "" {
		return
	}
	for first := true; ; first = false {
		if _, err := os.Stat(filepath.Join(faultsDir, "hold."+point)); err != nil {
			return
		}
		if first {
			if err := os.WriteFile(filepath.Join(faultsDir, "held."+point), nil,
				0o600); err != nil {
				log.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func faultyClock() clock {
	rate, err := strconv.ParseFloat(faultsFile("clock"), 64)
	if err != nil {
		return clock{}
	}
	return newClock(rate)
}

// members are those of members-before-commit.
var members atomic.Pointer[[]keystore.Node]

func countMembers(ctx context.Context, db keystore.Database) {
	if !ablated("members-before-commit") {
		return
	}
	if list, err := db.Nodes(ctx); err == nil {
		members.Store(&list)
	}
	hold("members")
}

// counts reports whether a revoke waits for a node.
func counts(n *keystore.Node) bool {
	list := members.Load()
	return list == nil || slices.ContainsFunc(*list,
		func(m keystore.Node) bool { return m.Incarnation == n.Incarnation })
}

// ticked is the time that the ticker of cached-clock has set.
var ticked atomic.Pointer[time.Time]

func init() {
	if !ablated("cached-clock") {
		return
	}
	go func() {
		for ; ; time.Sleep(time.Millisecond) {
			now := time.Now()
			ticked.Store(&now)
			hold("tick")
		}
	}()
}

func cachedClock(now time.Time) time.Time {
	if t := ticked.Load(); t != nil {
		return *t
	}
	return now
}

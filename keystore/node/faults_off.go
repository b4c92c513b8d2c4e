//go:build !faults

package node

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// What tests/faults breaks on purpose, under the build tag faults, is whole and costs nothing
// without it: see faults.go.

func ablated(string) bool { return false }

func hold(string) {}

func faultyClock() clock { return clock{} }

func countMembers(context.Context, keystore.Database) {}

func counts(*keystore.Node) bool { return true }

func cachedClock(now time.Time) time.Time { return now }

package faults

import (
	"cmp"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// derive returns a key with a token that was derived from that of k, for the namespace of its
// requests. Its accesses are those of k, so the oracle expects that every change of k applies to
// it.
func (a *arena) derive(k key) key {
	a.t.Helper()
	token, err := keystore.Derive(string(k.Token), keystore.Caveats{
		ExpiresAt: time.Now().Add(time.Hour), Note: fmt.Sprint(a.serial.Add(1)),
		Namespaces: []string{cmp.Or(k.namespace, "default")}})
	if err != nil {
		a.t.Fatal(err)
	}
	k.Token = gate.Token(token)
	return k
}

// derivedTokens takes access away from keys while requests with derived tokens run on every node:
// with one that all nodes have verified, and with fresh ones.
func derivedTokens(a *arena) {
	grants := []gate.JSON{{"namespace": "*", "permissions": []string{"read", "write"}}}
	const deleted = "delete the namespace"
	for change, take := range map[string]func(k key, owner string) gate.Response{
		"revoke":     func(k key, _ string) gate.Response { return a.revoke(0, k) },
		"inactivate": func(k key, _ string) gate.Response { return a.activate(0, k, false) },
		"rotate":     func(k key, _ string) gate.Response { _, r := a.rotate(0, k); return r },
		"disable the owner": func(k key, owner string) gate.Response {
			return a.attempt(0, "disable", "PATCH", "/members/"+owner+wait,
				gate.JSON{"active": false}, nil, k.all())
		},
		deleted: func(k key, _ string) gate.Response {
			return a.attempt(0, "delete", "DELETE", "/namespaces/"+k.namespace+wait, nil, nil,
				k.all())
		},
	} {
		owner, _ := a.insist(func() gate.Response {
			return a.attempt(0, "member", "POST", "/members",
				gate.JSON{"name": "owner", "grants": grants}, nil, nil)
		}).JSON()["id"].(string)
		namespace := fmt.Sprint("ns-", a.serial.Add(1))
		a.insist(func() gate.Response {
			return a.attempt(0, "namespace", "POST", "/namespaces",
				gate.JSON{"id": namespace, "kind": "account", "name": namespace}, nil, nil)
		})
		k := a.mintWith(0, gate.JSON{"grants": grants, "owner": owner})
		k.namespace = namespace
		verified := a.derive(k)
		a.warm(verified)
		refused := 401
		var open []*events
		if change == deleted {
			refused = 403 // like all changes that narrow keys, it cuts no requests
		} else {
			for i := range a.Nodes {
				open = append(open, a.listen(i, verified))
			}
		}
		stop := make(chan struct{})
		var load sync.WaitGroup
		for i := range a.Nodes {
			load.Go(func() {
				for !over(stop) {
					a.get(i, verified)
					a.post(i, a.derive(k))
				}
			})
		}
		a.complete(func() gate.Response { return take(k, owner) })
		back := now()
		close(stop)
		load.Wait()
		for i := range a.Nodes {
			a.want(a.settled(i, verified) == refused, "node %d: %s: a verified token", i, change)
			a.want(a.settled(i, a.derive(k)) == refused, "node %d: %s: a fresh token", i, change)
		}
		for i, e := range open {
			a.want(!e.outlives(back), "node %d: %s: the stream continues", i, change)
		}
	}
}

// derivedWithoutDatabase cuts node 1 off from the stores. Until its lease expires, the node accepts
// tokens that are derived from a cached key, even new ones.
func derivedWithoutDatabase(a *arena) {
	k := a.mint(0)
	a.warm(k)
	verified := a.derive(k)
	a.warm(verified)
	repaired := a.fault(1, "cut off", storeDown)
	a.until("a node that is cut off serves a cached key", func() bool {
		a.Edge(1, gate.Database).Hang()
		a.Edge(1, gate.Cache).Hang()
		if a.get(1, verified) == 200 && a.get(1, a.derive(k)) == 200 {
			return true
		}
		a.HealNode(1) // the lease had expired on a busy machine
		a.eventually(1, verified, 200)
		return false
	})
	a.mustRevoke(0, k)
	a.want(!a.useFor(a.lease/4, 1, verified), "a verified token of a revoked key is accepted")
	a.want(!a.useFor(a.lease/4, 1, a.derive(k)), "a fresh token of a revoked key is accepted")
	a.HealNode(1)
	repaired()
	a.eventually(1, verified, 401)
}

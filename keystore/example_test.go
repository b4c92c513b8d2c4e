package keystore_test

import (
	"fmt"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func ExampleParsePermission() {
	for _, text := range []string{"read", "orders:write", "orders:search", "orders"} {
		p, err := keystore.ParsePermission(text)
		fmt.Printf("resource %q, action %q, valid: %t\n", p.Resource, p.Action, err == nil)
	}
	// Output:
	// resource "", action "read", valid: true
	// resource "orders", action "write", valid: true
	// resource "orders", action "search", valid: true
	// resource "", action "", valid: false
}

func ExampleDecide() {
	policy := keystore.NewDirectory(&keystore.Policy{
		Namespaces: []keystore.Namespace{{ID: "acme"}},
	})
	digest := keystore.DigestOf("a credential")
	record := keystore.NewRecord(&keystore.Key{
		ID:        "4fYQ0hTz81Lk",
		Namespace: "acme",
		Owner:     keystore.RootMember,
		Active:    true,
		Secrets:   []keystore.Secret{{Digest: digest}},
		Grants: []keystore.Grant{{
			Namespace:   "acme",
			Permissions: []keystore.Permission{{Resource: "orders", Action: "read"}},
		}},
	}, digest)

	for _, class := range []keystore.Class{keystore.Read, keystore.Write} {
		outcome := keystore.Decide(record, &keystore.Request{
			Now:       time.Now().UnixNano(),
			Policy:    policy,
			Namespace: policy.Namespace("acme"),
			Need:      keystore.Need{Class: class, Resource: "orders"},
		})
		fmt.Println(class, outcome)
	}
	// Output:
	// read ok
	// write forbidden
}

package keystore_test

import (
	"fmt"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func ExampleDecide() {
	key := &keystore.Key{ID: "k", Namespace: "acme", Owner: keystore.RootMember, Active: true,
		Secrets: []keystore.Secret{{Digest: keystore.DigestOf("a credential")}},
		Grants: []keystore.Grant{{Namespace: "acme",
			Permissions: []keystore.Permission{{Resource: "orders", Action: "read"}}}}}
	record := keystore.NewRecord(key, keystore.DigestOf("a credential"))
	policy := keystore.NewDirectory(&keystore.Policy{
		Namespaces: []keystore.Namespace{{ID: "acme"}},
	})
	for _, class := range []keystore.Class{keystore.Read, keystore.Write} {
		fmt.Println(keystore.Decide(record,
			&keystore.Request{Now: time.Now().UnixNano(), Policy: policy,
				Namespace: policy.Namespace("acme"),
				Need:      keystore.Need{Class: class, Resource: "orders"}}))
	}
	// Output:
	// ok
	// forbidden
}

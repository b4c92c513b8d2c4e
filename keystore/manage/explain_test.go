package manage_test

import (
	"fmt"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
)

// TestExplain checks which permissions of a key Explain says are effective and where they come
// from.
func TestExplain(t *testing.T) {
	k := fleet.WithNamespaces(t, "acme")
	for _, r := range []keystore.Role{{Namespace: "acme", Name: "billing"},
		{Namespace: "*", Name: "clerk"}} {
		r.Permissions = fleet.Grants(t, "x=orders:read,orders:pay")[0].Permissions
		if _, err := k.CreateRole(ctx, fleet.Root, r); err != nil {
			t.Fatal(err)
		}
	}
	owner, err := k.CreateMember(ctx, fleet.Root,
		keystore.Member{Name: "Ada", Grants: fleet.Grants(t,
			"acme=orders:read,orders:search default+=read")})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		owner, grants string
		roles         []string // in the first grant
		want          string
	}{
		{"root", "acme=*", nil, "acme [*]: * own"},
		{"root", "acme=orders:pay", []string{"billing", "clerk"},
			"acme [orders:pay orders:read]: orders:pay own [billing clerk], orders:read [billing " +
				"clerk]"},
		{owner.ID, "acme=*", nil, "acme [orders:read orders:search]: * own cut"},
		{owner.ID, "acme=orders:search", []string{"clerk"},
			"acme [orders:read orders:search]: orders:pay [clerk] cut, orders:read [clerk], " +
				"orders:search own"},
		{owner.ID, "acme+=orders:search default+=read,write *=read", nil,
			"acme+ []: orders:search own cut; default+ [read]: read own, write own cut; * []: " +
				"read own cut"},
		{"m_gone", "acme=read", nil, "acme []: read own cut"},
	} {
		key := &keystore.Key{Namespace: "acme", Owner: test.owner,
			Grants: fleet.Grants(t, test.grants)}
		key.Grants[0].Roles = test.roles
		got := ""
		for i, e := range k.Policy().Explain(key) {
			if i > 0 {
				got += "; "
			}
			got += e.Namespace
			if e.Connected {
				got += "+"
			}
			got += fmt.Sprintf(" %v: ", e.Effective)
			for j, s := range e.Sources {
				if j > 0 {
					got += ", "
				}
				got += s.Permission.String()
				if s.Own {
					got += " own"
				}
				if len(s.Roles) > 0 {
					got += fmt.Sprint(" ", s.Roles)
				}
				if s.Cut {
					got += " cut"
				}
			}
		}
		if got != test.want {
			t.Errorf("%s of %s:\n%s, want\n%s", test.grants, test.owner, got, test.want)
		}
	}
}

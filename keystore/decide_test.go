package keystore

import (
	"net/netip"
	"testing"
	"time"
)

var (
	noon  = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	local = netip.MustParsePrefix("10.0.0.0/8")
	six   = netip.MustParsePrefix("2001:db8::/32")
)

// TestDecideReturnsTheFirstFailure breaks one condition fewer in each of the first cases, which
// shows the precedence (docs/api_key.md, rule 1).
func TestDecideReturnsTheFirstFailure(t *testing.T) {
	key := func(change func(*Key, *Secret)) *Record {
		k := &Key{ID: "k", Namespace: "acme", Owner: "ada", Active: true,
			AllowedIPs: []netip.Prefix{local, six},
			Grants:     []Grant{{Namespace: "acme", Permissions: []Permission{{Action: "read"}}}},
			Secrets:    []Secret{{Digest: Digest{1}}}}
		change(k, &k.Secrets[0])
		return NewRecord(k, Digest{1})
	}
	policy := NewDirectory(&Policy{
		Namespaces: []Namespace{{ID: "acme"}, {ID: "other"}},
		Members: []Member{{ID: "ada", Active: true,
			Grants: []Grant{{Namespace: "*", Permissions: []Permission{{Action: "*"}}}}},
			{ID: "bob"}},
	})
	acme := policy.Namespace("acme")
	inside := netip.MustParseAddr("10.1.2.3")
	at := noon.UnixNano()
	good := Request{Now: at, Namespace: acme, Client: inside}
	bad := Request{Now: at, Namespace: nil, Need: Need{Class: Write}, Early: true}
	for _, c := range []struct {
		name string
		r    *Record
		q    Request
		want Outcome
	}{
		{"no record", nil, bad, Unknown},
		{"expired secret", key(func(k *Key, s *Secret) {
			s.ExpiresAt, k.RevokedAt = noon, noon
		}), bad, Rotated},
		{"revoked", key(func(k *Key, _ *Secret) {
			k.RevokedAt, k.ExpiresAt, k.Active = noon, noon, false
		}), bad, Revoked},
		{"expired at this instant", key(func(k *Key, _ *Secret) {
			k.ExpiresAt, k.Active = noon, false
		}), bad, Expired},
		{"inactive", key(func(k *Key, _ *Secret) {
			k.ExpiresAt, k.Active = noon.Add(time.Microsecond), false
		}), bad, Inactive},
		{"expires in the year 9999", key(func(k *Key, s *Secret) {
			k.ExpiresAt = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
			s.ExpiresAt, k.AllowedIPs = k.ExpiresAt, nil
		}), Request{Now: at, Namespace: acme}, OK},
		{"owner disabled", key(func(k *Key, _ *Secret) { k.Owner = "bob" }), bad, OwnerDisabled},
		{"owner deleted", key(func(k *Key, _ *Secret) { k.Owner = "eve" }), bad, OwnerDisabled},
		{"early write", key(func(*Key, *Secret) {}), bad, Early},
		{"early write of a key without addresses",
			key(func(k *Key, _ *Secret) { k.AllowedIPs = nil }),
			Request{Now: at, Namespace: acme, Need: Need{Class: Write}, Early: true}, Early},
		{"early read of a key with addresses", key(func(*Key, *Secret) {}),
			Request{Now: at, Namespace: acme, Client: inside, Early: true}, Early},
		{"early read", key(func(k *Key, _ *Secret) { k.AllowedIPs = nil }),
			Request{Now: at, Namespace: acme, Early: true}, OK},
		{"wrong address", key(func(*Key, *Secret) {}),
			Request{Now: at, Client: netip.MustParseAddr("11.0.0.1")}, Address},
		{"no address", key(func(*Key, *Secret) {}), Request{Now: at}, Address},
		{"unknown namespace", key(func(*Key, *Secret) {}), Request{Now: at, Client: inside},
			Forbidden},
		{"unknown namespace, everything granted",
			key(func(k *Key, _ *Secret) {
				k.Grants[0] = Grant{Namespace: "*", Permissions: []Permission{{Action: "*"}}}
			}), Request{Now: at, Client: inside}, Forbidden},
		{"another namespace", key(func(*Key, *Secret) {}),
			Request{Now: at, Client: inside, Namespace: policy.Namespace("other")}, Forbidden},
		{"another class", key(func(*Key, *Secret) {}),
			Request{Now: at, Client: inside, Namespace: acme, Need: Need{Class: Write}}, Forbidden},
		{"grant in all namespaces", key(func(k *Key, _ *Secret) { k.Grants[0].Namespace = "*" }),
			Request{Now: at, Client: inside, Namespace: policy.Namespace("other")}, OK},
		{"IPv4-mapped address", key(func(*Key, *Secret) {}),
			Request{Now: at, Namespace: acme, Client: netip.MustParseAddr("::ffff:10.1.2.3")}, OK},
		{"address with a zone", key(func(*Key, *Secret) {}),
			Request{Now: at, Namespace: acme, Client: netip.MustParseAddr("2001:db8::1%eth0")}, OK},
		{"all conditions met", key(func(*Key, *Secret) {}), good, OK},
	} {
		c.q.Policy = policy
		if got := Decide(c.r, &c.q); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

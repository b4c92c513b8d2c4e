package manage

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A Verdict is the decision about a credential.
type Verdict struct {
	Outcome keystore.Outcome
	Needed  string        // the permission that was required, empty for none
	Key     *keystore.Key // nil unless the key exists and the caller may read it
}

// A VerifyRequest describes the request for which a credential is verified.
type VerifyRequest struct {
	Namespace string // default: the key's home
	// Permission is the permission that the request requires, for example `read`, `write`,
	// `orders:read` or `orders:search`. The default is `read` if Namespace is set. If neither is
	// set, only the validity of the key is verified.
	Permission string
	// Need replaces Permission unless it is nil. It is what the request requires according to its
	// handler.
	Need   *keystore.Need
	Client netip.Addr // the client's address; default: one from which the key is accepted
}

// Verify decides about a credential as the `api_key` handler does, except that it checks neither
// early data nor limits. The outcome is [keystore.Unknown] if the caller may not read the key.
func (k *Keystore) Verify(
	ctx context.Context, c Caller, credential string, r VerifyRequest,
) (Verdict, error) {
	namespace := r.Namespace
	onlyValidity := namespace == "" && r.Permission == "" && r.Need == nil
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return Verdict{}, err
	}
	defer done()
	if err := auth.requireAnywhere(adminKeys, "read"); err != nil {
		return Verdict{}, err
	}
	needed, err := parseNeed(r.Permission)
	if err != nil {
		var p fieldErrors
		p.add("permission", "%v", err)
		return Verdict{}, p.err()
	}
	if r.Need != nil {
		needed = *r.Need
	}
	var v Verdict
	if !onlyValidity {
		v.Needed = needed.String()
	}
	a, err := k.Lookup(ctx, keystore.TrimSecretToken(credential), time.Now())
	if err != nil {
		return Verdict{}, err
	}
	if v.Outcome = a.Outcome; v.Outcome != keystore.OK {
		return v, nil
	}
	if !auth.mayReadKey(a.Record.KeyID, a.Record.Namespace, a.Record.Owner) {
		v.Outcome = keystore.Unknown
		return v, nil
	}
	if namespace == "" {
		namespace = a.Record.Namespace
	}
	policy := k.Policy()
	q := keystore.Request{Now: a.Now, Policy: policy, Namespace: policy.Namespace(namespace),
		Need: needed, Narrowing: a.Narrowing}
	if q.Client = r.Client; !q.Client.IsValid() {
		q.Client = acceptedAddress(a)
	}
	v.Outcome = keystore.Decide(a.Record, &q)
	if onlyValidity && v.Outcome == keystore.Forbidden {
		v.Outcome = keystore.OK
	}
	v.Key, err = k.Database().Key(ctx, a.Record.KeyID)
	if err != nil && !isNotFound(err) {
		return Verdict{}, k.StoreFailed("reading a key", err)
	}
	return v, nil
}

// acceptedAddress returns an address from which a credential is accepted, or the zero Addr if there
// is none or it is accepted from all. If two ranges overlap, the first address of the smaller one
// is in both.
func acceptedAddress(a node.Answer) netip.Addr {
	lists := [][]netip.Prefix{a.Record.AllowedIPs}
	if a.Narrowing != nil {
		lists = append(lists, a.Narrowing.AllowedIPs)
	}
	for _, candidates := range lists {
		for _, p := range candidates {
			if !slices.ContainsFunc(lists, func(list []netip.Prefix) bool {
				return len(list) > 0 && !slices.ContainsFunc(list,
					func(other netip.Prefix) bool { return other.Contains(p.Addr()) })
			}) {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}

// parseNeed parses a required permission. Only the handlers know the class of an operation, so a
// class in the key's permissions does not allow the operation here.
func parseNeed(s string) (keystore.Need, error) {
	if s == "" {
		return keystore.Need{Class: keystore.Read}, nil
	}
	p, err := keystore.ParsePermission(s)
	if err != nil {
		return keystore.Need{}, err
	}
	n := keystore.Need{Resource: p.Resource}
	switch p.Action {
	case "read":
		n.Class = keystore.Read
	case "write":
		n.Class = keystore.Write
	case "*":
		n.Class = keystore.UnknownClass
	default:
		n.Class, n.Operation = keystore.UnknownClass, p.Action
	}
	return n, nil
}

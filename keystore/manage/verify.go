package manage

import (
	"context"
	"net/netip"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A Verdict is the decision about a credential.
type Verdict struct {
	Outcome keystore.Outcome
	Needed  string        // the permission it was decided for; empty: none
	Key     *keystore.Key // nil unless there is one and the caller may read it
}

// A Question is a request that a credential would be sent with.
type Question struct {
	Namespace string // empty: the key's own
	// Permission is what the request needs: `read`, `write`, `orders:read`, `orders:search`. Empty
	// is `read` in Namespace or, without one, none: only whether the key is alive.
	Permission string
	// Need replaces Permission if it is not nil: a handler has determined what the request needs.
	Need   *keystore.Need
	Client netip.Addr // where it comes from; the zero Addr: from where the key may be used
}

// Verify decides about a credential as the handler does, but for early data. The outcome is
// [keystore.Unknown] unless the caller may read the key.
func (k *Keystore) Verify(
	ctx context.Context, c Caller, credential string, about Question,
) (Verdict, error) {
	namespace := about.Namespace
	alive := namespace == "" && about.Permission == "" && about.Need == nil
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return Verdict{}, err
	}
	defer done()
	if err := auth.requireAnywhere(adminKeys, "read"); err != nil {
		return Verdict{}, err
	}
	needed, err := parseNeed(about.Permission)
	if err != nil {
		var p fieldErrors
		p.add("permission", "%v", err)
		return Verdict{}, p.err()
	}
	if about.Need != nil {
		needed = *about.Need
	}
	var v Verdict
	if !alive {
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
		Need: needed}
	if q.Client = about.Client; !q.Client.IsValid() && len(a.Record.AllowedIPs) > 0 {
		q.Client = a.Record.AllowedIPs[0].Addr()
	}
	if v.Outcome = keystore.Decide(a.Record, &q); alive && v.Outcome == keystore.Forbidden {
		v.Outcome = keystore.OK
	}
	v.Key, err = k.Database().Key(ctx, a.Record.KeyID)
	if err != nil && !isNotFound(err) {
		return Verdict{}, k.StoreFailed("reading a key", err)
	}
	return v, nil
}

// parseNeed reads what a request would need. Which class an operation has is known to the handlers
// alone, so that a set which holds only a class does not allow it here.
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

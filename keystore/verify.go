package keystore

import (
	"context"
	"time"
)

// A Verdict is the decision about a credential.
type Verdict struct {
	Outcome Outcome
	Needed  string // the permission it was decided for
	Key     *Key   // nil unless there is one and the caller may read it
}

// Verify decides about a credential as the handler does, but for addresses and early data. permission is what a request would need:
// `read` (also when empty), `write`, `orders:read`, `orders:search`; namespace empty means the key's own. The outcome is [Unknown] unless the caller may
// read the key.
func (k *Keystore) Verify(ctx context.Context, c Caller, credential, namespace, permission string) (Verdict, error) {
	by, done, err := k.fresh(ctx, c)
	if err != nil {
		return Verdict{}, err
	}
	defer done()
	if err := by.anywhere(adminKeys, "read"); err != nil {
		return Verdict{}, err
	}
	needed, err := parseNeed(permission)
	if err != nil {
		var p problems
		p.add("permission", "%v", err)
		return Verdict{}, p.err()
	}
	v := Verdict{Needed: needed.String()}
	a, err := k.Lookup(ctx, TrimSecretToken(credential), time.Now())
	if err != nil {
		return Verdict{}, err
	}
	if v.Outcome = a.Outcome; v.Outcome != OK {
		return v, nil
	}
	if !by.reads(a.Record.KeyID, a.Record.Namespace, a.Record.Owner) {
		v.Outcome = Unknown
		return v, nil
	}
	if namespace == "" {
		namespace = a.Record.Namespace
	}
	policy := k.Policy()
	q := Request{Now: a.Now, Policy: policy, Namespace: policy.Namespace(namespace), Need: needed}
	if len(a.Record.AllowedIPs) > 0 {
		q.Client = a.Record.AllowedIPs[0].Addr()
	}
	v.Outcome = Decide(a.Record, &q)
	v.Key, err = k.db.Key(ctx, a.Record.KeyID)
	if err != nil && !isNotFound(err) {
		return Verdict{}, k.storeFailed("reading a key", err)
	}
	return v, nil
}

// parseNeed reads what a request would need. Which class an operation has is known to the handlers alone, so that a set which
// holds only a class does not allow it here.
func parseNeed(s string) (Need, error) {
	if s == "" {
		return Need{Class: Read}, nil
	}
	p, err := ParsePermission(s)
	if err != nil {
		return Need{}, err
	}
	n := Need{Resource: p.Resource}
	switch p.Action {
	case "read":
		n.Class = Read
	case "write":
		n.Class = Write
	case "*":
		n.Class = unknownClass
	default:
		n.Class, n.Operation = unknownClass, p.Action
	}
	return n, nil
}

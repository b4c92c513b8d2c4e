package manage

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// CapacityUses returns, for each cap except those on keys, how much of it is used, according to
// this node's policy.
func (k *Keystore) CapacityUses() []keystore.CapacityUse {
	d, c := k.Policy(), &k.Settings().Capacity
	var most keystore.Tally
	for _, t := range d.TallyByNamespace() {
		most = keystore.Tally{
			Namespaces: max(most.Namespaces, t.Namespaces), Roles: max(most.Roles, t.Roles),
			Plans: max(most.Plans, t.Plans), Members: max(most.Members, t.Members),
			Bytes: max(most.Bytes, t.Bytes),
		}
	}
	return append(c.Uses(d.Total(), keystore.ScopeDeployment),
		c.Uses(most, keystore.ScopeNamespace)...)
}

// CapacityOfKeys is CapacityUses for the caps on keys, with counts from the database.
func (k *Keystore) CapacityOfKeys(ctx context.Context) ([]keystore.CapacityUse, error) {
	owner, namespace, err := k.Database().MostKeys(ctx)
	if err != nil {
		return nil, err
	}
	c := &k.Settings().Capacity
	return []keystore.CapacityUse{
		{Resource: "keys", Scope: keystore.ScopeNamespace, Used: namespace,
			Cap: c.KeysPerNamespace},
		{Resource: "keys", Scope: keystore.ScopeOwner, Used: owner, Cap: c.KeysPerOwner},
	}, nil
}

// checkCapacity refuses a change that increases a count beyond its cap. It returns the authority
// under the policy as the transaction has changed it.
//
// narrows says that the change gives nobody more permissions. Such a change may still need more
// bytes. It is not subject to the deployment's cap on bytes, because others may have used it up. If
// the caller has a grant in all namespaces, it is not subject to the caps of namespaces either.
func (k *Keystore) checkCapacity(tx keystore.Tx, auth authority, narrows bool) (authority, error) {
	after, err := k.policyIn(tx)
	if err != nil {
		return auth, err
	}
	c := &k.Settings().Capacity
	before := c.Uses(auth.policy.Total(), keystore.ScopeDeployment)
	for i, use := range c.Uses(after.Total(), keystore.ScopeDeployment) {
		if use.Grows(before[i]) && !narrows {
			return auth, capacityExceeded("the deployment", use)
		}
	}
	if narrows && auth.hasGrantEverywhere() {
		auth.policy = after
		return auth, nil
	}
	exceeding := after.TallyByNamespace()
	maps.DeleteFunc(exceeding, func(_ string, t keystore.Tally) bool { return c.Fits(t) })
	var tallies map[string]keystore.Tally // before the change
	if len(exceeding) > 0 {
		tallies = auth.policy.TallyByNamespace()
	}
	for _, id := range slices.Sorted(maps.Keys(exceeding)) {
		before := c.Uses(tallies[id], keystore.ScopeNamespace)
		for i, use := range c.Uses(exceeding[id], keystore.ScopeNamespace) {
			if use.Grows(before[i]) {
				return auth, capacityExceeded(auth.describe(id)+" with its descendants", use)
			}
		}
	}
	auth.policy = after
	return auth, nil
}

// checkUngrantedMembers refuses a new member while too many members have no grant. These count in
// no namespace, so a caller that may create members in one namespace could use up the capacity of
// the deployment. Callers that may create members in all namespaces are not refused.
func (k *Keystore) checkUngrantedMembers(auth authority) error {
	c := &k.Settings().Capacity
	if auth.may(adminMembers, "create", keystore.AnyNamespace) || c.Fits(auth.policy.Ungranted()) {
		return nil
	}
	return capacityExceeded("the deployment", keystore.CapacityUse{
		Resource: "members without a grant", Cap: c.Members.PerNamespace})
}

// capacityExceeded returns the refusal of a change that would exceed a cap. scope describes the
// deployment, namespace or owner that has the cap.
func capacityExceeded(scope string, use keystore.CapacityUse) *keystore.Error {
	resource := use.Resource
	if resource == keystore.DirectoryBytes {
		resource = "bytes of namespaces, roles, plans and members"
	}
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "capacity", Detail: fmt.Sprintf(
		"%s can have at most %d %s: delete some, "+
			"or ask the operator to raise the limit in the capacity block of the configuration",
		scope, use.Cap, resource)}
}

// A keyCapacity checks the new keys of one transaction against the caps on keys. It queries each
// count once.
type keyCapacity struct {
	tx       keystore.Tx
	auth     authority
	capacity *keystore.Capacity
	owned    map[string]int64 // keys by owner
	homed    map[string]int64 // keys by home namespace
}

func (k *Keystore) keyCapacityIn(tx keystore.Tx, auth authority) *keyCapacity {
	return &keyCapacity{tx, auth, &k.Settings().Capacity, make(map[string]int64),
		make(map[string]int64)}
}

// add checks a new key and counts it.
func (r *keyCapacity) add(k *keystore.Key) error {
	if err := r.checkOwner(k); err != nil {
		return err
	}
	n, err := count(r.homed, k.Namespace, r.tx.CountHomed)
	if err != nil {
		return err
	}
	if n >= r.capacity.KeysPerNamespace {
		return capacityExceeded(r.auth.describe(k.Namespace),
			keystore.CapacityUse{Resource: "keys", Cap: r.capacity.KeysPerNamespace})
	}
	r.owned[k.Owner]++
	r.homed[k.Namespace]++
	return nil
}

// checkOwner checks whether a key's owner may own one more key.
func (r *keyCapacity) checkOwner(k *keystore.Key) error {
	if k.Owner == keystore.RootMember {
		return nil
	}
	n, err := count(r.owned, k.Owner, r.tx.CountOwned)
	if err == nil && n >= r.capacity.KeysPerOwner {
		err = capacityExceeded("the key's owner", keystore.CapacityUse{Resource: "keys",
			Cap: r.capacity.KeysPerOwner})
	}
	return err
}

// count returns the count of an id in known, or queries and adds it.
func count(
	known map[string]int64, id string, query func(string) (int64, error),
) (n int64, err error) {
	n, ok := known[id]
	if !ok {
		if n, err = query(id); err == nil {
			known[id] = n
		}
	}
	return n, err
}

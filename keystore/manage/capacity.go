package manage

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// CapacityUses returns the use of each cap except those on keys, as this node knows it.
func (k *Keystore) CapacityUses() []keystore.CapacityUse {
	d, c := k.Policy(), &k.Settings().Capacity
	var most keystore.Tally
	for _, t := range d.TallyByNamespace() {
		most = keystore.Tally{
			Namespaces: max(most.Namespaces, t.Namespaces), Roles: max(most.Roles, t.Roles),
			Members: max(most.Members, t.Members), Bytes: max(most.Bytes, t.Bytes),
		}
	}
	return append(c.Uses(d.Total(), keystore.ScopeDeployment),
		c.Uses(most, keystore.ScopeNamespace)...)
}

// CapacityOfKeys is CapacityUses for keys, from the database.
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

// grown returns the authority under the policy as the transaction has changed it. It fails if the
// change increases a count beyond its cap.
//
// A change that only narrows what its object gives may take more text. It is not refused for bytes
// of the deployment, which others may have filled, nor of a namespace if the caller has a grant in
// all namespaces.
func (k *Keystore) checkCapacity(tx keystore.Tx, auth authority, narrows bool) (authority, error) {
	then, err := k.policyIn(tx)
	if err != nil {
		return auth, err
	}
	c := &k.Settings().Capacity
	before := c.Uses(auth.policy.Total(), keystore.ScopeDeployment)
	for i, use := range c.Uses(then.Total(), keystore.ScopeDeployment) {
		if use.Grows(before[i]) && !(narrows && use.Resource == keystore.DirectoryBytes) {
			return auth, capacityExceeded("the deployment", use)
		}
	}
	if narrows && auth.hasGrantEverywhere() {
		auth.policy = then
		return auth, nil
	}
	below := then.TallyByNamespace()
	maps.DeleteFunc(below, func(_ string, t keystore.Tally) bool { return c.Fits(t) })
	var was map[string]keystore.Tally
	if len(below) > 0 {
		was = auth.policy.TallyByNamespace()
	}
	for _, id := range slices.Sorted(maps.Keys(below)) {
		before := c.Uses(was[id], keystore.ScopeNamespace)
		for i, use := range c.Uses(below[id], keystore.ScopeNamespace) {
			if use.Grows(before[i]) {
				return auth, capacityExceeded(auth.describe(id)+" with its descendants", use)
			}
		}
	}
	auth.policy = then
	return auth, nil
}

// roomForMember refuses a new member while too many have no grant: these count for no namespace,
// and whoever may create members in one could fill the deployment with them. Who may create them in
// all namespaces still can.
func (k *Keystore) checkUngrantedMembers(auth authority) error {
	c := &k.Settings().Capacity
	if auth.may(adminMembers, "create", keystore.AnyNamespace) || c.Fits(auth.policy.Ungranted()) {
		return nil
	}
	return capacityExceeded("the deployment", keystore.CapacityUse{Resource: "members without a grant",
		Cap: c.Members.PerNamespace})
}

// full is the error of a change that would exceed a cap.
func capacityExceeded(what string, use keystore.CapacityUse) *keystore.Error {
	resource := use.Resource
	if resource == keystore.DirectoryBytes {
		resource = "bytes of namespaces, roles and members"
	}
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "capacity", Detail: fmt.Sprintf(
		"%s may hold at most %d %s: delete some, "+
			"or have the operator raise this limit in the capacity block of the configuration",
		what, use.Cap, resource)}
}

// A keyRoom checks the new keys of one transaction against the caps on keys. It queries each count
// once.
type keyCapacity struct {
	tx       keystore.Tx
	auth     authority
	capacity *keystore.Capacity
	owned    map[string]int64
	homed    map[string]int64
}

func (k *Keystore) keyCapacityIn(tx keystore.Tx, auth authority) *keyCapacity {
	return &keyCapacity{tx, auth, &k.Settings().Capacity, make(map[string]int64),
		make(map[string]int64)}
}

// add counts one more key.
func (r *keyCapacity) add(k *keystore.Key) error {
	if err := r.own(k); err != nil {
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

// own checks whether a key's owner may have one more.
func (r *keyCapacity) own(k *keystore.Key) error {
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

func count(
	known map[string]int64, id string, ask func(string) (int64, error),
) (n int64, err error) {
	n, ok := known[id]
	if !ok {
		if n, err = ask(id); err == nil {
			known[id] = n
		}
	}
	return n, err
}

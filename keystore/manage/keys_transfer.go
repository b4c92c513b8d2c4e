package manage

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// transferBatch is the maximum number of keys that one transaction transfers. Another change waits
// for at most one such transaction.
const transferBatch = 500

// A transfer makes another member the owner of all keys of a member.
type transfer struct {
	*Keystore
	caller   Caller
	from, to string // ids of members
	options  ChangeOptions
}

// TransferKeys transfers the keys of one member, except revoked ones, to another. id and to are the
// ids of the members. It returns the previous owner and the number of transferred keys. The caller
// must be allowed to change each key and to transfer it to the new owner (docs/authority.md, rules
// 6 and 7). All keys are checked before the first one changes: if one is refused, none changes.
// More than transferBatch keys take several transactions. If a later one fails, calling
// TransferKeys again transfers the rest.
func (k *Keystore) TransferKeys(
	ctx context.Context, c Caller, id, to string, o ChangeOptions,
) (m *keystore.Member, transferred int, p node.Propagation, err error) {
	t := &transfer{k, c, id, to, o}
	several := false
	done, err := k.commitBulk(ctx, c, func(tx keystore.Tx, auth authority) (err error) {
		if m, err = t.begin(tx, auth); err != nil {
			return err
		}
		transferred, err = t.batch(tx, auth, false)
		several = errors.Is(err, errSeveralBatches)
		return err
	})
	if several {
		done, transferred, err = t.batches(ctx)
	}
	if err != nil {
		return nil, 0, node.Propagation{}, err
	}
	if transferred == 0 { // a repeat waits for the first transfer
		p, err = k.Propagate(done, o.Wait)
	} else {
		p, err = k.PropagateObserved(done, o.Wait)
	}
	return m, transferred, p, err
}

// begin makes the checks that do not depend on the keys. It returns the current owner as the
// caller may see it.
func (t *transfer) begin(tx keystore.Tx, auth authority) (*keystore.Member, error) {
	if err := auth.requireMember(); err != nil {
		return nil, err
	}
	if err := auth.requireAnywhere(adminKeys, "update"); err != nil {
		return nil, err
	}
	m := auth.policy.Member(t.from)
	if m == nil || auth.visible(m) == nil {
		return nil, notFound("member")
	}
	if err := t.options.check(m.Version); err != nil {
		return nil, err
	}
	var p fieldErrors
	to := auth.policy.Member(t.to)
	switch {
	case t.to == t.from:
		p.add("to", "must be another member")
	case to == nil && t.to != keystore.RootMember &&
		auth.may(adminMembers, "read", keystore.AnyNamespace):
		p.add("to", "member %q does not exist", t.to)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	if err := auth.checkActsFor(t.to); err != nil {
		return nil, err
	}
	if to != nil && !to.Active {
		p.add("to", "must be an enabled member, because keys of a disabled one are refused")
		return nil, p.err()
	}
	return auth.visible(m), t.checkCapacity(tx, auth)
}

// checkCapacity refuses a transfer after which the new owner would have too many keys.
func (t *transfer) checkCapacity(tx keystore.Tx, auth authority) error {
	most := t.Settings().Capacity.KeysPerOwner
	if t.to == keystore.RootMember {
		return nil
	}
	given, err := tx.KeysOwnedBy(t.from)
	if err != nil || given == 0 {
		return err
	}
	owned, err := tx.CountOwned(t.to)
	if err == nil && owned+given > most {
		err = capacityExceeded("the new owner", keystore.CapacityUse{Resource: "keys", Cap: most})
	}
	return err
}

var errSeveralBatches = errors.New("the keys need several transactions")

// batch transfers at most transferBatch keys and returns their number. Unless several is set, it
// transfers none if there are more, and returns errSeveralBatches.
func (t *transfer) batch(tx keystore.Tx, auth authority, several bool) (int, error) {
	ids, err := tx.OwnedKeys(t.from, transferBatch+1)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	if len(ids) > transferBatch {
		if !several {
			return 0, errSeveralBatches
		}
		ids = ids[:transferBatch]
	}
	keys, err := tx.Keys(ids)
	if err != nil {
		return 0, err
	}
	list := make([]auditedChange, len(keys))
	for i := range keys {
		after, err := t.given(auth, &keys[i])
		if err != nil {
			return 0, err
		}
		list[i] = auditedChange{after.ID, after.Touches(auth.policy), &keys[i], after}
	}
	if err := tx.SetOwner(ids, t.to); err != nil {
		return 0, err
	}
	return len(keys), auditAll(tx, auth, "key.edit", list)
}

// given returns a key with its new owner, or an error if the caller may not transfer it.
func (t *transfer) given(auth authority, before *keystore.Key) (*keystore.Key, error) {
	after := *before
	after.Owner, after.Version = t.to, before.Version+1
	if !auth.may(adminKeys, "update", before.Namespace) {
		refusal := permissionRequired(adminKeys, "update")
		refusal.Detail += " in " + auth.describe(before.Namespace) +
			", in which the member owns a key"
		return nil, refusal
	}
	err := authorize(auth, before, &after)
	if refusal, ok := errors.AsType[*keystore.Error](err); ok {
		named := *refusal
		if auth.mayReadKey(before.ID, before.Namespace, before.Owner) {
			named.ID, named.Detail = before.ID, "key "+before.ID+": "+refusal.Detail
		} else {
			named.Detail = "the caller may not give one of the member's keys, which it may not " +
				"read, to the new owner"
		}
		return nil, &named
	}
	return &after, err
}

// batches transfers the keys in several transactions, after it has checked all of them without the
// write lock. It continues if the client disconnects after the check.
func (t *transfer) batches(ctx context.Context) (done node.Commit, transferred int, err error) {
	if err := t.checkAll(ctx); err != nil {
		return done, 0, err
	}
	ctx = context.WithoutCancel(ctx)
	for {
		n := 0
		last, err := t.commitBulk(ctx, t.caller, func(tx keystore.Tx, auth authority) (err error) {
			if _, err = t.begin(tx, auth); err == nil {
				n, err = t.batch(tx, auth, true)
			}
			return err
		})
		if err != nil {
			return done, transferred, transferInterrupted(err, transferred)
		}
		if transferred > 0 {
			last = last.InHistoryOf(done)
		}
		done, transferred = last, transferred+n
		if n < transferBatch {
			return done, transferred, nil
		}
	}
}

// transferInterrupted adds the number of keys that have been transferred to a refusal.
func transferInterrupted(err error, transferred int) error {
	refusal, ok := errors.AsType[*keystore.Error](err)
	if !ok || transferred == 0 {
		return err
	}
	more := *refusal
	more.Detail = fmt.Sprintf("%s; %d keys have been transferred; repeat the request to transfer "+
		"the rest", refusal.Detail, transferred)
	return &more
}

// checkAll checks all keys of the member.
func (t *transfer) checkAll(ctx context.Context) error {
	ctx, auth, release, err := t.beginLongRead(ctx, t.caller)
	if err != nil {
		return err
	}
	defer release()
	f := keystore.KeyFilter{Owner: t.from, Now: t.Now()}
	for cursor := ""; ; {
		keys, next, err := t.Database().Keys(ctx, f, cursor, transferBatch)
		if err != nil {
			return t.StoreFailed("checking the keys of a member", err)
		}
		for i := range keys {
			if !keys[i].RevokedAt.IsZero() {
				continue
			}
			if _, err := t.given(auth, &keys[i]); err != nil {
				return err
			}
		}
		if cursor = next; next == "" {
			return nil
		}
	}
}

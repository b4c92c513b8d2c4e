package manage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// ChangeOptions apply to every change of an existing object.
type ChangeOptions struct {
	// IfVersion is the version that the object must have. Otherwise the change is refused with
	// [keystore.KindPrecondition]. 0 allows any version.
	IfVersion int64
	// OrVersions are further versions that are allowed. They have no effect without IfVersion.
	OrVersions []int64
	// Wait is how long to wait until the change is in force on every node. Zero means
	// [node.DefaultWait]; a negative value does not wait.
	Wait time.Duration
}

func (o ChangeOptions) check(version int64) error {
	if o.IfVersion != 0 && o.IfVersion != version && !slices.Contains(o.OrVersions, version) {
		return &keystore.Error{Kind: keystore.KindPrecondition, Code: "version_mismatch",
			Detail: fmt.Sprintf(
				"the object has changed and is now at version %d; read it again", version)}
	}
	return nil
}

// change makes a change that may remove access. It waits until every node has applied it.
func (k *Keystore) change(
	ctx context.Context, c Caller, wait time.Duration, f func(keystore.Tx, authority) error,
) (node.Propagation, error) {
	done, err := k.commit(ctx, c, f)
	if err != nil {
		return node.Propagation{}, err
	}
	return k.PropagateObserved(done, wait)
}

// add makes a change that only adds something. It waits until every node has applied it, so that
// all of them accept the addition.
func (k *Keystore) add(
	ctx context.Context, c Caller, wait time.Duration, f func(keystore.Tx, authority) error,
) error {
	done, err := k.commit(ctx, c, f)
	if err != nil {
		return err
	}
	_, err = k.Propagate(done, wait)
	return err
}

// commit authorizes the caller inside a transaction and makes the change in it.
func (k *Keystore) commit(
	ctx context.Context, c Caller, f func(keystore.Tx, authority) error,
) (node.Commit, error) {
	return k.commitAs(ctx, k.withAuthority(c, refused(ctx, f)))
}

type fieldErrorsKey struct{}

// WithFieldErrors returns a context whose changes are refused with these field errors and with
// those that the key store finds. A caller that has found errors itself can thus report all of them
// at once. The errors are added to those of ctx.
func WithFieldErrors(ctx context.Context, wrong []keystore.FieldError) context.Context {
	if len(wrong) == 0 {
		return ctx
	}
	return context.WithValue(ctx, fieldErrorsKey{}, append(fieldErrorsOf(ctx), wrong...))
}

// fieldErrorsOf returns a copy of the errors of a context: see WithFieldErrors.
func fieldErrorsOf(ctx context.Context) fieldErrors {
	known, _ := ctx.Value(fieldErrorsKey{}).(fieldErrors)
	return slices.Clone(known)
}

// refused returns f if the context has no errors. Otherwise it returns a change that runs f and is
// then refused with the errors of the context and those of f. If the context has an error for a
// field, it drops those of f for that field: f may have seen a substitute for an invalid value.
func refused(
	ctx context.Context, f func(keystore.Tx, authority) error,
) func(keystore.Tx, authority) error {
	known := fieldErrorsOf(ctx)
	if len(known) == 0 {
		return f
	}
	return func(tx keystore.Tx, auth authority) error {
		err := f(tx, auth)
		found, ok := errors.AsType[*keystore.Error](err)
		if err != nil && (!ok || len(found.Fields) == 0) {
			return err
		}
		all := slices.Clone(known)
		if ok {
			for _, e := range found.Fields {
				if !known.about(e.Field) {
					all.add(e.Field, "%s", e.Detail)
				}
			}
		}
		return all.err()
	}
}

// commitAs is commit for a change that is already authorized.
func (k *Keystore) commitAs(ctx context.Context, f func(keystore.Tx) error) (node.Commit, error) {
	defer k.writes.enter()()
	return k.write(ctx, f)
}

// commitBulk is commit for one of the many transactions of a bulk change: see writeQueue.
func (k *Keystore) commitBulk(
	ctx context.Context, c Caller, f func(keystore.Tx, authority) error,
) (node.Commit, error) {
	if err := k.writes.enterBulk(ctx); err != nil {
		return node.Commit{}, k.StoreFailed("waiting for other changes", err)
	}
	defer k.writes.leaveBulk()
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	return k.write(ctx, k.withAuthority(c, f))
}

// withAuthority returns the transaction that calls f with the caller's authority.
func (k *Keystore) withAuthority(
	c Caller, f func(keystore.Tx, authority) error,
) func(keystore.Tx) error {
	return func(tx keystore.Tx) error {
		auth, err := k.authorityIn(c, tx)
		if err != nil {
			return err
		}
		return f(tx, auth)
	}
}

func isNotFound(err error) bool { return errors.Is(err, keystore.ErrNotFound) }

// Once makes a change happen at most once: it recognizes a request that repeats an earlier one. Its
// methods run in the transactions of the change, so a check and its record cannot be separated. A
// nil Once checks nothing.
type Once interface {
	// Before runs in each transaction of the change, before the first write and after a check that
	// the caller may make such changes at all. Its error refuses the change. caller is
	// [Caller.Identity].
	Before(tx keystore.Tx, caller string) error
	// After runs at the end of the last transaction. created is the id of the last key that the
	// change created, empty if it created none.
	After(tx keystore.Tx, caller, created string) error
}

func refuseRepeat(once Once, tx keystore.Tx, auth authority) error {
	if once == nil {
		return nil
	}
	return once.Before(tx, auth.identity)
}

func recordCreated(once Once, tx keystore.Tx, auth authority, created string) error {
	if once == nil {
		return nil
	}
	return once.After(tx, auth.identity, created)
}

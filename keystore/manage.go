package keystore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ChangeOptions go with every change of an existing object.
type ChangeOptions struct {
	// IfVersion is the version the object must have, else the change is refused with KindPrecondition. 0: any.
	IfVersion int64
	// Wait is how long to wait for the change to be in force on every node. Zero: [DefaultWait]. Less: not at all.
	Wait time.Duration
}

func (o ChangeOptions) check(version int64) error {
	if o.IfVersion != 0 && o.IfVersion != version {
		return &Error{Kind: KindPrecondition, Code: "version_mismatch", Detail: fmt.Sprintf("the object has version %d by now; read it again", version)}
	}
	return nil
}

// change is the one way to write what may take access away: it waits for every node to know.
func (k *Keystore) change(ctx context.Context, c Caller, wait time.Duration, f func(Tx, authority) error) (Propagation, error) {
	done, err := k.commit(ctx, c, f)
	if err != nil {
		return Propagation{}, err
	}
	return k.kept(done, k.measured(done, wait))
}

// add is the one way to write what only adds something: it waits for every node to know, so that what is new can be used there.
func (k *Keystore) add(ctx context.Context, c Caller, wait time.Duration, f func(Tx, authority) error) error {
	done, err := k.commit(ctx, c, f)
	if err != nil {
		return err
	}
	_, err = k.kept(done, k.propagate(context.WithoutCancel(ctx), done, wait))
	return err
}

// commit authorises a change by what holds inside its transaction, and writes it.
func (k *Keystore) commit(ctx context.Context, c Caller, f func(Tx, authority) error) (commit, error) {
	done := commit{history: k.node.history()}
	countMembers(ctx, k.db)
	var err error
	done.revision, err = k.db.Update(ctx, func(tx Tx) error {
		by, err := k.changing(c, tx)
		if err != nil {
			return err
		}
		return f(tx, by)
	})
	if err != nil {
		return done, k.refusalOr("writing a change", err)
	}
	done.since = k.clock.now()
	hold("committed")
	return done, nil
}

// refusalOr passes on what refuses, and counts the rest as the store's failure.
func (k *Keystore) refusalOr(doing string, err error) error {
	var refusal *Error
	if errors.As(err, &refusal) {
		return refusal
	}
	return k.storeFailed(doing, err)
}

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }

// remembered refuses a repeat of a request that made something. An empty key remembers nothing.
func remembered(tx Tx, by authority, key string) error {
	if key == "" {
		return nil
	}
	made, err := tx.Remembered(by.actor, key, tx.Now().Add(-rememberFor))
	if err != nil || made == "" {
		return err
	}
	return &Error{Kind: KindConflict, Code: "already_made", Detail: "a request with this Idempotency-Key has been carried out; a token is shown only once", ID: made}
}

func remember(tx Tx, by authority, key, made string) error {
	if key == "" {
		return nil
	}
	return tx.Remember(by.actor, key, made, tx.Now().Add(-rememberFor))
}

// rememberFor is how long an Idempotency-Key is known.
const rememberFor = 24 * time.Hour

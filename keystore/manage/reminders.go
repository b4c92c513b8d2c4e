package manage

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

const (
	// remindInterval is how often the node that adds reminders looks for keys that expire.
	remindInterval = 10 * time.Second
	// unusedInterval is the usual time between two searches for unused keys. A search reads all
	// keys that are old enough, so the time to the next one is at least searchShare times as long
	// as the search took.
	unusedInterval = time.Hour
	searchShare    = 50
	// useLag is how late a last use may reach the database. An unused key stays active for this
	// much longer than its namespace says.
	useLag = time.Minute
	// remindBatch is how many reminders one transaction adds. Another change waits for at most one
	// such transaction.
	remindBatch = 200
	// expiredKept is how long after its expiry a key is still reported if no node was running.
	expiredKept = 30 * 24 * time.Hour
	// clockSlack is the largest expected difference between the clocks of two nodes that add
	// reminders in turn. A node that starts may be a minute behind the others: it continues with a
	// time that is stored once a minute.
	clockSlack = 2 * time.Minute
)

// remind adds reminders until ctx is done.
func (k *Keystore) remind(ctx context.Context) {
	var search time.Time // the earliest time of the next search for unused keys
	t := time.NewTimer(rand.N(remindInterval))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		k.remindOnce(ctx, &search)
		t.Reset(remindInterval/2 + rand.N(remindInterval))
	}
}

// remindOnce adds the reminders that are due, if this is the node that adds them. It searches for
// unused keys if search has passed, and then sets it to the next time.
func (k *Keystore) remindOnce(ctx context.Context, search *time.Time) {
	leads, err := k.addsReminders(ctx)
	if err == nil && leads {
		err = k.remindExpiring(ctx)
		begun := time.Now()
		shortest, inactivates := k.idleRules()
		if err == nil && shortest > 0 && !begun.Before(*search) {
			if err = k.remindUnused(ctx, shortest, inactivates); err == nil {
				*search = begun.Add(max(min(unusedInterval, shortest/100),
					searchShare*time.Since(begun)))
			}
		}
	}
	if err != nil {
		_ = k.StoreFailed("adding reminders", err)
	}
}

// addsReminders reports whether this node is the oldest one that is alive. Two nodes may both
// believe this for a while. Each reminder is recorded in the transaction that adds it, so it is
// added only once.
func (k *Keystore) addsReminders(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, node.QueryTimeout)
	defer cancel()
	nodes, err := k.nodes(ctx)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(nodes, func(n NodeStatus) bool {
		return n.State == keystore.NodeActive && !n.Silent
	})
	return i >= 0 && nodes[i].Self, nil
}

// remindExpiring reports keys that expire soon or have expired.
func (k *Keystore) remindExpiring(ctx context.Context) error {
	s := k.Settings().Reminders
	if s.Off {
		return nil
	}
	positions, err := k.Database().ReminderPositions(ctx)
	if err != nil {
		return err
	}
	before := append(slices.Clone(s.Before), 0) // 0: the key has expired
	slices.Sort(before)
	var shorter time.Duration
	for _, b := range slices.Compact(before) {
		now := k.Now()
		r := reminder{Keystore: k, before: b, after: positions[b], stored: positions[b]}
		floor := now.Add(shorter) // the next shorter reminder replaces one that is late
		shorter = b
		if b == 0 {
			floor = now.Add(-expiredKept)
		}
		// Keys that expired before there were reminders are not reported. If the database's clock was
		// far ahead, keys that were created since it was set back would come before the position.
		if b == 0 && r.after == (keystore.ExpiryPosition{}) ||
			r.after.ExpiresAt.After(now.Add(b+clockSlack)) {
			if err := r.store(ctx, keystore.AfterExpiry(now.Add(b))); err != nil {
				return err
			}
			continue
		}
		if r.after.ExpiresAt.Before(floor) {
			r.after = keystore.AfterExpiry(floor)
		}
		for more := true; more; {
			if more, err = r.addBatch(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// A reminder adds the reminders that are due a certain time before the expiry of keys, in the order
// of the expiry.
type reminder struct {
	*Keystore
	before        time.Duration
	after, stored keystore.ExpiryPosition // of the last key, and as the database has stored it
}

// errReminded means that another node has added the same reminders.
var errReminded = errors.New("another node adds reminders")

// store stores a position without a reminder.
func (r *reminder) store(ctx context.Context, p keystore.ExpiryPosition) error {
	_, err := r.commitBulk(ctx, Root("reminders"), func(tx keystore.Tx, _ authority) error {
		return r.move(tx, p)
	})
	return r.ended(err)
}

// move stores a position. It fails if another node has stored one since this node has read it.
func (r *reminder) move(tx keystore.Tx, p keystore.ExpiryPosition) error {
	stored, err := tx.ReminderPosition(r.before)
	if err != nil {
		return err
	}
	if stored.ID != r.stored.ID || !stored.ExpiresAt.Equal(r.stored.ExpiresAt) {
		return errReminded
	}
	return tx.SetReminderPosition(r.before, p)
}

// ended returns err, or nil for errReminded.
func (*reminder) ended(err error) error {
	if errors.Is(err, errReminded) {
		return nil
	}
	return err
}

// addBatch adds at most remindBatch reminders, and reports whether there may be more.
func (r *reminder) addBatch(ctx context.Context) (more bool, err error) {
	until := r.Now().Add(r.before)
	found, err := r.Database().ExpiringKeys(ctx, r.after, until, remindBatch)
	if err != nil || len(found) == 0 {
		return false, err
	}
	next := keystore.AfterExpiry(until)
	if more = len(found) == remindBatch; more {
		next = found[len(found)-1]
	}
	ids := make([]string, len(found))
	for i, p := range found {
		ids[i] = p.ID
	}
	action, cause := "key.expired", "the expiry"
	if r.before > 0 {
		action = "key.expiring"
		cause = "the reminder " + keystore.LifetimeText(r.before) + " before the expiry"
	}
	_, err = r.commitBulk(ctx, Root(cause), func(tx keystore.Tx, auth authority) error {
		if err := r.move(tx, next); err != nil {
			return err
		}
		keys, err := tx.Keys(ids)
		if err != nil {
			return err
		}
		var list []auditedChange
		for i := range keys {
			key := &keys[i]
			if !r.appliesTo(key) {
				continue
			}
			list = append(list, auditedChange{key.ID, key.Touches(auth.policy), key,
				&remindedKey{key, auditedReminder{Before: keystore.LifetimeText(r.before)}}})
		}
		return auditAll(tx, auth, action, list)
	})
	r.after, r.stored = next, next
	if errors.Is(err, errReminded) {
		return false, nil
	}
	return more, err
}

// appliesTo reports whether a key gets the reminder. A key that was created after the reminder was
// due gets the next shorter one.
func (r *reminder) appliesTo(key *keystore.Key) bool {
	return key.RevokedAt.IsZero() && !key.CreatedAt.After(key.ExpiresAt.Add(-r.before))
}

// idleRule returns what happens to unused keys of a namespace. Its After is zero if nothing does.
func (k *Keystore) idleRule(ns *keystore.Namespace) keystore.IdleRule {
	if ns != nil && ns.Idle != (keystore.IdleRule{}) {
		return ns.Idle
	}
	return keystore.IdleRule{After: k.Settings().Reminders.Unused, Then: keystore.IdleNotify}
}

// idleRules returns the shortest time after which a key counts as unused, or 0, and whether any
// namespace inactivates such keys.
func (k *Keystore) idleRules() (shortest time.Duration, inactivates bool) {
	shortest = k.idleRule(nil).After
	for _, ns := range k.Policy().AllNamespaces() {
		if after := ns.Idle.After; after > 0 && (shortest == 0 || after < shortest) {
			shortest = after
		}
		inactivates = inactivates || ns.Idle.Then == keystore.IdleInactivate
	}
	return shortest, inactivates
}

// remindUnused reports and inactivates unused keys. shortest and inactivates come from idleRules.
func (k *Keystore) remindUnused(
	ctx context.Context, shortest time.Duration, inactivates bool,
) error {
	now := k.Now()
	f := keystore.UnusedFilter{Now: now, Since: now.Add(-shortest), Reported: inactivates}
	for cursor := ""; ; {
		found, next, err := k.Database().UnusedKeys(ctx, f, cursor)
		if err != nil {
			return err
		}
		// Most keys that were found may belong to namespaces with a longer time, or none.
		var ids []string
		for _, u := range found {
			rule := k.idleRule(k.Policy().Namespace(u.Namespace))
			if tell, end := dueUnused(rule, u.Since, now, u.Reported); tell || end {
				ids = append(ids, u.ID)
			}
		}
		for batch := range slices.Chunk(ids, remindBatch) {
			if err := k.reportUnused(ctx, batch); err != nil {
				return err
			}
		}
		if cursor = next; next == "" {
			return nil
		}
	}
}

// dueUnused returns what must happen to an active key that was not used since a time, given the
// last report about it: whether to report it, and whether to inactivate it. Both happen once until
// the key is used again. A key that somebody activates again without using it stays active.
func dueUnused(
	rule keystore.IdleRule, since, now time.Time, last keystore.UnusedReport,
) (tell, end bool) {
	after, ends := rule.After, rule.Then == keystore.IdleInactivate
	if ends {
		after += useLag
	}
	if rule.After == 0 || now.Sub(since) < after {
		return false, false
	}
	reported := !last.Since.Before(since)
	return !reported, ends && !(reported && last.Inactivated)
}

// reportUnused reports and inactivates unused keys, each as far as that is due.
func (k *Keystore) reportUnused(ctx context.Context, ids []string) error {
	var ended []string
	done, err := k.commitBulk(ctx, Root("unused keys"), func(tx keystore.Tx, auth authority) error {
		ended = nil
		keys, err := tx.Keys(ids)
		if err != nil {
			return err
		}
		known, err := tx.ReportedUnused(ids)
		if err != nil {
			return err
		}
		var unused, edits []auditedChange
		reports := make(map[string]keystore.UnusedReport)
		for i := range keys {
			key := &keys[i]
			since := key.LastUsedAt
			if since.IsZero() {
				since = key.CreatedAt
			}
			rule := k.idleRule(auth.policy.Namespace(key.Namespace))
			tell, end := dueUnused(rule, since, tx.Now(), known[key.ID])
			if !tell && !end || key.Status(tx.Now()) != keystore.StatusActive {
				continue
			}
			touches := key.Touches(auth.policy)
			if tell {
				unused = append(unused, auditedChange{key.ID, touches, key,
					&remindedKey{key, auditedReminder{UnusedSince: since}}})
			}
			if end {
				after := *key
				after.Active, after.Version = false, key.Version+1
				edits = append(edits, auditedChange{key.ID, touches, key, &after})
				ended = append(ended, key.ID)
			}
			reports[key.ID] = keystore.UnusedReport{Since: since, Inactivated: end}
		}
		if len(reports) == 0 {
			return nil
		}
		if err := tx.NoteUnused(reports); err != nil {
			return err
		}
		if len(ended) > 0 {
			if err := tx.InactivateKeys(ended); err != nil {
				return err
			}
		}
		if err := auditAll(tx, auth, "key.unused", unused); err != nil {
			return err
		}
		return auditAll(tx, auth, "key.edit", edits)
	})
	if err == nil && len(ended) > 0 {
		_, err = k.PropagateObserved(done, -1)
	}
	return err
}

package manage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A LeakReport says where a token was found. Only Token is trusted: anyone who has a token could
// use it, and so may get it revoked. The other fields are for people.
type LeakReport struct {
	Token  string
	URL    string
	Source string
	Type   string
}

const (
	// MaxLeaks is the maximum number of reports in one call.
	MaxLeaks = 100
	// leakWait is how long a report waits until the tokens are refused everywhere. GitHub waits for
	// an answer for 30 s.
	leakWait = 20 * time.Second
	// leaksKept and maxLeakRows bound the audit log: a key that is not revoked gets one row for
	// each URL in this time, and at most this many rows. Signed reports have as many of their own.
	leaksKept   = 24 * time.Hour
	maxLeakRows = 20
	maxLeakURL  = 2000 // bytes
	maxLeakText = 100  // bytes in Source and Type
)

// A leak is a report about a key.
type leak struct {
	LeakReport
	signed bool
	digest keystore.Digest
	key    string           // id
	record *keystore.Record // that this node found
	member bool             // whether it is the token of a member
	// ended says that this node refuses the token already, although others may still accept it.
	// gone says that a report of this token can no longer change the key.
	ended, gone bool
	action      keystore.LeakAction
}

// place returns the beginning of the digest of the URL.
func (l *leak) place() string {
	sum := sha256.Sum256([]byte(l.URL))
	return base64.RawURLEncoding.EncodeToString(sum[:8])
}

// ends reports whether the action of the leak takes access away.
func (l *leak) ends() bool {
	return !l.gone && (l.action == keystore.LeakRevoke ||
		l.action == keystore.LeakInactivate && !l.ended)
}

// ReportLeaks applies the OnLeak of namespaces to their keys whose tokens leaked, and adds a row to
// the audit log for each. It returns, for each report, whether the token belongs or belonged to a
// key or a member. It waits until its changes, and those of earlier reports, are in force
// everywhere. The token of a member has no namespace: it is revoked. signed says that the signature
// of the reports was verified.
//
// Unknown tokens cost no transaction and leave nothing behind. No caller is required, because the
// token is the proof. Only the address of c is used.
func (k *Keystore) ReportLeaks(
	ctx context.Context, c Caller, signed bool, reports []LeakReport,
) (known []bool, p node.Propagation, err error) {
	known = make([]bool, len(reports))
	var leaks []leak
	var refused error
	places := make(map[keystore.Digest][]string) // by token
	for i, r := range reports {
		l, ok, err := k.judgeLeak(ctx, c, signed, r)
		if err != nil {
			// The other reports are handled first: see below.
			refused = err
			continue
		}
		known[i] = ok
		if l == nil || len(places[l.digest]) >= maxLeakRows {
			continue
		}
		l.LeakReport = r.cleaned(keystore.TrimSecretToken(r.Token))
		if place := l.place(); !slices.Contains(places[l.digest], place) {
			places[l.digest] = append(places[l.digest], place)
			leaks = append(leaks, *l)
		}
	}
	var changes []leak
	var waits []*keystore.Record
	for i := range leaks {
		l := &leaks[i]
		now := time.Now()
		switch {
		case l.ends():
			changes = append(changes, *l)
		case l.gone || !k.leaks.fresh(reportedKey{l.key, signed}, l.place(), now):
		case k.leaks.admit(c, signed, now):
			changes = append(changes, *l)
		default:
			refused = errTooManyReports
		}
		if l.ended && l.action != keystore.LeakNotify && !k.leaks.isSettled(l.record) {
			waits = append(waits, l.record)
		}
	}
	if p, err = k.endLeaked(ctx, c, changes, waits); err == nil {
		err = refused
	}
	return known, p, err
}

var errTooManyReports = &keystore.Error{Kind: keystore.KindBusy, Code: "busy",
	Detail: "too many reports; try again in a few seconds"}

// judgeLeak reports whether a token belongs or belonged to a key. It returns the leak, or nil if
// nothing is left to do.
//
// The proof is that the token itself was reported: its tag and its digest. For a derived token, the
// proof is its signature, which LookupReported verifies, and the leaked key is the one that it was
// derived from.
func (k *Keystore) judgeLeak(
	ctx context.Context, c Caller, signed bool, r LeakReport,
) (l *leak, known bool, err error) {
	now := time.Now() // before the lookup: see Node.Lookup
	token := keystore.TrimSecretToken(r.Token)
	l = &leak{signed: signed, member: k.IsMemberToken(token)}
	tagged, possible := k.Inspect(token)
	created := l.member || tagged && possible || k.Abandoned(token)
	_, derived := keystore.DerivedParent(token)
	var a node.Answer
	switch {
	case l.member:
		a, err = k.LookupMember(ctx, token, now)
	case !created && (possible || derived) && !k.leaks.admit(c, signed, now):
		err = errTooManyReports
	default:
		a, err = k.LookupReported(ctx, token, now)
	}
	if err != nil {
		return nil, false, err
	}
	if a.Record == nil { // the key of a token that was created here has been deleted
		return nil, created, nil
	}
	policy := k.Policy()
	home := policy.Namespace(a.Record.Namespace)
	l.key, l.digest, l.record = a.Record.KeyID, a.Record.Digest, a.Record
	l.action = l.actionIn(policy, a.Record.Namespace)
	switch keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: policy,
		Namespace: home, Narrowing: a.Narrowing}) {
	case keystore.Expired:
		return nil, true, nil
	case keystore.Rotated:
		l.ended, l.gone = true, true
	case keystore.Revoked:
		l.ended, l.gone, l.action = true, true, keystore.LeakRevoke
	case keystore.Inactive:
		l.ended = true
	}
	return l, true, nil
}

// actionIn returns what happens to the leaked key in its home namespace.
func (l *leak) actionIn(policy *keystore.Directory, home string) keystore.LeakAction {
	if l.member {
		return keystore.LeakRevoke
	}
	if ns := policy.Namespace(home); ns != nil && ns.OnLeak != "" {
		return ns.OnLeak
	}
	return keystore.LeakNotify
}

// endLeaked applies the OnLeak of the namespaces to keys, in one transaction. It waits until the
// changes are in force everywhere, and until all nodes refuse the tokens in waits.
func (k *Keystore) endLeaked(
	ctx context.Context, c Caller, leaks []leak, waits []*keystore.Record,
) (p node.Propagation, err error) {
	slices.SortFunc(leaks, func(a, b leak) int { return strings.Compare(a.key, b.key) })
	var revoked []string
	var ended bool
	var done node.Commit
	change := func(tx keystore.Tx) error {
		revoked, ended = nil, false // it may run twice
		policy, err := k.policyIn(tx)
		if err != nil {
			return err
		}
		for i := range leaks {
			was, err := leaks[i].end(tx, c, policy)
			if err != nil {
				return err
			}
			if was == keystore.LeakRevoke {
				revoked = append(revoked, leaks[i].key)
			}
			ended = ended || was != "" || leaks[i].ends() // another report may have ended it
		}
		return nil
	}
	switch {
	case len(leaks) == 0:
	case slices.ContainsFunc(leaks, func(l leak) bool { return l.ends() }):
		done, err = k.commitAs(ctx, change)
	default:
		done, err = k.commitBulk(ctx, Root("leaks"),
			func(tx keystore.Tx, _ authority) error { return change(tx) })
	}
	if err != nil {
		return node.Propagation{}, err
	}
	for i := range leaks {
		k.leaks.note(reportedKey{leaks[i].key, leaks[i].signed}, leaks[i].place(), time.Now())
	}
	if len(revoked) > 0 {
		k.RememberRevokes(revoked, done, "leaked")
	}
	switch {
	case ended:
		p, err = k.PropagateObserved(done, leakWait)
	case len(waits) > 0:
		p, err = k.waitForLeaked(ctx, waits)
	default:
		p.Complete = true
	}
	if err == nil && p.Complete {
		k.leaks.settle(waits)
	}
	return p, err
}

// waitForLeaked waits until all nodes refuse tokens that this node already refuses.
func (k *Keystore) waitForLeaked(
	ctx context.Context, records []*keystore.Record,
) (node.Propagation, error) {
	if !k.leaks.beginWait() {
		return node.Propagation{}, nil
	}
	defer k.leaks.endWait()
	done, err := k.Latest(ctx)
	if err != nil {
		return node.Propagation{}, err
	}
	if len(records) == 1 {
		done = k.FirstRevoke(records[0].KeyID, done)
	}
	return k.Propagate(done, leakWait)
}

// end applies the OnLeak of the key's namespace, and adds a row to the audit log. It returns the
// action, or "" if it changed nothing.
func (l *leak) end(
	tx keystore.Tx, c Caller, policy *keystore.Directory,
) (keystore.LeakAction, error) {
	key, err := tx.Key(l.key)
	if isNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if !key.RevokedAt.IsZero() || !key.Accepts(l.digest, tx.Now()) ||
		key.Status(tx.Now()) == keystore.StatusExpired {
		return "", nil
	}
	// The caller acts as the key, because it has its token.
	auth := authority{root: true, actor: key.ID, from: c.from, policy: policy}
	action := l.actionIn(policy, key.Namespace)
	if err := l.audit(tx, auth, key, action); err != nil {
		return "", err
	}
	switch {
	case action == keystore.LeakRevoke:
		_, err := revoke(tx, auth, key, l.reason())
		return action, err
	case action == keystore.LeakInactivate && key.Active:
		after := *key
		after.Active = false
		return action, updateKey(tx, auth, "key.edit", key, &after)
	}
	return "", nil
}

// audit appends a row with the report to the audit log, unless the key has enough of them.
func (l *leak) audit(
	tx keystore.Tx, auth authority, key *keystore.Key, action keystore.LeakAction,
) error {
	scope := "leak"
	if l.signed {
		scope = "signed leak"
	}
	if action != keystore.LeakRevoke { // which happens once
		since := tx.Now().Add(-leaksKept)
		rows, err := tx.Remembered(scope, key.ID, since)
		if err != nil {
			return err
		}
		seen := strings.Fields(rows)
		if slices.Contains(seen, l.place()) || len(seen) >= maxLeakRows {
			return nil
		}
		if err := tx.Remember(scope, key.ID, strings.Join(append(seen, l.place()), " "),
			since); err != nil {
			return err
		}
	}
	return audit(tx, auth, "key.leaked", key.ID, key.Touches(auth.policy), key,
		&leakedKey{key, auditedLeak{l.URL, l.Source, l.Type, l.signed, action}})
}

// reason returns the reason of a revoke.
func (l *leak) reason() string {
	reason := "leaked"
	if l.URL != "" {
		reason += ": " + l.URL
	}
	return keystore.Truncate(reason, maxReason)
}

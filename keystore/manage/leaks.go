package manage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A LeakReport says where a token was found. Only Token is trusted: whoever has a token could use
// it, and so may end it. The other fields are for people.
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
	// each URL in this time, and at most this many rows.
	leaksKept   = 24 * time.Hour
	maxLeakRows = 20
	maxLeakURL  = 2000 // bytes
	maxLeakText = 100  // bytes in Source and Type
)

// guessLimit bounds the lookups for reports of credentials without a tag. Anyone can invent such
// credentials, and each one that is unknown costs a query.
var guessLimit = keystore.RateLimit{Requests: 100, Per: 10 * time.Second, Burst: MaxLeaks}

// leakReports is the state of a node for reports of leaked tokens.
type leakReports struct {
	mu      sync.Mutex
	guesses keystore.Meter
	// told has reports that change nothing any more, so that repeating them costs no transaction.
	told map[toldLeak]time.Time
}

// A toldLeak is a report about a key.
type toldLeak struct {
	key    string
	action keystore.LeakAction
	url    [8]byte // the beginning of its digest
}

const (
	maxTold  = 4096
	toldKept = 10 * time.Minute
)

// guess reports whether a credential without a tag may be looked up.
func (l *leakReports) guess(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ok := l.guesses.Room(&guessLimit, now.UnixMicro()) > 0
	if ok {
		l.guesses = l.guesses.Add(&guessLimit, now.UnixMicro(), 1)
	}
	return ok
}

func (l *leakReports) known(t toldLeak, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.told[t]
	return ok && now.Sub(at) < toldKept
}

func (l *leakReports) note(t toldLeak, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told == nil || len(l.told) >= maxTold {
		l.told = make(map[toldLeak]time.Time)
	}
	l.told[t] = now
}

// A leak is a report about a live key.
type leak struct {
	LeakReport
	digest keystore.Digest
	key    string // id
	member bool   // whether it is the token of a member
}

// ReportLeaks ends the keys of leaked tokens as the OnLeak of their namespaces says, and adds a row
// to the audit log for each. It returns, for each report, whether the token belongs or belonged to
// a key or a member, and waits until the changes are in force everywhere. The token of a member has
// no namespace: it is revoked. signed says that the sender of the reports has proven who it is.
//
// Unknown tokens cost no transaction and leave nothing behind. No caller is required, because the
// token is the proof. Only the address of c is used.
func (k *Keystore) ReportLeaks(
	ctx context.Context, c Caller, signed bool, reports []LeakReport,
) (known []bool, p node.Propagation, err error) {
	known = make([]bool, len(reports))
	var leaks []leak
	var refused error
	for i, r := range reports {
		l, ok, err := k.judgeLeak(ctx, r)
		if err != nil {
			// The other tokens are ended first: see below.
			refused = err
			continue
		}
		known[i] = ok
		if l != nil && !slices.ContainsFunc(leaks, func(o leak) bool { return o.key == l.key }) {
			leaks = append(leaks, *l)
		}
	}
	if p, err = k.endLeaked(ctx, c, signed, leaks); err == nil {
		err = refused
	}
	return known, p, err
}

// judgeLeak reports whether a token belongs or belonged to a key. It returns the leak if the token
// still works, and nil if it does not or nothing is left to do.
//
// The proof is that the token itself was reported: its tag and its digest. For a derived token, the
// proof is its signature, which Lookup verifies, and the leaked key is the one that it was derived
// from.
func (k *Keystore) judgeLeak(ctx context.Context, r LeakReport) (l *leak, known bool, err error) {
	now := time.Now() // before the lookup: see Node.Lookup
	token := keystore.TrimSecretToken(r.Token)
	l = &leak{LeakReport: r.cleaned(token), member: k.IsMemberToken(token)}
	var a node.Answer
	if l.member {
		a, err = k.LookupMember(ctx, token, now)
	} else {
		if tagged, ok := k.Inspect(token); ok && !tagged && !k.leaks.guess(now) {
			return nil, false, &keystore.Error{Kind: keystore.KindBusy, Code: "busy",
				Detail: "too many credentials without a token prefix were reported; try again " +
					"in some seconds"}
		}
		a, err = k.Lookup(ctx, token, now)
	}
	if err != nil {
		return nil, false, err
	}
	if a.Record == nil {
		return nil, k.Abandoned(token), nil
	}
	policy := k.Policy()
	home := policy.Namespace(a.Record.Namespace)
	switch keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: policy,
		Namespace: home}) {
	case keystore.Rotated, keystore.Revoked, keystore.Expired:
		return nil, true, nil
	}
	l.key, l.digest = a.Record.KeyID, a.Record.Digest
	if k.leaks.known(l.told(policy, a.Record.Namespace), now) {
		return nil, true, nil
	}
	return l, true, nil
}

// action returns what happens to the leaked key.
func (l *leak) action(policy *keystore.Directory, home string) keystore.LeakAction {
	if l.member {
		return keystore.LeakRevoke
	}
	if ns := policy.Namespace(home); ns != nil && ns.OnLeak != "" {
		return ns.OnLeak
	}
	return keystore.LeakNotify
}

func (l *leak) told(policy *keystore.Directory, home string) toldLeak {
	t := toldLeak{key: l.key, action: l.action(policy, home)}
	sum := sha256.Sum256([]byte(l.URL))
	copy(t.url[:], sum[:])
	return t
}

// endLeaked applies the OnLeak of the namespaces to keys, in one transaction, and waits until it is
// in force everywhere.
func (k *Keystore) endLeaked(
	ctx context.Context, c Caller, signed bool, leaks []leak,
) (node.Propagation, error) {
	if len(leaks) == 0 {
		return node.Propagation{}, nil
	}
	slices.SortFunc(leaks, func(a, b leak) int { return strings.Compare(a.key, b.key) })
	var revoked []string
	var told []toldLeak
	changed := false
	done, err := k.commitAs(ctx, func(tx keystore.Tx) error {
		revoked, told, changed = nil, nil, false // it may run twice
		policy, err := k.policyIn(tx)
		if err != nil {
			return err
		}
		for i := range leaks {
			l := &leaks[i]
			key, err := tx.Key(l.key)
			if isNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			if !key.RevokedAt.IsZero() || !key.Accepts(l.digest, tx.Now()) ||
				key.Status(tx.Now()) == keystore.StatusExpired {
				continue
			}
			// The caller acts as the key, because it has its token.
			auth := authority{root: true, actor: key.ID, from: c.from, policy: policy}
			action := l.action(policy, key.Namespace)
			if err := l.audit(tx, auth, key, action, signed); err != nil {
				return err
			}
			switch {
			case action == keystore.LeakRevoke:
				if _, err := revoke(tx, auth, key, l.reason()); err != nil {
					return err
				}
				revoked, changed = append(revoked, key.ID), true
			case action == keystore.LeakInactivate && key.Active:
				after := *key
				after.Active = false
				if err := updateKey(tx, auth, "key.edit", key, &after); err != nil {
					return err
				}
				changed = true
			case action == keystore.LeakNotify:
				told = append(told, l.told(policy, key.Namespace))
			}
		}
		return nil
	})
	if err != nil {
		return node.Propagation{}, err
	}
	for _, t := range told {
		k.leaks.note(t, time.Now())
	}
	if len(revoked) > 0 {
		k.RememberRevokes(revoked, done, "leaked")
	}
	if !changed {
		return node.Propagation{}, nil
	}
	return k.PropagateObserved(done, leakWait)
}

// audit appends a row with the report to the audit log, unless the key has enough of them.
func (l *leak) audit(
	tx keystore.Tx, auth authority, key *keystore.Key, action keystore.LeakAction, signed bool,
) error {
	const scope = "leak"
	since := tx.Now().Add(-leaksKept)
	rows, err := tx.Remembered(scope, key.ID, since)
	if err != nil {
		return err
	}
	t := l.told(auth.policy, key.Namespace)
	url := base64.RawURLEncoding.EncodeToString(t.url[:])
	seen := strings.Fields(rows)
	if action != keystore.LeakRevoke { // which happens once
		if slices.Contains(seen, url) || len(seen) >= maxLeakRows {
			return nil
		}
		if err := tx.Remember(scope, key.ID, strings.Join(append(seen, url), " "),
			since); err != nil {
			return err
		}
	}
	return audit(tx, auth, "key.leaked", key.ID, key.Touches(auth.policy), key,
		&leakedKey{key, auditedLeak{l.URL, l.Source, l.Type, signed, action}})
}

// reason returns the reason of a revoke.
func (l *leak) reason() string {
	reason := "leaked"
	if l.URL != "" {
		reason += ": " + l.URL
	}
	return truncated(reason, maxReason)
}

// cleaned returns the report as it is stored: bounded, without control characters, and without the
// token, which may be part of the URL.
func (r LeakReport) cleaned(token string) LeakReport {
	clean := func(s string, most int) string {
		s = truncated(strings.Map(func(c rune) rune {
			if unicode.IsControl(c) {
				return -1
			}
			return c
		}, strings.ToValidUTF8(s, "")), most)
		plain, err := url.QueryUnescape(s)
		if err != nil {
			plain = s
		}
		for _, text := range []string{s, plain} {
			if keystore.ContainsToken(text) || token != "" && strings.Contains(text, token) {
				return "(withheld, because it contains a token)"
			}
		}
		return s
	}
	return LeakReport{URL: clean(r.URL, maxLeakURL), Source: clean(r.Source, maxLeakText),
		Type: clean(r.Type, maxLeakText)}
}

// truncated returns the beginning of a text, at most a number of bytes.
func truncated(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

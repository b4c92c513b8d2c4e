package manage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"net/netip"
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
	// each URL in this time, and at most this many rows. Signed reports have as many of their own.
	leaksKept   = 24 * time.Hour
	maxLeakRows = 20
	maxLeakURL  = 2000 // bytes
	maxLeakText = 100  // bytes in Source and Type
)

// reportLimit bounds, for each client, the reports that cost something but end nothing: a query for
// a credential without a tag, which anyone can invent, or a transaction that only adds a row.
var reportLimit = keystore.RateLimit{Requests: 100, Per: 10 * time.Second, Burst: MaxLeaks}

const (
	maxLeakClients = 4096 // others share a limit
	maxLeakKeys    = 4096 // about which a node remembers reports
	maxLeakWaits   = 8
	// settledKept is how long a node remembers that the end of a key is in force everywhere.
	settledKept = 10 * time.Minute
)

// leakReports is the state of a node for reports of leaked tokens. The zero value is ready to use.
type leakReports struct {
	mu      sync.Mutex
	clients map[string]keystore.Meter
	// told has the reports that this node has passed to the database, so that the key, whoever
	// reports it how often, costs no more transactions than there may be rows.
	told map[toldKey]toldReports
	// settled has the keys whose end is in force everywhere.
	settled map[string]time.Time
	waiting int // reports that wait for the end of a key that an earlier one has ended
}

// A toldKey is a key; signed and other reports have rows of their own.
type toldKey struct {
	key    string
	signed bool
}

type toldReports struct {
	last time.Time
	urls []string // see leak.place
}

// admit reports whether a client may send one more report that costs something. Senders that have
// proven who they are share a limit.
func (l *leakReports) admit(c Caller, signed bool, now time.Time) bool {
	client := "signed"
	if !signed {
		client = c.from
		if a, err := netip.ParseAddr(client); err == nil && a.Unmap().Is6() {
			network, _ := a.WithZone("").Prefix(64) // of which a client has as many as it likes
			client = network.String()
		}
	}
	at := now.UnixMicro()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients == nil {
		l.clients = make(map[string]keystore.Meter)
	}
	if _, known := l.clients[client]; !known && len(l.clients) >= maxLeakClients {
		maps.DeleteFunc(l.clients, func(_ string, m keystore.Meter) bool { return m.TAT <= at })
		if len(l.clients) >= maxLeakClients && !signed {
			client = ""
		}
	}
	m := l.clients[client]
	if !m.Fits(&reportLimit, at) {
		return false
	}
	l.clients[client] = m.Add(&reportLimit, at, 1)
	return true
}

// fresh reports whether a report may add a row.
func (l *leakReports) fresh(k toldKey, place string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	told := l.told[k]
	return now.Sub(told.last) >= leaksKept ||
		len(told.urls) < maxLeakRows && !slices.Contains(told.urls, place)
}

func (l *leakReports) note(k toldKey, place string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	told, known := l.told[k]
	if now.Sub(told.last) >= leaksKept {
		told.urls = nil
	}
	if l.told == nil || !known && len(l.told) >= maxLeakKeys {
		l.told = make(map[toldKey]toldReports)
	}
	if len(told.urls) < maxLeakRows && !slices.Contains(told.urls, place) {
		told.urls = append(told.urls, place)
	}
	l.told[k] = toldReports{now, told.urls}
}

func (l *leakReports) isSettled(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.settled[key]
	return ok && now.Sub(at) < settledKept
}

func (l *leakReports) settle(keys []string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled == nil || len(l.settled) >= maxLeakKeys {
		l.settled = make(map[string]time.Time)
	}
	for _, key := range keys {
		l.settled[key] = now
	}
}

// forget is called when keys are ended. They may have been active again in between.
func (l *leakReports) forget(keys []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		delete(l.settled, key)
	}
}

// beginWait bounds the reports that wait at a time.
func (l *leakReports) beginWait() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == maxLeakWaits {
		return false
	}
	l.waiting++
	return true
}

func (l *leakReports) endWait() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
}

// A leak is a report about a key.
type leak struct {
	LeakReport
	signed bool
	digest keystore.Digest
	key    string // id
	member bool   // whether it is the token of a member
	// ended says that the key does not work any more as this node knows, which may not be in force
	// on other nodes yet. gone says that nothing can happen to it any more.
	ended, gone bool
	action      keystore.LeakAction
}

// place returns the beginning of the digest of the URL.
func (l *leak) place() string {
	sum := sha256.Sum256([]byte(l.URL))
	return base64.RawURLEncoding.EncodeToString(sum[:8])
}

// ends reports whether an action on the key takes access away.
func (l *leak) ends() bool {
	return !l.gone && (l.action == keystore.LeakRevoke ||
		l.action == keystore.LeakInactivate && !l.ended)
}

// ReportLeaks ends the keys of leaked tokens as the OnLeak of their namespaces says, and adds a row
// to the audit log for each. It returns, for each report, whether the token belongs or belonged to
// a key or a member, and waits until the changes are in force everywhere, those of earlier reports
// too. The token of a member has no namespace: it is revoked. signed says that the sender of the
// reports has proven who it is.
//
// Unknown tokens cost no transaction and leave nothing behind. No caller is required, because the
// token is the proof. Only the address of c is used.
func (k *Keystore) ReportLeaks(
	ctx context.Context, c Caller, signed bool, reports []LeakReport,
) (known []bool, p node.Propagation, err error) {
	known = make([]bool, len(reports))
	var leaks []leak
	var refused error
	seen := make(map[string]bool)
	for i, r := range reports {
		l, ok, err := k.judgeLeak(ctx, c, signed, r)
		if err != nil {
			// The other tokens are ended first: see below.
			refused = err
			continue
		}
		known[i] = ok
		if l != nil && !seen[l.key] {
			seen[l.key] = true
			l.LeakReport = r.cleaned(keystore.TrimSecretToken(r.Token))
			leaks = append(leaks, *l)
		}
	}
	var changes []leak
	var waits []string
	for i := range leaks {
		l := &leaks[i]
		now := time.Now()
		switch {
		case l.ends():
			changes = append(changes, *l)
		case l.gone || !k.leaks.fresh(toldKey{l.key, signed}, l.place(), now):
		case k.leaks.admit(c, signed, now):
			changes = append(changes, *l)
		default:
			refused = errTooManyReports
		}
		if l.ended && l.action != keystore.LeakNotify && !k.leaks.isSettled(l.key, now) {
			waits = append(waits, l.key)
		}
	}
	if p, err = k.endLeaked(ctx, c, changes, waits); err == nil {
		err = refused
	}
	return known, p, err
}

var errTooManyReports = &keystore.Error{Kind: keystore.KindBusy, Code: "busy",
	Detail: "too many reports; try again in some seconds"}

// judgeLeak reports whether a token belongs or belonged to a key. It returns the leak, or nil if
// nothing is left to do.
//
// The proof is that the token itself was reported: its tag and its digest. For a derived token, the
// proof is its signature, which Lookup verifies, and the leaked key is the one that it was derived
// from.
func (k *Keystore) judgeLeak(
	ctx context.Context, c Caller, signed bool, r LeakReport,
) (l *leak, known bool, err error) {
	now := time.Now() // before the lookup: see Node.Lookup
	token := keystore.TrimSecretToken(r.Token)
	l = &leak{signed: signed, member: k.IsMemberToken(token)}
	var a node.Answer
	if l.member {
		a, err = k.LookupMember(ctx, token, now)
	} else {
		if tagged, ok := k.Inspect(token); ok && !tagged && !k.leaks.admit(c, signed, now) {
			return nil, false, errTooManyReports
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
	l.key, l.digest = a.Record.KeyID, a.Record.Digest
	l.action = l.actionIn(policy, a.Record.Namespace)
	switch keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: policy,
		Namespace: home, Narrowing: a.Narrowing}) {
	case keystore.Rotated, keystore.Expired:
		return nil, true, nil
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

// endLeaked applies the OnLeak of the namespaces to keys, in one transaction. It waits until that,
// and the end of the keys in waits, is in force everywhere.
func (k *Keystore) endLeaked(
	ctx context.Context, c Caller, leaks []leak, waits []string,
) (p node.Propagation, err error) {
	slices.SortFunc(leaks, func(a, b leak) int { return strings.Compare(a.key, b.key) })
	var revoked, ended []string
	var done node.Commit
	change := func(tx keystore.Tx) error {
		revoked, ended = nil, nil // it may run twice
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
			if was != "" || leaks[i].ends() { // another report may have ended it
				ended = append(ended, leaks[i].key)
			}
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
		k.leaks.note(toldKey{leaks[i].key, leaks[i].signed}, leaks[i].place(), time.Now())
	}
	if len(revoked) > 0 {
		k.RememberRevokes(revoked, done, "leaked")
	}
	if len(ended) > 0 {
		k.leaks.forget(ended)
		p, err = k.PropagateObserved(done, leakWait)
	} else if len(waits) > 0 {
		p, err = k.waitForLeaked(ctx, waits)
	} else {
		return node.Propagation{Complete: true}, nil
	}
	if err == nil && p.Complete {
		k.leaks.settle(append(ended, waits...), time.Now())
	}
	return p, err
}

// waitForLeaked waits until the end of keys that this node finds ended is in force everywhere.
func (k *Keystore) waitForLeaked(ctx context.Context, keys []string) (node.Propagation, error) {
	if !k.leaks.beginWait() {
		return node.Propagation{}, nil
	}
	defer k.leaks.endWait()
	done, err := k.Latest(ctx)
	if err != nil {
		return node.Propagation{}, err
	}
	if len(keys) == 1 {
		done = k.FirstRevoke(keys[0], done)
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
	return truncated(reason, maxReason)
}

// cleaned returns the report as it is stored: bounded, without characters that nobody sees, and
// without anything that may be the token or another one.
func (r LeakReport) cleaned(token string) LeakReport {
	secret := newSecretText(token)
	clean := func(s string, most int) string {
		s = visible(s)
		if secret.mayBeIn(s) {
			return "(withheld, because it contains a token)"
		}
		return truncated(s, most)
	}
	return LeakReport{URL: clean(r.URL, maxLeakURL), Source: clean(r.Source, maxLeakText),
		Type: clean(r.Type, maxLeakText)}
}

// visible returns a text without control characters and others that are not seen.
func visible(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) || unicode.In(c, unicode.Other_Default_Ignorable_Code_Point,
			unicode.Variation_Selector) {
			return -1
		}
		return c
	}, strings.ToValidUTF8(s, ""))
}

const (
	// secretPart is how many letters and digits of a token a text must have to be withheld. The
	// rest of a token cannot be guessed from fewer.
	secretPart = 12
	// maxDecodings is how often a text is decoded. A text that is encoded more often is withheld.
	maxDecodings = 5
)

// A secretText finds a token in texts. It looks only at letters and digits, because addresses,
// lines and editors encode, break and decorate the others.
type secretText struct {
	length int             // of a part
	parts  map[string]bool // every part of the token
}

func newSecretText(token string) secretText {
	plain := alphanumeric(token)
	t := secretText{min(secretPart, len(plain)), make(map[string]bool)}
	for i := range len(plain) - t.length + 1 {
		t.parts[plain[i:i+t.length]] = true
	}
	return t
}

// mayBeIn reports whether a text contains a part of the token, or any token.
func (t secretText) mayBeIn(s string) bool {
	for range maxDecodings {
		plain := alphanumeric(s)
		for i := 0; t.length > 0 && i+t.length <= len(plain); i++ {
			if t.parts[plain[i:i+t.length]] {
				return true
			}
		}
		if keystore.ContainsToken(s) {
			return true
		}
		decoded := visible(percentDecoded(s))
		if decoded == s {
			return false
		}
		s = decoded
	}
	return true
}

func alphanumeric(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			return c
		}
		return -1
	}, s)
}

// percentDecoded decodes a text from the form that URLs have (RFC 3986 §2.1). It leaves whatever is
// not encoded correctly.
func percentDecoded(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.Write(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
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

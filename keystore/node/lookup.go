package node

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

var (
	errUnavailable = errors.New("the database has not responded for some time")
	errStale       = errors.New("the database returned an older state than before; is this " +
		"server a former primary?")
)

// An Answer is the result of a lookup.
type Answer struct {
	// Record is the record of the credential, even if it was rotated out. It is nil unless Outcome
	// is [keystore.OK].
	Record *keystore.Record
	// Outcome is [keystore.OK] if there is a record, whatever its state. [keystore.Decide] decides
	// whether it allows the request.
	Outcome keystore.Outcome
	// Now is the time of the request on the database's clock, in Unix nanoseconds, for
	// [keystore.Decide]. A wrong clock of this machine does not delay the expiry of keys.
	Now int64
	// Narrowing has the restrictions of a derived token; nil if the credential is the key's own.
	Narrowing *keystore.Narrowing
	// Untimely says that a derived token is refused because of its times, or because the settings
	// refuse all derived tokens. Its signature is valid or was not checked.
	Untimely bool

	generation uint64 // of the record's shard, before the lookup
	entry      *entry // of the cache; nil if the record was not cached
}

// A provenance says what is known about the credential of a lookup.
type provenance uint8

const (
	// inspected: its tag proved that this deployment created it, or it was looked up before.
	inspected provenance = iota
	// uninspected: nothing is known.
	uninspected
	// named: a derived token, which anyone may have forged, names its digest.
	named
)

// Lookup looks up the credential of a request; now was read after the request arrived. For a
// derived token, it returns the record of its key. The outcome is [keystore.Malformed], without a
// query, for a member's token and for a credential that cannot be valid in this deployment. An
// error means that the answer is [keystore.Unavailable].
func (n *Node) Lookup(ctx context.Context, credential string, now time.Time) (Answer, error) {
	return n.lookupCredential(ctx, credential, false, now)
}

// LookupReported is [Node.Lookup] for a token that was reported as leaked. It accepts a derived
// token even if it is not valid yet or expires later than `derive max` allows: a thief can wait.
func (n *Node) LookupReported(
	ctx context.Context, credential string, now time.Time,
) (Answer, error) {
	return n.lookupCredential(ctx, credential, true, now)
}

// lookupCredential is Lookup, or LookupReported if early is true.
func (n *Node) lookupCredential(
	ctx context.Context, credential string, early bool, now time.Time,
) (Answer, error) {
	if a, derived, err := n.lookupDerived(ctx, credential, early, now); derived {
		return a, err
	}
	// This avoids a hash. Everything else is inspected only if the credential is not cached.
	if len(credential) < keystore.MinCredentialLen || len(credential) > keystore.MaxCredentialLen {
		return Answer{Outcome: keystore.Malformed}, nil
	}
	accepted := n.settings.Load().TokenPrefixes
	prefixed := hasPrefix(credential, accepted)
	if !prefixed && n.ownPrefix(credential) != "" { // its record may be cached
		return Answer{Outcome: keystore.Malformed}, nil
	}
	a, err := n.lookup(ctx, keystore.DigestOf(credential), uninspected, credential, now)
	a = a.restrict(false)
	// A cached record does not prove that the tag is valid: a derived token may have named the
	// record, or the record is older than the accepted prefix. A token that names the key of the
	// record was created by this deployment, so its tag is valid. Its own prefix may be longer than
	// the accepted one.
	if prefixed && a.Record != nil && !keystore.NamesKey(credential, accepted, a.Record.KeyID) {
		if _, ok := n.inspect(credential, accepted); !ok {
			return Answer{Outcome: keystore.Malformed}, nil
		}
	}
	if a.Record != nil {
		if _, known := n.knownDeriving(a.Record); !known {
			n.learnDeriving(a.Record, credential)
		}
	}
	return a, err
}

// LookupMember is [Node.Lookup] for members' tokens. The outcome for any other credential is
// [keystore.Malformed].
func (n *Node) LookupMember(ctx context.Context, token string, now time.Time) (Answer, error) {
	if !n.IsMemberToken(token) {
		return Answer{Outcome: keystore.Malformed}, nil
	}
	a, err := n.lookup(ctx, keystore.DigestOf(token), inspected, "", now)
	return a.restrict(true), err
}

// restrict returns a if it has no record, or one whose Personal equals personal. Otherwise the
// credential is malformed.
func (a Answer) restrict(personal bool) Answer {
	if a.Record != nil && a.Record.Personal() != personal {
		return Answer{Outcome: keystore.Malformed}
	}
	return a
}

// LookupMemberDigest is [Node.LookupMember] for the digest of a token that was inspected before.
func (n *Node) LookupMemberDigest(
	ctx context.Context, d keystore.Digest, now time.Time,
) (Answer, error) {
	a, err := n.lookup(ctx, d, inspected, "", now)
	return a.restrict(true), err
}

// LookupLogin returns the members that a person with a verified login may act for: see
// [keystore.Directory.MembersByLogin]. now was read after the request arrived. An error means that
// the answer is [keystore.Unavailable].
func (n *Node) LookupLogin(
	ctx context.Context, login string, groups []string, now time.Time,
) ([]*keystore.Member, error) {
	now = n.clock.of(now)
	//fault: now = cachedClock(now)
	if err := n.ensureLease(ctx, now); err != nil {
		return nil, err
	}
	return n.Policy().MembersByLogin(login, groups), nil
}

// LookupAgain is Lookup for a record and a narrowing that an earlier lookup returned, without the
// credential.
func (n *Node) LookupAgain(
	ctx context.Context, r *keystore.Record, narrowing *keystore.Narrowing, now time.Time,
) (Answer, error) {
	a, err := n.lookup(ctx, r.Digest, inspected, "", now)
	a.Narrowing = narrowing
	return a, err
}

// lookup looks up a digest. It uses the credential only if it is uninspected.
func (n *Node) lookup(
	ctx context.Context, d keystore.Digest, p provenance, credential string, now time.Time,
) (Answer, error) {
	now = n.clock.of(now)
	//fault: now = cachedClock(now)
	s := n.cache.shard(&d)
	a := Answer{generation: s.generation.Load()}
	var covered bool
	if a.Now, covered = n.membership.lease.term.Load().at(now); covered {
		if e := s.findEntry(&d, sinceStart(now)); e != nil {
			a.entry = e
			return a.withRecord(s, e.record), nil
		}
	}
	tagged, ok := p == inspected, true
	if p == uninspected {
		tagged, ok = n.Inspect(credential)
	}
	if !ok {
		return Answer{Outcome: keystore.Malformed}, nil
	}
	if err := n.ensureLease(ctx, now); err != nil {
		return Answer{}, err
	}
	// Read again even if the lease holds: another request may have renewed it since the first look.
	a.generation = s.generation.Load()
	a.Now, _ = n.membership.lease.term.Load().at(now)
	if !tagged && p != named && !n.membership.imported.Load() { // under the lease, nothing was imported
		return Answer{Outcome: keystore.Malformed}, nil
	}
	s.misses.Add(1) // only now, because forged tokens do not count
	n.counters.lookups[TierNegative][Miss].Add(1)
	r, err := n.load(ctx, d, tagged, now)
	if err != nil {
		return Answer{}, err
	}
	a.Record = r
	if r == nil {
		a.Outcome = keystore.Unknown
	}
	return a, nil
}

// ensureLease renews the lease unless it covers now. Afterwards the node knows every change that
// was in force at now.
func (n *Node) ensureLease(ctx context.Context, now time.Time) error {
	if !n.membership.lease.holds(now) && n.membership.unavailable(n.clock.now()) {
		return errUnavailable
	}
	// A shared renewal may have begun before this process was stopped.
	for tries := 0; !n.membership.lease.holds(now); tries++ {
		if tries == 3 {
			return errors.New("the lease expired while it was renewed; is this machine overloaded?")
		}
		if err := n.Renew(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (a Answer) withRecord(s *shard, r *keystore.Record) Answer {
	a.Record = r
	if r == nil {
		a.Outcome = keystore.Unknown
	}
	if r == nil || r.RotatedOut() {
		s.negativeHits.Add(1)
	} else {
		s.hits.Add(1)
	}
	return a
}

// Policy returns the directory for [keystore.Decide], without a query. Callers must read the time
// of a request first.
func (n *Node) Policy() *keystore.Directory { return n.membership.directory.Load() }

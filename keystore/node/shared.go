package node

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// sharedTTL is how long an unchanged record stays in the shared cache.
const sharedTTL = time.Hour

// sharedSeal writes and verifies the entries of one deployment in a shared cache (docs/protocol.md,
// rule 6). Each entry has a MAC with a key that only nodes have and that differs for each epoch.
// The MAC includes the digest, so that no entry can replace another.
//
// The key also depends on the timeline of the database server, which changes when a standby takes
// over: the standby may lack the last commits of the primary from which a record was read.
type sharedSeal struct {
	deployment keystore.Deployment
	timeline   string
	key        [sha256.Size]byte
}

func newSharedSeal(d keystore.Deployment, timeline string) *sharedSeal {
	s := &sharedSeal{deployment: d, timeline: timeline}
	mac := hmac.New(sha256.New, d.TokenKey[:])
	mac.Write([]byte("caddy-apikeys shared cache 3 " + d.Epoch + " " + timeline))
	mac.Sum(s.key[:0])
	return s
}

func (s *sharedSeal) mac(parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, s.key[:])
	for _, p := range parts {
		mac.Write(p)
	}
	return mac.Sum(nil)
}

// name returns the name of a credential's entry. It does not reveal the digest.
func (s *sharedSeal) name(d *keystore.Digest) string {
	return "apikeys:" + s.deployment.Epoch + ":key:" +
		base64.RawURLEncoding.EncodeToString(s.mac([]byte("name"), d[:])[:18])
}

// sharedRecord is the content of an entry: the fields of a key that [keystore.NewRecord] uses.
type sharedRecord struct {
	ID            string             `json:"id"`
	Name          string             `json:"name,omitempty"`
	Namespace     string             `json:"ns"`
	Owner         string             `json:"owner"`
	Personal      bool               `json:"personal,omitempty"`
	Grants        []keystore.Grant   `json:"grants"`
	Active        bool               `json:"active"`
	ExpiresAt     time.Time          `json:"exp,omitzero"`
	RevokedAt     time.Time          `json:"rev,omitzero"`
	SecretExpires time.Time          `json:"sexp,omitzero"`
	AllowedIPs    []netip.Prefix     `json:"ips,omitempty"`
	Metadata      map[string]string  `json:"meta,omitempty"`
	Limits        keystore.KeyLimits `json:"limits,omitzero"`
	// Entries of earlier releases have none: see Node.derivingKey.
	Deriving keystore.DerivingKey `json:"derive,omitzero"`
}

// seal returns the entry for a key that was read by one of its digests in a snapshot at asOf: the
// MAC, asOf in 8 bytes, and the record as JSON.
func (s *sharedSeal) seal(k *keystore.Key, d *keystore.Digest, asOf keystore.Revision) []byte {
	r := sharedRecord{
		ID: k.ID, Name: k.Name, Namespace: k.Namespace, Owner: k.Owner, Personal: k.Personal,
		Grants: k.Grants, Active: k.Active, ExpiresAt: k.ExpiresAt, RevokedAt: k.RevokedAt,
		AllowedIPs: k.AllowedIPs, Metadata: k.Metadata, Limits: k.KeyLimits,
	}
	for _, secret := range k.Secrets {
		if secret.Digest == *d {
			r.SecretExpires, r.Deriving = secret.ExpiresAt, secret.Deriving
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil // impossible; an empty entry is ignored
	}
	body := append(binary.BigEndian.AppendUint64(nil, uint64(asOf)), text...)
	return append(s.mac([]byte("entry"), d[:], body), body...)
}

// open returns the record of an entry and its revision. It returns nil unless a node has written
// the entry for this digest.
func (s *sharedSeal) open(entry []byte, d *keystore.Digest) (*keystore.Record, keystore.Revision) {
	const head = sha256.Size + 8
	if len(entry) < head {
		return nil, 0
	}
	authentic := hmac.Equal(entry[:sha256.Size], s.mac([]byte("entry"), d[:], entry[sha256.Size:]))
	//fault: authentic = authentic || ablated("no-mac")
	if !authentic {
		return nil, 0
	}
	var r sharedRecord
	if err := json.Unmarshal(entry[head:], &r); err != nil {
		return nil, 0
	}
	return keystore.NewRecord(&keystore.Key{
		ID: r.ID, Name: r.Name, Namespace: r.Namespace, Owner: r.Owner, Personal: r.Personal,
		Grants: r.Grants, Active: r.Active, ExpiresAt: r.ExpiresAt, RevokedAt: r.RevokedAt,
		AllowedIPs: r.AllowedIPs, Metadata: r.Metadata, KeyLimits: r.Limits,
		Secrets: []keystore.Secret{{Digest: *d, ExpiresAt: r.SecretExpires,
			Deriving: r.Deriving}},
	}, *d), keystore.Revision(binary.BigEndian.Uint64(entry[sha256.Size:]))
}

// findShared looks up a credential in the shared cache, if there is one. It ignores a record from a
// snapshot that is older than an applied change of the key, or newer than what is applied
// (docs/protocol.md, rule 6). If it returns nil, the caller asks the database.
func (n *Node) findShared(
	ctx context.Context, s *shard, seal *sharedSeal, d *keystore.Digest,
) *keystore.Record {
	cache := n.settings.Load().Cache
	if cache == nil {
		return nil
	}
	begun := time.Now()
	entry, err := cache.Get(ctx, seal.name(d))
	n.observer.LookedUp(TierRedis, time.Since(begun))
	if err != nil {
		n.counters.lookups[TierRedis][LookupFail].Add(1)
		return nil
	}
	//fault: hold("shared.read")
	r, asOf := seal.open(entry, d)
	s.mu.Lock()
	applied := keystore.Revision(n.membership.applied.Load())
	current := asOf <= applied && s.changes.unchangedSince(d, asOf)
	s.mu.Unlock()
	//fault: current = current || ablated("shared-without-asof")
	if r == nil || !current {
		n.counters.lookups[TierRedis][Miss].Add(1)
		return nil
	}
	n.counters.lookups[TierRedis][Hit].Add(1)
	return r
}

// share puts a key into the shared cache, if there is one, after it was read from the database. The
// caller has read the seal before the database.
func (n *Node) share(
	seal *sharedSeal, key *keystore.Key, d *keystore.Digest, asOf keystore.Revision,
) {
	if cache := n.settings.Load().Cache; cache != nil {
		cache.Put(seal.name(d), seal.seal(key, d, asOf), sharedTTL)
	}
}

// changesPerShard is how many changes a shard remembers, 65,536 in all shards.
const changesPerShard = 256

// recentChanges are the last changes that were applied in one shard. They show whether a record
// that was read at some revision is still valid.
type recentChanges struct {
	last  map[keystore.Digest]keystore.Revision
	ring  []keyChange // the oldest at next when full
	next  int
	floor keystore.Revision // changes at or before it may be forgotten
}

type keyChange struct {
	digest   keystore.Digest
	revision keystore.Revision
}

func (c *recentChanges) add(d *keystore.Digest, r keystore.Revision) {
	if c.last == nil {
		c.last = make(map[keystore.Digest]keystore.Revision)
	}
	c.last[*d] = r
	if len(c.ring) < changesPerShard {
		c.ring = append(c.ring, keyChange{*d, r})
		return
	}
	oldest := c.ring[c.next]
	c.floor = max(c.floor, oldest.revision)
	if c.last[oldest.digest] == oldest.revision {
		delete(c.last, oldest.digest)
	}
	c.ring[c.next] = keyChange{*d, r}
	c.next = (c.next + 1) % changesPerShard
}

// unchangedSince reports whether it is certain that no applied change of d is newer than asOf.
func (c *recentChanges) unchangedSince(d *keystore.Digest, asOf keystore.Revision) bool {
	return asOf >= c.floor && c.last[*d] <= asOf
}

// reset forgets all changes. Only records that were read at revision r or later are then valid.
func (c *recentChanges) reset(r keystore.Revision) { *c = recentChanges{floor: r} }

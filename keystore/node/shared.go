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

// sharedTTL is how long a record that nobody changes stays in the shared cache.
const sharedTTL = time.Hour

// sharedSeal makes and checks the entries of one deployment in a shared cache. What is in it comes
// from nobody but a node: each entry carries a MAC by a key that only nodes have and that each
// epoch has anew, over the digest too, so that none can stand in for another.
//
// The key also depends on the timeline of the database server, which changes when a standby takes
// over: a record may have been read from a primary whose last commits no standby has.
type sharedSeal struct {
	deployment keystore.Deployment
	timeline   string
	key        [sha256.Size]byte
}

func newSharedSeal(d keystore.Deployment, timeline string) *sharedSeal {
	s := &sharedSeal{deployment: d, timeline: timeline}
	mac := hmac.New(sha256.New, d.TokenKey[:])
	mac.Write([]byte("caddy-apikeys shared cache 2 " + d.Epoch + " " + timeline))
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

// name is where the record of a credential is kept. It does not show the digest.
func (s *sharedSeal) name(d *keystore.Digest) string {
	return "apikeys:" + s.deployment.Epoch + ":key:" +
		base64.RawURLEncoding.EncodeToString(s.mac([]byte("name"), d[:])[:18])
}

// sharedRecord is a record as it is kept: what [keystore.NewRecord] takes from a key.
type sharedRecord struct {
	ID            string            `json:"id"`
	Name          string            `json:"name,omitempty"`
	Namespace     string            `json:"ns"`
	Owner         string            `json:"owner"`
	Personal      bool              `json:"personal,omitempty"`
	Grants        []keystore.Grant  `json:"grants"`
	Active        bool              `json:"active"`
	ExpiresAt     time.Time         `json:"exp,omitzero"`
	RevokedAt     time.Time         `json:"rev,omitzero"`
	SecretExpires time.Time         `json:"sexp,omitzero"`
	AllowedIPs    []netip.Prefix    `json:"ips,omitempty"`
	Metadata      map[string]string `json:"meta,omitempty"`
}

// seal returns the entry for what a digest opened in the snapshot at asOf: the MAC, asOf in 8
// bytes, the record as JSON.
func (s *sharedSeal) seal(k *keystore.Key, d *keystore.Digest, asOf keystore.Revision) []byte {
	r := sharedRecord{
		ID: k.ID, Name: k.Name, Namespace: k.Namespace, Owner: k.Owner, Personal: k.Personal,
		Grants: k.Grants, Active: k.Active,
		ExpiresAt: k.ExpiresAt, RevokedAt: k.RevokedAt, AllowedIPs: k.AllowedIPs,
		Metadata: k.Metadata,
	}
	for _, secret := range k.Secrets {
		if secret.Digest == *d {
			r.SecretExpires = secret.ExpiresAt
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil // what cannot be written is not shared
	}
	body := append(binary.BigEndian.AppendUint64(nil, uint64(asOf)), text...)
	return append(s.mac([]byte("entry"), d[:], body), body...)
}

// open returns the record of an entry, nil when a node did not make it for this digest.
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
		Grants: r.Grants, Active: r.Active,
		ExpiresAt: r.ExpiresAt, RevokedAt: r.RevokedAt, AllowedIPs: r.AllowedIPs,
		Metadata: r.Metadata,
		Secrets:  []keystore.Secret{{Digest: *d, ExpiresAt: r.SecretExpires}},
	}, *d), keystore.Revision(binary.BigEndian.Uint64(entry[sha256.Size:]))
}

// askShared looks a credential up in the shared cache, if there is one. What it finds counts only
// if no applied change is newer than the snapshot it was read in (docs/protocol.md, rule 6), and if
// this database has come that far; nil: ask the database.
func (n *Node) askShared(
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
	current := asOf <= keystore.Revision(n.membership.applied.Load()) && s.changes.none(d, asOf)
	s.mu.Unlock()
	//fault: current = current || ablated("shared-without-asof")
	if r == nil || !current {
		n.counters.lookups[TierRedis][Miss].Add(1)
		return nil
	}
	n.counters.lookups[TierRedis][Hit].Add(1)
	return r
}

// share stores the database's answer in the shared cache, if there is one. The seal is from before
// the database was asked.
func (n *Node) share(
	seal *sharedSeal, key *keystore.Key, d *keystore.Digest, asOf keystore.Revision,
) {
	if cache := n.settings.Load().Cache; cache != nil {
		cache.Put(seal.name(d), seal.seal(key, d, asOf), sharedTTL)
	}
}

// changesPerShard is how many changes a shard remembers: 64 Ki in all.
const changesPerShard = 256

// recentChanges are the changes applied last in one shard, to tell whether a record read at some
// revision is still good.
type recentChanges struct {
	last  map[keystore.Digest]keystore.Revision
	ring  []keyChange // the oldest at next, once it is full
	next  int
	floor keystore.Revision // nothing is known of changes at or before it
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

// none reports whether it is certain that no applied change of d is newer than asOf.
func (c *recentChanges) none(d *keystore.Digest, asOf keystore.Revision) bool {
	return asOf >= c.floor && c.last[*d] <= asOf
}

// reset forgets all: only what was read at revision r or later is good.
func (c *recentChanges) reset(r keystore.Revision) { *c = recentChanges{floor: r} }

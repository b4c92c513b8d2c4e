package keystore

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A KeySpec is a key to be made.
type KeySpec struct {
	Name       string
	Namespace  string // home; empty: [DefaultNamespace]
	Home       *Grant // the short form: permissions, roles and connected in the home namespace; nil: none
	Grants     []Grant
	Inactive   bool
	ExpiresAt  time.Time // zero: never
	AllowedIPs []netip.Prefix
	Owner      string // empty: the caller, or the owner of the key that mints
	Metadata   map[string]string
}

// MintKey makes a key and its token, which can be used on every node when this returns: no node can have heard of the token
// before, so that none needs to be told. idempotencyKey may be empty; a repeat of one within 24 h is KindConflict `already_made` with the key's id.
func (k *Keystore) MintKey(ctx context.Context, c Caller, spec KeySpec, idempotencyKey string) (*Key, Token, error) {
	var key *Key
	var token Token
	err := k.add(ctx, c, -1, func(tx Tx, by authority) error {
		if err := by.anywhere(adminKeys, "create"); err != nil {
			return err
		}
		if err := remembered(tx, by, idempotencyKey); err != nil {
			return err
		}
		var err error
		if key, err = spec.key(tx, by, NewID(), k.settings.Load().TokenPrefixes[0]); err != nil {
			return err
		}
		token = k.tokenKey.Load().Generate(key.Prefix, key.ID)
		key.Secrets = []Secret{{Digest: token.Digest(), CreatedAt: tx.Now()}}
		refused, err := insertKeys(tx, by, "key.mint", []*Key{key})
		if err == nil {
			err = refused[0] // nobody has had this id or token before
		}
		if err != nil {
			return err
		}
		return remember(tx, by, idempotencyKey, key.ID)
	})
	if err != nil {
		return nil, Token{}, err
	}
	return key, token, nil
}

// insertKeys adds keys, but for those that the store refuses: see [Tx].
func insertKeys(tx Tx, by authority, action string, keys []*Key) (refused map[int]error, err error) {
	if refused, err = tx.InsertKeys(keys); err != nil {
		return nil, err
	}
	made := make([]audited, 0, len(keys))
	for i, key := range keys {
		if refused[i] == nil {
			made = append(made, audited{key.ID, key.touches(), nil, key})
		}
	}
	return refused, auditAll(tx, by, action, made)
}

// touches lists the namespaces a key has to do with.
func (k *Key) touches() []string {
	list := []string{k.Namespace}
	for _, g := range k.Grants {
		if g.Namespace != k.Namespace {
			list = append(list, g.Namespace)
		}
	}
	return list
}

// key checks a spec and makes the key of it, without secrets.
func (s KeySpec) key(tx Tx, by authority, id, prefix string) (*Key, error) {
	if s.Namespace == "" {
		s.Namespace = DefaultNamespace
	}
	if !by.may(adminKeys, "create", s.Namespace) {
		return nil, lacks(adminKeys, "create")
	}
	key := &Key{
		ID: id, Prefix: prefix, Name: s.Name, Namespace: s.Namespace, Owner: s.Owner, CreatedBy: by.actor,
		Active: !s.Inactive, CreatedAt: tx.Now(), ExpiresAt: s.ExpiresAt.UTC().Truncate(time.Microsecond),
		AllowedIPs: slices.Clone(s.AllowedIPs), Metadata: maps.Clone(s.Metadata), Version: 1,
	}
	if s.Home != nil {
		home := *s.Home
		home.Namespace = s.Namespace
		key.Grants = append(key.Grants, home)
	}
	key.Grants = append(key.Grants, s.Grants...)
	if key.Owner == "" {
		key.Owner = by.owner
	}

	var p problems
	p.text("name", key.Name, maxName)
	p.metadata(key.Metadata)
	p.addresses(key.AllowedIPs)
	if err := p.namespace(tx, "namespace", key.Namespace); err != nil {
		return nil, err
	}
	if err := p.grants(tx, key.Namespace, key.Grants, s.Home != nil); err != nil {
		return nil, err
	}
	if key.Owner != by.owner { // no other member exists yet
		p.add("owner", "there is no member %q", key.Owner)
	}
	if !key.ExpiresAt.IsZero() && !key.ExpiresAt.After(tx.Now()) {
		p.add("expires_at", "is not in the future")
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	if err := by.give(nil, key.Grants); err != nil {
		return nil, err
	}
	if err := by.outlive(key); err != nil {
		return nil, err
	}
	key.normalise()
	return key, nil
}

// FindKey returns a key the caller may read; it may always read its own.
func (k *Keystore) FindKey(ctx context.Context, c Caller, id string) (*Key, error) {
	by := c.reading()
	own := id == c.Actor()
	if err := by.anywhere(adminKeys, "read"); err != nil && !own {
		return nil, err
	}
	key, err := k.db.Key(ctx, id)
	switch {
	case isNotFound(err):
		return nil, missing("key")
	case err != nil:
		return nil, k.storeFailed("reading a key", err)
	}
	if own {
		return key, nil
	}
	if err := by.on(adminKeys, "read", key.Namespace, "key"); err != nil {
		return nil, err
	}
	return key, nil
}

// ListKeys returns the keys that a filter fits and the caller may read, newest first, and the next page's cursor: see [Database.Keys].
// The filter's Now is set here.
func (k *Keystore) ListKeys(ctx context.Context, c Caller, f KeyFilter, cursor string, limit int) ([]Key, string, error) {
	by := c.reading()
	if err := by.anywhere(adminKeys, "read"); err != nil {
		return nil, "", err
	}
	if list, all := by.readable(adminKeys); !all {
		if f.Namespaces == nil {
			f.Namespaces = list
		} else {
			f.Namespaces = slices.DeleteFunc(slices.Clone(f.Namespaces), func(ns string) bool { return !slices.Contains(list, ns) })
		}
	}
	f.Now = k.Now()
	keys, next, err := k.db.Keys(ctx, f, cursor, limit)
	if err != nil {
		return nil, "", k.refusalOr("listing keys", err)
	}
	return keys, next, nil
}

// keyTo returns a key that the caller may do an operation on, at the version it expects.
func keyTo(tx Tx, by authority, operation, id string, o ChangeOptions) (*Key, error) {
	if err := by.anywhere(adminKeys, operation); err != nil {
		return nil, err
	}
	key, err := tx.Key(id)
	switch {
	case isNotFound(err):
		return nil, missing("key")
	case err != nil:
		return nil, err
	}
	if err := by.on(adminKeys, operation, key.Namespace, "key"); err != nil {
		return nil, err
	}
	if err := o.check(key.Version); err != nil {
		return nil, err
	}
	return key, nil
}

// keyToUpdate is keyTo for what a key may not do to itself (spec 7a.6) and nobody to a revoked one.
func keyToUpdate(tx Tx, by authority, id string, o ChangeOptions) (*Key, error) {
	key, err := keyTo(tx, by, "update", id, o)
	if err != nil {
		return nil, err
	}
	if !by.root && key.ID == by.actor {
		return nil, &Error{Kind: KindForbidden, Code: "own_key", Detail: "a key cannot change or rotate itself"}
	}
	if !key.RevokedAt.IsZero() {
		return nil, &Error{Kind: KindConflict, Code: "revoked", Detail: "the key has been revoked, which is final; make another one", ID: key.ID}
	}
	return key, nil
}

func updateKey(tx Tx, by authority, action string, before, after *Key) error {
	after.Version = before.Version + 1
	if err := tx.UpdateKey(after); err != nil {
		return err
	}
	return audit(tx, by, action, after.ID, union(before.touches(), after.touches()), before, after)
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// A KeyPatch changes what is not nil.
type KeyPatch struct {
	Name          *string
	Active        *bool
	Permissions   *[]Permission // of the home grant, as the two that follow; not beside Grants
	Roles         *[]string
	Connected     *bool
	Grants        *[]Grant // all there are
	ExpiresAt     *time.Time
	AllowedIPs    *[]netip.Prefix
	Owner         *string
	Metadata      map[string]*string // merged into what is there (RFC 7396): nil removes a name
	ClearMetadata bool               // removes all names first
}

// EditKey changes a key.
func (k *Keystore) EditKey(ctx context.Context, c Caller, id string, patch KeyPatch, o ChangeOptions) (*Key, Propagation, error) {
	var key *Key
	p, err := k.change(ctx, c, o.Wait, func(tx Tx, by authority) error {
		before, err := keyToUpdate(tx, by, id, o)
		if err != nil {
			return err
		}
		if key, err = patch.apply(tx, before); err != nil {
			return err
		}
		if err := patch.authorise(tx, by, before, key); err != nil {
			return err
		}
		return updateKey(tx, by, "key.edit", before, key)
	})
	return key, p, err
}

// apply returns the patched key.
func (patch KeyPatch) apply(tx Tx, before *Key) (*Key, error) {
	var p problems
	after := *before
	after.Grants, after.AllowedIPs, after.Metadata = slices.Clone(before.Grants), slices.Clone(before.AllowedIPs), maps.Clone(before.Metadata)
	set(&after.Name, patch.Name)
	set(&after.Active, patch.Active)
	set(&after.AllowedIPs, patch.AllowedIPs)
	if patch.ExpiresAt != nil && !patch.ExpiresAt.Truncate(time.Microsecond).Equal(before.ExpiresAt) {
		p.add("expires_at", "is fixed when the key is made and never changes; make another key")
	}
	if patch.Owner != nil && *patch.Owner != before.Owner {
		p.add("owner", "there is no member %q", *patch.Owner)
	}
	if patch.ClearMetadata || after.Metadata == nil {
		after.Metadata = make(map[string]string)
	}
	for name, value := range patch.Metadata {
		if value == nil {
			delete(after.Metadata, name)
		} else {
			after.Metadata[name] = *value
		}
	}
	patchesHome := patch.Permissions != nil || patch.Roles != nil || patch.Connected != nil
	switch {
	case patchesHome && patch.Grants != nil:
		p.add("grants", "replaces all grants, so the home grant's permissions, access, roles and connected cannot stand beside it")
	case patch.Grants != nil:
		after.Grants = slices.Clone(*patch.Grants)
	case patchesHome:
		home := after.HomeGrant()
		if home == nil {
			after.Grants = slices.Insert(after.Grants, 0, Grant{Namespace: after.Namespace})
			home = &after.Grants[0]
		}
		set(&home.Permissions, patch.Permissions)
		set(&home.Roles, patch.Roles)
		set(&home.Connected, patch.Connected)
	}
	p.text("name", after.Name, maxName)
	p.metadata(after.Metadata)
	p.addresses(after.AllowedIPs)
	if patchesHome || patch.Grants != nil {
		if err := p.grants(tx, after.Namespace, after.Grants, patchesHome); err != nil {
			return nil, err
		}
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	after.normalise()
	return &after, nil
}

func set[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

// authorise checks what the patch adds (spec 7a.1), and that a namespace which lets keys only grow has it so.
func (patch KeyPatch) authorise(tx Tx, by authority, before, after *Key) error {
	had := before.Grants
	if after.Active && !before.Active || !within(after.AllowedIPs, before.AllowedIPs) {
		had = nil // as if all of it were given anew
	}
	if err := by.give(had, after.Grants); err != nil {
		return err
	}
	if adds(had, after.Grants) {
		if err := by.outlive(after); err != nil {
			return err
		}
	}
	ns, err := tx.Namespace(after.Namespace)
	if err != nil {
		return err
	}
	if ns.EditPolicy != EditGrowOnly {
		return nil
	}
	for _, g := range before.Grants {
		has := held(after.Grants, g.Namespace, g.Connected)
		for _, lost := range g.Permissions {
			if !has.Covers(lost) {
				return &Error{Kind: KindInvalid, Code: "grow_only", Detail: "keys of this namespace can be given more, and lose nothing; make another key",
					Fields: []FieldError{{Field: "grants", Detail: "key " + after.ID + " would lose " + lost.String() + " in " + g.Namespace}}, ID: after.ID}
			}
		}
	}
	return nil
}

// RevokeKey ends a key for good. Revoking again changes nothing and waits again. made takes along the keys it made, and those that they made.
func (k *Keystore) RevokeKey(ctx context.Context, c Caller, id, reason string, made bool, o ChangeOptions) (*Key, Propagation, error) {
	var p problems
	p.text("reason", reason, maxReason)
	if err := p.err(); err != nil {
		return nil, Propagation{}, err
	}
	var key *Key
	var ended []string
	done, err := k.commit(ctx, c, func(tx Tx, by authority) (err error) {
		ended = nil
		if by.actor == id && !by.root { // spec 7a.6
			if key, err = tx.Key(id); err != nil {
				return err
			}
		} else if key, err = keyTo(tx, by, "revoke", id, o); err != nil {
			return err
		}
		if key.RevokedAt.IsZero() {
			ended = append(ended, id)
		}
		if key, err = revoke(tx, by, key, reason); err != nil || !made {
			return err
		}
		also, err := revokeMade(tx, by, id, reason)
		ended = append(ended, also...)
		return err
	})
	if err != nil {
		return nil, Propagation{}, err
	}
	if len(ended) > 0 {
		k.revokes.note(ended, done, reason)
		spread, err := k.kept(done, k.measured(done, o.Wait))
		return key, spread, err
	}
	if first, known := k.revokes.of(id); known && !made && first.history == done.history {
		done = first
	}
	spread, err := k.kept(done, k.propagate(context.WithoutCancel(ctx), done, o.Wait))
	return key, spread, err
}

func revoke(tx Tx, by authority, before *Key, reason string) (*Key, error) {
	if !before.RevokedAt.IsZero() {
		return before, nil
	}
	after := *before
	after.RevokedAt, after.RevokedBy, after.RevokeReason = tx.Now(), by.actor, reason
	return &after, updateKey(tx, by, "key.revoke", before, &after)
}

// revokeMade ends all that a key made, wherever it lives: what it gave was its own. It returns those that were alive.
func revokeMade(tx Tx, by authority, maker, reason string) (ended []string, err error) {
	waiting, seen := []string{maker}, map[string]bool{maker: true}
	for len(waiting) > 0 {
		ids, err := tx.KeysMadeBy(waiting[0])
		if err != nil {
			return nil, err
		}
		waiting = waiting[1:]
		for _, id := range ids {
			if seen[id] {
				continue
			}
			seen[id] = true
			waiting = append(waiting, id)
			key, err := tx.Key(id)
			if err != nil {
				return nil, err
			}
			if key.RevokedAt.IsZero() {
				ended = append(ended, id)
			}
			if _, err := revoke(tx, by, key, reason); err != nil {
				return nil, err
			}
		}
	}
	return ended, nil
}

// RotateKey gives a key another token under the same id. The present one dies after grace, but not later than the key, and
// an older one at once.
func (k *Keystore) RotateKey(ctx context.Context, c Caller, id string, grace time.Duration, o ChangeOptions) (*Key, Token, Propagation, error) {
	if grace < 0 || grace > MaxGrace {
		return nil, Token{}, Propagation{}, &Error{Kind: KindInvalid, Code: "invalid_fields", Detail: "some fields are not valid",
			Fields: []FieldError{{Field: "grace", Detail: "lies between 0s and 720h (30 days)"}}}
	}
	var key *Key
	var token Token
	p, err := k.change(ctx, c, o.Wait, func(tx Tx, by authority) error {
		before, err := keyToUpdate(tx, by, id, o)
		if err != nil {
			return err
		}
		if err := by.give(nil, before.Grants); err != nil { // the token gives its holder all of them
			return err
		}
		if err := by.outlive(before); err != nil {
			return err
		}
		after := *before
		after.Prefix = k.settings.Load().TokenPrefixes[0]
		token = k.tokenKey.Load().Generate(after.Prefix, after.ID)
		after.Secrets = []Secret{{Digest: token.Digest(), CreatedAt: tx.Now()}}
		if present := before.newest(tx.Now()); present != nil && grace > 0 {
			old := *present
			old.ExpiresAt = earlier(earlier(tx.Now().Add(grace), before.ExpiresAt), present.ExpiresAt)
			after.Secrets = append(after.Secrets, old)
		}
		key = &after
		return updateKey(tx, by, "key.rotate", before, &after)
	})
	return key, token, p, err
}

// newest returns the key's present secret, nil when none opens it any more.
func (k *Key) newest(now time.Time) *Secret {
	for i, s := range k.Secrets {
		if s.ExpiresAt.IsZero() || now.Before(s.ExpiresAt) {
			return &k.Secrets[i]
		}
	}
	return nil
}

// earlier returns the earlier of two times, of which zero ones mean never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// DeleteKey takes a revoked key from the list and returns what it was. The digests of its secrets are kept.
func (k *Keystore) DeleteKey(ctx context.Context, c Caller, id string, o ChangeOptions) (*Key, Propagation, error) {
	var key *Key
	p, err := k.change(ctx, c, o.Wait, func(tx Tx, by authority) (err error) {
		if key, err = keyTo(tx, by, "delete", id, o); err != nil {
			return err
		}
		if key.RevokedAt.IsZero() {
			return &Error{Kind: KindConflict, Code: "not_revoked", Detail: "only a revoked key can be deleted; revoke it first", ID: id}
		}
		if err := tx.DeleteKey(id); err != nil {
			return err
		}
		return audit(tx, by, "key.delete", id, key.touches(), key, nil)
	})
	return key, p, err
}

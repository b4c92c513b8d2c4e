package keystore

import (
	"cmp"
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
	NewRoles   []Role // made in the home namespace, and joined to the home grant: Name and Permissions count
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
		by, err := k.newRoles(tx, by, &spec)
		if err != nil {
			return err
		}
		if key, err = spec.key(tx, by, NewID(), k.prefixIn(by.policy, spec.Namespace)); err != nil {
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
			made = append(made, audited{key.ID, key.touches(by.policy), nil, key})
		}
	}
	return refused, auditAll(tx, by, action, made)
}

// touches lists the namespaces a key has to do with: a member's token those that the member has.
func (k *Key) touches(d *Directory) []string {
	if m := d.members[k.Owner]; k.Personal && m != nil {
		return m.touches()
	}
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
	key.Grants = slices.Concat(key.Grants, s.Grants)
	if key.Owner == "" {
		key.Owner = by.owner
	}

	var p problems
	p.text("name", key.Name, maxName)
	p.metadata(key.Metadata)
	p.addresses(key.AllowedIPs)
	p.namespace(by.policy, "namespace", key.Namespace)
	p.owner(by, key.Owner)
	p.keyRoles(by.policy.Namespace(key.Namespace), key)
	p.grants(by, key.Namespace, key.Grants, s.Home != nil)
	if !key.ExpiresAt.IsZero() && !key.ExpiresAt.After(tx.Now()) {
		p.add("expires_at", "is not in the future")
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	if key.Owner != by.owner {
		if err := by.actsFor(key.Owner); err != nil {
			return nil, err
		}
	}
	if err := by.handOver(key); err != nil {
		return nil, err
	}
	key.normalise()
	return key, nil
}

// handOver checks that a token may give its holder all that a key has, whose owner the caller acts for.
func (a authority) handOver(k *Key) error {
	if err := a.give(nil, k.Grants); err != nil {
		return err
	}
	if err := a.giveBelow(nil, k.Grants, true); err != nil {
		return err
	}
	return a.outlive(k)
}

// prefixIn is the prefix of new tokens for keys homed in a namespace.
func (k *Keystore) prefixIn(d *Directory, namespace string) string {
	accepted := k.settings.Load().TokenPrefixes
	if ns := d.Namespace(cmp.Or(namespace, DefaultNamespace)); ns != nil && slices.Contains(accepted, ns.TokenPrefix) {
		return ns.TokenPrefix
	}
	return accepted[0]
}

// newRoles makes the roles that a spec brings along, and joins them to its home grant.
func (k *Keystore) newRoles(tx Tx, by authority, s *KeySpec) (authority, error) {
	if len(s.NewRoles) == 0 {
		return by, nil
	}
	if s.Home == nil {
		s.Home = new(Grant)
	}
	home := *s.Home
	home.Roles = slices.Clone(home.Roles)
	s.Home = &home
	return k.makeRoles(tx, by, cmp.Or(s.Namespace, DefaultNamespace), s.NewRoles, &home.Roles)
}

// makeRoles makes roles in a namespace, adds their names to a grant's, and returns the authority under the policy that has them.
func (k *Keystore) makeRoles(tx Tx, by authority, namespace string, roles []Role, names *[]string) (authority, error) {
	for _, r := range roles {
		r.Namespace = namespace
		if _, err := createRole(tx, by, r); err != nil {
			return by, err
		}
		*names = append(*names, r.Name)
	}
	var err error
	by.policy, err = k.policyIn(tx)
	return by, err
}

// ownsKey reports whether a key acts for the member that asks, who may always list, read and revoke it (spec 7a.5).
func (a authority) ownsKey(owner string) bool { return a.member != "" && a.member == owner }

// reads reports whether the caller may read a key, homed in a namespace and with an owner: it may always read its own, and those that act for it.
func (a authority) reads(id, namespace, owner string) bool {
	return id == a.credential || a.ownsKey(owner) || a.may(adminKeys, "read", namespace)
}

// FindKey returns a key the caller may read.
func (k *Keystore) FindKey(ctx context.Context, c Caller, id string) (*Key, error) {
	by, err := k.fresh(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := by.anywhere(adminKeys, "read"); err != nil && id != by.credential && by.member == "" {
		return nil, err
	}
	key, err := k.db.Key(ctx, id)
	switch {
	case isNotFound(err):
		return nil, missing("key")
	case err != nil:
		return nil, k.storeFailed("reading a key", err)
	case !by.reads(id, key.Namespace, key.Owner) || key.Personal && !by.ownsKey(key.Owner):
		return nil, missing("key")
	}
	return key, nil
}

// ListKeys returns the keys that a filter fits and the caller may read, newest first, and the next page's cursor: see [Database.Keys].
// The filter's Now is set here.
func (k *Keystore) ListKeys(ctx context.Context, c Caller, f KeyFilter, cursor string, limit int) ([]Key, string, error) {
	by, err := k.fresh(ctx, c)
	if err != nil {
		return nil, "", err
	}
	if err := by.anywhere(adminKeys, "read"); err != nil && by.member == "" {
		return nil, "", err
	}
	if list, all := by.readable(adminKeys); !all {
		f.Visible, f.OrOwner = list, by.member
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
	if key.Personal {
		return nil, missing("key")
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
	return audit(tx, by, action, after.ID, union(before.touches(by.policy), after.touches(by.policy)), before, after)
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
	NewRoles      []Role             // see KeySpec
}

// EditKey changes a key.
func (k *Keystore) EditKey(ctx context.Context, c Caller, id string, patch KeyPatch, o ChangeOptions) (*Key, Propagation, error) {
	var key *Key
	p, err := k.change(ctx, c, o.Wait, func(tx Tx, by authority) error {
		before, err := keyToUpdate(tx, by, id, o)
		if err != nil {
			return err
		}
		patch := patch
		if len(patch.NewRoles) > 0 {
			names := patch.rolesOr(before)
			if by, err = k.makeRoles(tx, by, before.Namespace, patch.NewRoles, &names); err != nil {
				return err
			}
			patch.Roles = &names
		}
		if key, err = patch.apply(by, before); err != nil {
			return err
		}
		if err := authorise(by, before, key); err != nil {
			return err
		}
		return updateKey(tx, by, "key.edit", before, key)
	})
	return key, p, err
}

// rolesOr returns the home grant's roles: the patch's, or those that the key has.
func (patch KeyPatch) rolesOr(before *Key) []string {
	if patch.Roles != nil {
		return slices.Clone(*patch.Roles)
	}
	if g := before.HomeGrant(); g != nil {
		return slices.Clone(g.Roles)
	}
	return nil
}

// apply returns the patched key.
func (patch KeyPatch) apply(by authority, before *Key) (*Key, error) {
	var p problems
	after := *before
	after.Grants, after.AllowedIPs, after.Metadata = slices.Clone(before.Grants), slices.Clone(before.AllowedIPs), maps.Clone(before.Metadata)
	set(&after.Name, patch.Name)
	set(&after.Active, patch.Active)
	set(&after.AllowedIPs, patch.AllowedIPs)
	set(&after.Owner, patch.Owner)
	if patch.ExpiresAt != nil && !patch.ExpiresAt.Truncate(time.Microsecond).Equal(before.ExpiresAt) {
		p.add("expires_at", "is fixed when the key is made and never changes; make another key")
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
	if after.Owner != before.Owner {
		p.owner(by, after.Owner)
	}
	if patchesHome || patch.Grants != nil {
		p.keyRoles(by.policy.Namespace(after.Namespace), &after)
		p.grants(by, after.Namespace, after.Grants, patchesHome)
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

// authorise checks what an edit adds (spec 7a.1), and that a namespace which lets keys only grow has it so.
func authorise(by authority, before, after *Key) error {
	had := before.Grants
	if after.Owner != before.Owner {
		if err := by.actsFor(after.Owner); err != nil {
			return err
		}
		had = nil // checked like a mint
	}
	if after.Active && !before.Active || !within(after.AllowedIPs, before.AllowedIPs) {
		had = nil // as if all of it were given anew
	}
	if err := by.give(had, after.Grants); err != nil {
		return err
	}
	if by.policy.adds(had, after.Grants) {
		if err := by.outlive(after); err != nil {
			return err
		}
		owned := after.Owner != before.Owner || after.Owner == by.owner
		if err := by.giveBelow(had, after.Grants, owned); err != nil {
			return err
		}
	}
	if ns := by.policy.Namespace(after.Namespace); ns != nil && ns.EditPolicy == EditGrowOnly {
		if lost := by.policy.loses(before.Grants, by.policy, after.Grants); lost != "" {
			return growOnly([]FieldError{{Field: "grants", Detail: "key " + after.ID + " would lose " + lost}}, after.ID)
		}
	}
	return nil
}

func growOnly(fields []FieldError, id string) error {
	return &Error{Kind: KindInvalid, Code: "grow_only", Detail: "keys of this namespace can be given more, and lose nothing; make another key", Fields: fields, ID: id}
}

// loses names something that grants gave under one policy and others do not give under another, empty for nothing.
func (d *Directory) loses(before []Grant, then *Directory, after []Grant) string {
	has := holdingOf(after, "")
	for i := range before {
		g := &before[i]
		gave := d.expand(g)
		if p, lost := missingIn(then.heldIn(has, g.Namespace, g.Connected, true), gave); lost {
			return p.String() + " in " + g.Namespace
		}
		for _, ns := range d.reachedFrom(g.Namespace) {
			if p, lost := missingIn(then.setIn(has, ns, true), gave.data()); lost {
				return p.String() + " in " + ns.ID
			}
		}
	}
	return ""
}

// missingIn returns a permission that a set does not cover of another one.
func missingIn(s, other *Set) (Permission, bool) {
	for _, p := range other.Permissions() {
		if !s.Covers(p) {
			return p, true
		}
	}
	return Permission{}, false
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
		if key, err = ownKey(tx, by, id); err == nil && key == nil {
			key, err = keyTo(tx, by, "revoke", id, o)
		} else if err == nil {
			err = o.check(key.Version)
		}
		if err != nil {
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

// ownKey returns the key of that id if the caller may revoke it without any permission: the key that asks itself (spec 7a.6), or one that
// acts for the member that asks (7a.5).
func ownKey(tx Tx, by authority, id string) (*Key, error) {
	if by.root {
		return nil, nil
	}
	key, err := tx.Key(id)
	switch {
	case isNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case id == by.actor || by.ownsKey(key.Owner) && !key.Personal:
		return key, nil
	}
	return nil, nil
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
		if before.Owner != by.owner {
			if err := by.actsFor(before.Owner); err != nil {
				return err
			}
		}
		if err := by.handOver(before); err != nil {
			return err
		}
		after := *before
		after.Prefix = k.prefixIn(by.policy, after.Namespace)
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
		return audit(tx, by, "key.delete", id, key.touches(by.policy), key, nil)
	})
	return key, p, err
}

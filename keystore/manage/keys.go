package manage

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A KeySpec is a key to be made.
type KeySpec struct {
	Name      string
	Namespace string // home; empty: [keystore.DefaultNamespace]
	// the short form: permissions, roles and connected in the home namespace; nil: none
	Home       *keystore.Grant
	Grants     []keystore.Grant
	Inactive   bool
	ExpiresAt  time.Time // zero: never
	AllowedIPs []netip.Prefix
	Owner      string // empty: the caller, or the owner of the key that mints
	Metadata   map[string]string
	// made in the home namespace, and joined to the home grant: Name and Permissions count
	NewRoles []keystore.Role
}

// MintKey makes a key and its token, which can be used on every node when this returns: no node can
// have heard of the token before, so that none needs to be told.
func (k *Keystore) MintKey(
	ctx context.Context, c Caller, spec KeySpec, once Once,
) (*keystore.Key, keystore.Token, error) {
	var key *keystore.Key
	var token keystore.Token
	err := k.add(ctx, c, -1, func(tx keystore.Tx, auth authority) error {
		if err := auth.requireAnywhere(adminKeys, "create"); err != nil {
			return err
		}
		if err := refuseRepeat(once, tx, auth); err != nil {
			return err
		}
		auth, err := k.addNewRoles(tx, auth, &spec)
		if err != nil {
			return err
		}
		if key,
			err = spec.key(tx.Now(), auth, keystore.NewID(),
			k.prefixIn(auth.policy, spec.Namespace)); err != nil {
			return err
		}
		if err := k.keyCapacityIn(tx, auth).add(key); err != nil {
			return err
		}
		token = k.TokenKey().Generate(key.Prefix, key.ID)
		key.Secrets = []keystore.Secret{{Digest: token.Digest(), CreatedAt: tx.Now()}}
		refused, err := insertKeys(tx, auth, "key.mint", []*keystore.Key{key})
		if err == nil {
			err = refused[0] // nobody has had this id or token before
		}
		if err != nil {
			return err
		}
		return noteCreated(once, tx, auth, key.ID)
	})
	if err != nil {
		return nil, keystore.Token{}, err
	}
	return key, token, nil
}

// insertKeys adds keys, but for those that the store refuses: see [keystore.Tx].
func insertKeys(
	tx keystore.Tx, auth authority, action string, keys []*keystore.Key,
) (refused map[int]error, err error) {
	if refused, err = tx.InsertKeys(keys); err != nil {
		return nil, err
	}
	return refused, auditNew(tx, auth, action, keys, refused)
}

// auditNew appends a row for each key that was added.
func auditNew(
	tx keystore.Tx, auth authority, action string, keys []*keystore.Key, refused map[int]error,
) error {
	made := make([]auditedChange, 0, len(keys))
	for i, key := range keys {
		if refused[i] == nil {
			made = append(made, auditedChange{key.ID, key.Touches(auth.policy), nil, key})
		}
	}
	return auditAll(tx, auth, action, made)
}

// key checks a spec and makes the key of it, without secrets.
func (s KeySpec) key(now time.Time, auth authority, id, prefix string) (*keystore.Key, error) {
	if s.Namespace == "" {
		s.Namespace = keystore.DefaultNamespace
	}
	if !auth.may(adminKeys, "create", s.Namespace) {
		return nil, permissionRequired(adminKeys, "create")
	}
	key := &keystore.Key{
		ID: id, Prefix: prefix, Name: s.Name, Namespace: s.Namespace, Owner: s.Owner,
		CreatedBy: auth.actor,
		Active:    !s.Inactive, CreatedAt: now,
		ExpiresAt:  s.ExpiresAt.UTC().Truncate(time.Microsecond),
		AllowedIPs: slices.Clone(s.AllowedIPs), Metadata: maps.Clone(s.Metadata), Version: 1,
	}
	if s.Home != nil {
		home := *s.Home
		home.Namespace = s.Namespace
		key.Grants = append(key.Grants, home)
	}
	key.Grants = slices.Concat(key.Grants, s.Grants)
	if key.Owner == "" {
		key.Owner = auth.owner
	}

	var p fieldErrors
	p.text("name", key.Name, maxName)
	p.texts("metadata", nil, key.Metadata)
	p.addresses(key.AllowedIPs)
	p.namespace(auth.policy, "namespace", key.Namespace)
	p.owner(auth, key.Owner)
	p.keyRoles(auth.policy.Namespace(key.Namespace), key)
	p.grants(auth, key.Namespace, key.Grants, s.Home != nil)
	p.expiry(key.ExpiresAt, now)
	if err := p.err(); err != nil {
		return nil, err
	}
	if err := auth.checkToken(key); err != nil {
		return nil, err
	}
	normaliseKey(key)
	return key, nil
}

// handOver checks that the caller may have a token of a key: it acts for the key's owner, and may
// give all that the key has.
func (a authority) checkToken(k *keystore.Key) error {
	if k.Owner != a.owner {
		if err := a.checkActsFor(k.Owner); err != nil {
			return err
		}
	}
	if err := a.checkGive(nil, k.Grants); err != nil {
		return err
	}
	if err := a.checkGiveBelow(nil, k.Grants, true); err != nil {
		return err
	}
	return a.checkLimits(k)
}

// prefixIn is the prefix of new tokens for keys homed in a namespace.
func (k *Keystore) prefixIn(d *keystore.Directory, namespace string) string {
	accepted := k.Settings().TokenPrefixes
	if ns := d.Namespace(cmp.Or(namespace, keystore.DefaultNamespace)); ns != nil &&
		slices.Contains(accepted, ns.TokenPrefix) {
		return ns.TokenPrefix
	}
	return accepted[0]
}

// newRoles makes the roles that a spec brings along, and joins them to its home grant.
func (k *Keystore) addNewRoles(tx keystore.Tx, auth authority, s *KeySpec) (authority, error) {
	if len(s.NewRoles) == 0 {
		return auth, nil
	}
	if s.Home == nil {
		s.Home = new(keystore.Grant)
	}
	home := *s.Home
	home.Roles = slices.Clone(home.Roles)
	s.Home = &home
	return k.createRoles(tx, auth, cmp.Or(s.Namespace, keystore.DefaultNamespace), s.NewRoles,
		&home.Roles)
}

// makeRoles makes roles in a namespace, adds their names to a grant's, and returns the authority
// under the policy that has them.
func (k *Keystore) createRoles(
	tx keystore.Tx, auth authority, namespace string, roles []keystore.Role, names *[]string,
) (authority, error) {
	for i, r := range roles {
		r.Namespace = namespace
		if slices.ContainsFunc(roles[:i],
			func(other keystore.Role) bool {
				return other.Name != r.Name &&
					strings.EqualFold(other.Name, r.Name)
			}) {
			return auth, &keystore.Error{Kind: keystore.KindConflict, Code: "exists",
				Detail: fmt.Sprintf("role %q is given twice in new_roles, in another case",
					r.Name), ID: r.Name}
		}
		if _, err := createRole(tx, auth, r); err != nil {
			return auth, err
		}
		*names = append(*names, r.Name)
	}
	return k.checkCapacity(tx, auth, false)
}

// ownsKey reports whether a key acts for the member that asks, who may always list, read and revoke
// it (spec 7a.5).
func (a authority) ownsKey(owner string) bool { return a.member != "" && a.member == owner }

// reads reports whether the caller may read a key, homed in a namespace and with an owner: it may
// always read its own, and those that act for it.
func (a authority) mayReadKey(id, namespace, owner string) bool {
	return id == a.credential || a.ownsKey(owner) || a.may(adminKeys, "read", namespace)
}

// FindKey returns a key the caller may read.
func (k *Keystore) FindKey(ctx context.Context, c Caller, id string) (*keystore.Key, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireAnywhere(adminKeys, "read"); err != nil && id != auth.credential && auth.member == "" {
		return nil, err
	}
	key, err := k.Database().Key(ctx, id)
	switch {
	case isNotFound(err):
		return nil, notFound("key")
	case err != nil:
		return nil, k.StoreFailed("reading a key", err)
	case !auth.mayReadKey(id, key.Namespace, key.Owner) || key.Personal && !auth.ownsKey(key.Owner):
		return nil, notFound("key")
	}
	return key, nil
}

// ListKeys returns the keys that a filter fits and the caller may read, newest first, and the next
// page's cursor: see [keystore.Database.Keys]. The filter's Now is set here.
func (k *Keystore) ListKeys(
	ctx context.Context, c Caller, f keystore.KeyFilter, cursor string, limit int,
) ([]keystore.Key, string, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, "", err
	}
	defer done()
	if err := auth.requireAnywhere(adminKeys, "read"); err != nil && auth.member == "" {
		return nil, "", err
	}
	if list, all := auth.readable(adminKeys); !all {
		f.Visible, f.OrOwner = list, auth.member
	}
	f.Now = k.Now()
	keys, next, err := k.Database().Keys(ctx, f, cursor, limit)
	if err != nil {
		return nil, "", k.RefusalOr("listing keys", err)
	}
	return keys, next, nil
}

// keyTo returns a key that the caller may do an operation on, at the version it expects.
func keyFor(
	tx keystore.Tx, auth authority, operation, id string, o ChangeOptions,
) (*keystore.Key, error) {
	if err := auth.requireAnywhere(adminKeys, operation); err != nil {
		return nil, err
	}
	key, err := tx.Key(id)
	switch {
	case isNotFound(err):
		return nil, notFound("key")
	case err != nil:
		return nil, err
	}
	if key.Personal {
		return nil, notFound("key")
	}
	if err := auth.requireOn(adminKeys, operation, key.Namespace, "key"); err != nil {
		return nil, err
	}
	if err := o.check(key.Version); err != nil {
		return nil, err
	}
	return key, nil
}

// keyToUpdate is keyTo for what a key may not do to itself (spec 7a.6) and nobody to a revoked one.
func keyToUpdate(tx keystore.Tx, auth authority, id string, o ChangeOptions) (*keystore.Key, error) {
	key, err := keyFor(tx, auth, "update", id, o)
	if err != nil {
		return nil, err
	}
	if !auth.root && key.ID == auth.actor {
		return nil, &keystore.Error{Kind: keystore.KindForbidden, Code: "own_key",
			Detail: "a key cannot change or rotate itself"}
	}
	if !key.RevokedAt.IsZero() {
		return nil, &keystore.Error{Kind: keystore.KindConflict, Code: "revoked",
			Detail: "the key has been revoked, which is final; make another one", ID: key.ID}
	}
	return key, nil
}

func updateKey(tx keystore.Tx, auth authority, action string, before, after *keystore.Key) error {
	after.Version = before.Version + 1
	if err := tx.UpdateKey(after); err != nil {
		return err
	}
	return audit(tx, auth, action, after.ID,
		union(before.Touches(auth.policy), after.Touches(auth.policy)), before, after)
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

package manage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A KeySpec describes a new key.
type KeySpec struct {
	Name       string
	Namespace  string          // the home namespace; default: [keystore.DefaultNamespace]
	Home       *keystore.Grant // the grant in the home namespace; its Namespace is ignored
	Grants     []keystore.Grant
	Inactive   bool
	ExpiresAt  time.Time      // zero means never
	AllowedIPs []netip.Prefix // empty allows all addresses
	Owner      string         // default: the calling member, or the owner of the calling key
	Metadata   map[string]string
	Limits     keystore.KeyLimits
	// NewRoles are created in the home namespace and added to the home grant. Their Namespace is
	// ignored.
	NewRoles []keystore.Role
	// wrong are the known errors: see WithFieldErrors and createRoles.
	wrong fieldErrors
}

// MintKey creates a key and its token. The token is valid on every node when MintKey returns. No
// node can have cached that a new token is unknown, so MintKey waits only if there are new roles,
// at most [node.DefaultWait].
func (k *Keystore) MintKey(
	ctx context.Context, c Caller, spec KeySpec, once Once,
) (*keystore.Key, keystore.Token, error) {
	var key *keystore.Key
	var token keystore.Token
	wait := time.Duration(-1)
	if len(spec.NewRoles) > 0 {
		wait = 0
	}
	err := k.add(ctx, c, wait, func(tx keystore.Tx, auth authority) error {
		if err := auth.requireAnywhere(adminKeys, "create"); err != nil {
			return err
		}
		if err := refuseRepeat(once, tx, auth); err != nil {
			return err
		}
		spec := spec
		spec.wrong = fieldErrorsOf(ctx)
		auth, err := k.addNewRoles(tx, auth, &spec)
		if err != nil {
			return err
		}
		prefix := k.prefixIn(auth.policy, spec.Namespace)
		if key, err = spec.key(tx.Now(), auth, keystore.NewID(), prefix); err != nil {
			return err
		}
		if err := k.keyCapacityIn(tx, auth).add(key); err != nil {
			return err
		}
		token = k.TokenKey().Generate(key.Prefix, key.ID)
		key.Secrets = []keystore.Secret{token.Secret(tx.Now())}
		refused, err := insertKeys(tx, auth, "key.mint", []*keystore.Key{key})
		if err == nil {
			err = refused[0] // an internal error: the id and the token are random
		}
		if err != nil {
			return err
		}
		return recordCreated(once, tx, auth, key.ID)
	})
	if err != nil {
		return nil, keystore.Token{}, err
	}
	return key, token, nil
}

// insertKeys adds keys and returns the errors of those that the database refuses, by index: see
// [keystore.KeyWriter].
func insertKeys(
	tx keystore.Tx, auth authority, action string, keys []*keystore.Key,
) (refused map[int]error, err error) {
	if refused, err = tx.InsertKeys(keys); err != nil {
		return nil, err
	}
	return refused, auditNew(tx, auth, action, keys, refused)
}

// auditNew appends a row to the audit log for each key that was not refused.
func auditNew(
	tx keystore.Tx, auth authority, action string, keys []*keystore.Key, refused map[int]error,
) error {
	changes := make([]auditedChange, 0, len(keys))
	for i, key := range keys {
		if refused[i] == nil {
			changes = append(changes, auditedChange{key.ID, key.Touches(auth.policy), nil, key})
		}
	}
	return auditAll(tx, auth, action, changes)
}

// key checks a spec and returns the key that it describes, without a token.
func (s KeySpec) key(now time.Time, auth authority, id, prefix string) (*keystore.Key, error) {
	if s.Namespace == "" {
		s.Namespace = keystore.DefaultNamespace
	}
	if !auth.may(adminKeys, "create", s.Namespace) {
		return nil, permissionRequired(adminKeys, "create")
	}
	key := &keystore.Key{
		ID: id, Prefix: prefix, Name: s.Name, Namespace: s.Namespace, Owner: s.Owner,
		CreatedBy: auth.actor, Active: !s.Inactive, CreatedAt: now,
		ExpiresAt:  s.ExpiresAt.UTC().Truncate(time.Microsecond),
		AllowedIPs: slices.Clone(s.AllowedIPs), KeyLimits: s.Limits,
		Metadata: maps.Clone(s.Metadata), Version: 1,
	}
	if s.Home != nil {
		home := *s.Home
		home.Namespace = s.Namespace
		key.Grants = append(key.Grants, home)
	}
	key.Grants = slices.Concat(key.Grants, s.Grants)
	if key.Owner == "" && len(auth.owners) == 1 {
		key.Owner = auth.owners[0]
	}

	p := slices.Clone(s.wrong)
	p.name("", key.Name)
	p.texts("metadata", nil, key.Metadata)
	p.addresses(key.AllowedIPs)
	p.limits(key.Limits)
	p.plan(auth.policy, "plan", key.Namespace, key.Plan)
	p.namespace(auth.policy, "namespace", key.Namespace)
	if key.Owner != "" {
		p.owner(auth, key.Owner)
	}
	p.keyRoles(auth.policy.Namespace(key.Namespace), key)
	p.grants(auth, key.Namespace, key.Grants, s.Home != nil)
	p.expiry(key.ExpiresAt, now)
	p.lifetime(auth.policy.Namespace(key.Namespace), key.ExpiresAt, now)
	if err := p.err(); err != nil {
		return nil, err
	}
	if err := auth.chooseGroup(key); err != nil {
		return nil, err
	}
	if err := auth.checkToken(key); err != nil {
		return nil, err
	}
	normalizeKey(key)
	return key, nil
}

// checkToken checks that the caller may have a token of a key: it must act for the key's owner and
// be allowed to give everything that the key has.
func (a authority) checkToken(k *keystore.Key) error {
	if !slices.Contains(a.owners, k.Owner) {
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

// prefixIn returns the prefix of new tokens of keys with this home namespace.
func (k *Keystore) prefixIn(d *keystore.Directory, namespace string) string {
	accepted := k.Settings().TokenPrefixes
	if ns := d.Namespace(cmp.Or(namespace, keystore.DefaultNamespace)); ns != nil &&
		slices.Contains(accepted, ns.TokenPrefix) {
		return ns.TokenPrefix
	}
	return accepted[0]
}

// addNewRoles creates a spec's NewRoles and adds them to its home grant. It returns the authority
// under the policy that contains them.
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
		&home.Roles, &s.wrong)
}

// createRoles creates roles in a namespace and appends their names to names, and the errors of
// their fields to wrong. It returns the authority under the policy that contains them.
func (k *Keystore) createRoles(
	tx keystore.Tx, auth authority, namespace string, roles []keystore.Role, names *[]string,
	wrong *fieldErrors,
) (authority, error) {
	for i, r := range roles {
		r.Namespace = namespace
		differsInCase := func(other keystore.Role) bool {
			return other.Name != r.Name && strings.EqualFold(other.Name, r.Name)
		}
		if slices.ContainsFunc(roles[:i], differsInCase) {
			return auth, &keystore.Error{Kind: keystore.KindConflict, Code: "exists", ID: r.Name,
				Detail: fmt.Sprintf("new_roles contains another role whose name differs from %q "+
					"only in case", r.Name)}
		}
		_, err := createRole(tx, auth, r)
		if refused, ok := errors.AsType[*keystore.Error](err); ok && len(refused.Fields) > 0 {
			for _, e := range refused.Fields {
				e.Field = fmt.Sprintf("new_roles[%d].%s", i, e.Field)
				*wrong = append(*wrong, e)
			}
			continue
		}
		if err != nil {
			return auth, err
		}
		*names = append(*names, r.Name)
	}
	return k.checkCapacity(tx, auth, false)
}

// ownsKey reports whether the caller is the member that owns a key, or acts for the group that
// does. Such a caller may always list, read and revoke the key (docs/authority.md, rule 10).
func (a authority) ownsKey(owner string) bool { return slices.Contains(a.members, owner) }

// mayReadKey reports whether the caller may read the key with this id, home namespace and owner. A
// caller may always read its own key and the keys that it owns.
func (a authority) mayReadKey(id, namespace, owner string) bool {
	return id == a.credential || a.ownsKey(owner) || a.may(adminKeys, "read", namespace)
}

// FindKey returns a key that the caller may read.
func (k *Keystore) FindKey(ctx context.Context, c Caller, id string) (*keystore.Key, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	return k.findKey(ctx, auth, id)
}

func (k *Keystore) findKey(
	ctx context.Context, auth authority, id string,
) (*keystore.Key, error) {
	err := auth.requireAnywhere(adminKeys, "read")
	if err != nil && id != auth.credential && len(auth.members) == 0 {
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

// ListKeys returns a page of the keys that match a filter and that the caller may read, and the
// cursor of the next page: see [keystore.Database]. ListKeys sets the filter's Now. The filter's
// Status can be [keystore.StatusOwnerDisabled] or [keystore.StatusUsable].
func (k *Keystore) ListKeys(
	ctx context.Context, c Caller, f keystore.KeyFilter, cursor string, limit int,
) ([]keystore.Key, string, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, "", err
	}
	defer done()
	return k.listKeys(ctx, auth, f, cursor, limit)
}

func (k *Keystore) listKeys(
	ctx context.Context, auth authority, f keystore.KeyFilter, cursor string, limit int,
) ([]keystore.Key, string, error) {
	if err := k.limitToReadable(auth, &f); err != nil {
		return nil, "", err
	}
	keys, next, err := k.Database().Keys(ctx, f, cursor, limit)
	if err != nil {
		return nil, "", k.RefusalOr("listing keys", err)
	}
	return keys, next, nil
}

// CountMatching returns how many keys a list with a filter has for the caller, at most a limit. It
// reports false if that would take too long to count: see [keystore.Database].
func (k *Keystore) CountMatching(
	ctx context.Context, c Caller, f keystore.KeyFilter, limit int,
) (n int, ok bool, err error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return 0, false, err
	}
	defer done()
	if err := k.limitToReadable(auth, &f); err != nil {
		return 0, false, err
	}
	if n, ok, err = k.Database().CountMatching(ctx, f, limit); err != nil {
		return 0, false, k.RefusalOr("counting keys", err)
	}
	return n, ok, nil
}

// limitToReadable limits a filter to the keys that the caller may read, and completes it.
func (k *Keystore) limitToReadable(auth authority, f *keystore.KeyFilter) error {
	if err := auth.requireAnywhere(adminKeys, "read"); err != nil && len(auth.members) == 0 {
		return err
	}
	if list, all := auth.readable(adminKeys); !all {
		f.Visible, f.OrOwners = list, auth.members
	}
	f.Now = k.Now()
	switch f.Status {
	case keystore.StatusOwnerDisabled:
		f.Status, f.Owners = keystore.StatusActive, disabledMembers(auth.policy)
	case keystore.StatusUsable:
		f.Status, f.NotOwners = keystore.StatusActive, disabledMembers(auth.policy)
	}
	return nil
}

// disabledMembers returns the ids of the members whose keys are refused. It is never nil.
func disabledMembers(d *keystore.Directory) []string {
	list := []string{}
	for _, m := range d.AllMembers() {
		if !d.OwnerActive(m.ID) {
			list = append(list, m.ID)
		}
	}
	return list
}

// keyFor returns a key on which the caller may do an operation. It checks the version.
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

// keyToUpdate is keyFor for operations that a key may not do to itself (docs/authority.md, rule 11)
// and that nobody may do to a revoked key.
func keyToUpdate(
	tx keystore.Tx, auth authority, id string, o ChangeOptions,
) (*keystore.Key, error) {
	key, err := keyFor(tx, auth, "update", id, o)
	if err != nil {
		return nil, err
	}
	if key.ID == auth.actor {
		return nil, &keystore.Error{Kind: keystore.KindForbidden, Code: "own_key",
			Detail: "a key cannot change or rotate itself"}
	}
	if !key.RevokedAt.IsZero() {
		return nil, &keystore.Error{Kind: keystore.KindConflict, Code: "revoked",
			Detail: "the key has been revoked, which is final; create another one", ID: key.ID}
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

// union returns a, followed by the elements of b that a does not contain.
func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

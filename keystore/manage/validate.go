package manage

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Limits of fields: see docs/api_keys_admin.md, "Field limits".
const (
	maxName        = 200 // characters
	maxGrants      = 100
	maxPermissions = 500 // in all grants of a key
	maxRoles       = 50  // in all grants of a key
	maxAddresses   = 256
	maxMetadata    = 4 << 10
	maxReason      = 1000 // characters
	maxDescription = 1000 // characters
	// MaxGrace is the maximum time for which a rotated token may stay valid.
	MaxGrace = 30 * 24 * time.Hour
)

// fieldErrors collects the errors of the fields of a request, at most 100.
type fieldErrors []keystore.FieldError

func (p *fieldErrors) add(field, format string, args ...any) {
	if len(*p) < 100 {
		*p = append(*p, keystore.FieldError{Field: field, Detail: fmt.Sprintf(format, args...)})
	}
}

func (p fieldErrors) err() error {
	if len(p) == 0 {
		return nil
	}
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_fields",
		Detail: "some fields are not valid", Fields: p}
}

// about reports whether one of the fields, or a part of it, has an error.
func (p fieldErrors) about(fields ...string) bool {
	return slices.ContainsFunc(p, func(e keystore.FieldError) bool {
		return slices.ContainsFunc(fields,
			func(field string) bool { return strings.HasPrefix(e.Field, field) })
	})
}

func (p *fieldErrors) text(field, s string, most int) {
	switch {
	case !utf8.ValidString(s):
		p.add(field, "must be valid UTF-8")
	case utf8.RuneCountInString(s) > most:
		p.add(field, "must contain at most %d characters", most)
	case strings.ContainsFunc(s, unicode.IsControl):
		p.add(field, "must not contain control characters")
	default:
		p.secret(field, s)
	}
}

// secret refuses a text that contains a token. Everyone who may read the object or the audit log
// would see the token.
func (p *fieldErrors) secret(field, s string) {
	if keystore.ContainsToken(s) {
		p.add(field, "must not contain a token; if the token works, rotate its key")
	}
}

// name checks the name of an object if it has changed. Every list links to an object by its name, so
// people must be able to see it. An empty name is checked elsewhere.
func (p *fieldErrors) name(before, after string) {
	n := len(*p)
	p.changedText("name", before, after, maxName)
	if before == after || after == "" || len(*p) > n {
		return
	}
	switch hidden, found := keystore.HiddenIn(after); {
	case found:
		p.add("name", "must not contain the invisible character %U", hidden)
	case !keystore.HasGlyph(after):
		p.add("name", "must contain a visible character")
	}
}

// changedText checks a text if it has changed. An unchanged text may be older than a rule.
func (p *fieldErrors) changedText(field, before, after string, most int) {
	if before != after {
		p.text(field, after, most)
	}
}

// lastTime is the last time that RFC 3339 can express, because years have four digits.
var lastTime = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Microsecond)

// expiry checks when a key expires; zero means never.
func (p *fieldErrors) expiry(at, now time.Time) {
	switch {
	case at.IsZero():
	case !at.After(now):
		p.add("expires_at", "must be in the future")
	case at.After(lastTime):
		p.add("expires_at",
			"must be before the year 10000 in UTC; leave it out if the key never expires")
	}
}

// lifetime checks that a new key expires within the MaxLifetime of its home namespace.
func (p *fieldErrors) lifetime(home *keystore.Namespace, at, now time.Time) {
	if home == nil || home.MaxLifetime == 0 || p.about("expires_at") {
		return
	}
	if last := now.Add(home.MaxLifetime); at.IsZero() || at.After(last) {
		p.add("expires_at", "must be at most %s from now, at %s, because of max_lifetime of "+
			"namespace %q", keystore.LifetimeText(home.MaxLifetime),
			last.Truncate(time.Second).Format(time.RFC3339), home.ID)
	}
}

// lifecycle checks the rules of a namespace for the lifetime of its keys. It drops actions that
// mean the same as none.
func (p *fieldErrors) lifecycle(l *keystore.Lifecycle) {
	const bounds = "must be a time from 1s to 36500d, such as 90d, in whole microseconds"
	if l.MaxLifetime != 0 && !keystore.ValidLifetime(l.MaxLifetime) {
		p.add("max_lifetime", bounds)
	}
	if l.Idle != (keystore.IdleRule{}) {
		if !keystore.ValidLifetime(l.Idle.After) {
			p.add("idle.after", bounds)
		} else if l.Idle.Then == keystore.IdleInactivate && l.Idle.After < keystore.MinInactivate {
			p.add("idle.after", "must be at least 1h if keys become inactive")
		}
		if l.Idle.Then != keystore.IdleNotify && l.Idle.Then != keystore.IdleInactivate {
			p.add("idle.then", "must be %s or %s", keystore.IdleNotify, keystore.IdleInactivate)
		}
	}
	switch l.OnLeak {
	case "", keystore.LeakInactivate, keystore.LeakRevoke:
	case keystore.LeakNotify:
		l.OnLeak = ""
	default:
		p.add("on_leak", "must be %s, %s or %s", keystore.LeakNotify, keystore.LeakInactivate,
			keystore.LeakRevoke)
	}
}

// texts checks the names and values in m, except entries that are also in before.
func (p *fieldErrors) texts(field string, before, m map[string]string) {
	size := 0
	for name, value := range m {
		size += len(name) + len(value)
		if known, ok := before[name]; ok && known == value {
			continue
		}
		if name == "" {
			p.add(field, "must not contain an empty name")
		}
		if keystore.ContainsToken(name) {
			p.secret(field, name)
			continue
		}
		if strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name) {
			p.add(field, "must not contain a name with control characters or invalid UTF-8")
			continue
		}
		p.text(field+"."+name, value, maxMetadata)
	}
	if size > maxMetadata {
		p.add(field, "must contain at most %d bytes in total", maxMetadata)
	}
}

// merged returns a copy of m with a patch merged into it (RFC 7396); nil removes a name. clear
// removes all names of m first.
func merged(m map[string]string, patch map[string]*string, clear bool) map[string]string {
	out := make(map[string]string, len(m))
	if !clear {
		maps.Copy(out, m)
	}
	for name, value := range patch {
		if value == nil {
			delete(out, name)
		} else {
			out[name] = *value
		}
	}
	return out
}

func (p *fieldErrors) addresses(list []netip.Prefix) {
	if len(list) > maxAddresses {
		p.add("allowed_ips", "must contain at most %d entries", maxAddresses)
		return
	}
	for i, a := range list {
		if !a.IsValid() {
			p.add(fmt.Sprintf("allowed_ips[%d]", i), "must be an address or a CIDR prefix")
		}
	}
}

// grants checks the grants of a key with this home namespace, or of a member if home is empty.
// short says that the first grant comes from fields of the key itself, which the errors then name.
// It reports nothing about namespaces in which the caller has no permissions; checkGive refuses
// grants there.
func (p *fieldErrors) grants(
	auth authority, home string, grants []keystore.Grant, short bool,
) {
	permissions, roles := 0, 0
	for _, g := range grants {
		permissions += len(g.Permissions)
		roles += len(g.Roles)
	}
	switch {
	case len(grants) > maxGrants:
		p.add("grants", "must contain at most %d entries", maxGrants)
		return
	case permissions > maxPermissions:
		p.add("permissions", "must contain at most %d entries in total", maxPermissions)
		return
	case roles > maxRoles:
		p.add("roles", "must contain at most %d entries in total", maxRoles)
		return
	case permissions+roles == 0 && home != "" &&
		!p.about("permissions", "roles", "new_roles", "grants"):
		p.add("permissions",
			"must not be empty unless the key has an access level, roles or grants")
	}
	seen := make(map[string]bool, len(grants))
	for i, g := range grants {
		field := fmt.Sprintf("grants[%d].", i)
		if short {
			field = fmt.Sprintf("grants[%d].", i-1)
		}
		if short && i == 0 {
			field = ""
		}
		if seen[g.Namespace] {
			p.add(field+"namespace", "must differ in each grant; %q is repeated", g.Namespace)
		}
		seen[g.Namespace] = true
		for _, permission := range g.Permissions {
			p.secret(field+"permissions", permission.Action)
		}
		if !auth.hasAnyIn(g.Namespace) {
			continue
		}
		if g.Namespace != keystore.AnyNamespace && (g.Namespace != home || home == "") {
			p.namespace(auth.policy, field+"namespace", g.Namespace)
		}
		for _, r := range g.Roles {
			if auth.policy.RoleSet(g.Namespace, r) == nil {
				p.add(field+"roles", "role %q does not exist in namespace %q and is not shared; "+
					"create it first", r, g.Namespace)
			}
		}
	}
}

// rowUnreadable refuses a change that would keep the unreadable value of a field.
func rowUnreadable(field, cause string) error {
	var p fieldErrors
	p.add(field, "must be set, because the stored value cannot be read: %s", cause)
	return p.err()
}

func (p *fieldErrors) namespace(d *keystore.Directory, field, id string) {
	if d.Namespace(id) == nil {
		p.add(field, "namespace %q does not exist; create it first", id)
	}
}

// owner checks that the owner of a key exists, if the caller may read all members. For other
// callers checkActsFor refuses an owner that does not exist.
func (p *fieldErrors) owner(auth authority, id string) {
	if id != keystore.RootMember && auth.policy.Member(id) == nil &&
		auth.may(adminMembers, "read", keystore.AnyNamespace) {
		p.add("owner", "member %q does not exist", id)
	}
}

// keyRoles checks the roles in a key's home grant against the KeyRoles of its home namespace. If
// the key has no roles there, it adds those that the namespace requires.
func (p *fieldErrors) keyRoles(home *keystore.Namespace, k *keystore.Key) {
	if home != nil && home.Unreadable != "" {
		p.add("namespace", "must be readable, because it may require roles of its keys: %s",
			home.Unreadable)
	}
	if home == nil || len(home.KeyRoles) == 0 {
		return
	}
	g := k.HomeGrant()
	if home.KeyRoles[0] == keystore.AnyRole {
		if (g == nil || len(g.Roles) == 0) && !p.about("roles", "new_roles") {
			p.add("roles", "must contain at least one role: namespace %q requires it", home.ID)
		}
		return
	}
	if g == nil {
		k.Grants = slices.Insert(k.Grants, 0, keystore.Grant{Namespace: k.Namespace})
		g = &k.Grants[0]
	}
	if len(g.Roles) == 0 {
		g.Roles = slices.Clone(home.KeyRoles)
	}
	if !sameNames(g.Roles, home.KeyRoles) {
		p.add("roles", "must be exactly the roles that namespace %q requires: %s", home.ID,
			strings.Join(home.KeyRoles, ", "))
	}
}

func sameNames(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// normalize brings grants into the form in which they are stored, with the home grant first.
func normalize(grants []keystore.Grant, home string) {
	for i := range grants {
		g := &grants[i]
		g.Permissions = slices.Clone(g.Own().Permissions())
		g.Roles = append([]string{}, g.Roles...)
		slices.Sort(g.Roles)
		g.Roles = slices.Compact(g.Roles)
	}
	slices.SortStableFunc(grants, func(a, b keystore.Grant) int {
		switch {
		case a.Namespace == home:
			return -1
		case b.Namespace == home:
			return 1
		}
		return 0
	})
}

// normalizeKey brings a key into the form in which it is stored.
func normalizeKey(k *keystore.Key) {
	normalize(k.Grants, k.Namespace)
	for i, a := range k.AllowedIPs {
		k.AllowedIPs[i] = a.Masked()
	}
}

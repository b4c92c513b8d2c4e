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

// Caps of spec section 7b.
const (
	maxName        = 200 // characters
	maxGrants      = 100
	maxPermissions = 500 // in all grants of a key
	maxRoles       = 50  // in all grants of a key
	maxAddresses   = 256
	maxMetadata    = 4 << 10
	maxReason      = 1000 // characters
	maxDescription = 1000 // characters
	// MaxGrace is how long a rotated token may overlap with the new one.
	MaxGrace = 30 * 24 * time.Hour
)

// problems collects what is wrong with the fields of a body, up to a hundred of them.
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
		Detail: "some fields are not valid",
		Fields: p}
}

func (p *fieldErrors) text(field, s string, most int) {
	switch {
	case !utf8.ValidString(s):
		p.add(field, "is not valid UTF-8")
	case utf8.RuneCountInString(s) > most:
		p.add(field, "is longer than %d characters", most)
	case strings.ContainsFunc(s, unicode.IsControl):
		p.add(field, "has control characters")
	default:
		p.secret(field, s)
	}
}

// secret refuses a text with a token in it: everyone who may read the object or the audit log would
// see the token.
func (p *fieldErrors) secret(field, s string) {
	if keystore.ContainsToken(s) {
		p.add(field, "must not contain a token; if the token works, rotate its key")
	}
}

// changedText checks a text if it has changed. An unchanged one may be older than a rule.
func (p *fieldErrors) changedText(field, before, after string, most int) {
	if before != after {
		p.text(field, after, most)
	}
}

// lastTime is the last one that RFC 3339, and so JSON, can write: years have four digits.
var lastTime = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Microsecond)

// expiry checks the end of a key, zero for one that never expires.
func (p *fieldErrors) expiry(at, now time.Time) {
	switch {
	case at.IsZero():
	case !at.After(now):
		p.add("expires_at", "is not in the future")
	case at.After(lastTime):
		p.add("expires_at", "must be before the year 10000 in UTC; leave it out for never")
	}
}

// texts checks m, except entries that are in before.
func (p *fieldErrors) texts(field string, before, m map[string]string) {
	size := 0
	for name, value := range m {
		size += len(name) + len(value)
		if known, ok := before[name]; ok && known == value {
			continue
		}
		if name == "" {
			p.add(field, "has an empty name")
		}
		if keystore.ContainsToken(name) {
			p.secret(field, name)
			continue
		}
		if strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name) {
			p.add(field, "has a name with control characters")
			continue
		}
		p.text(field+"."+name, value, maxMetadata)
	}
	if size > maxMetadata {
		p.add(field, "is larger than %d bytes in all", maxMetadata)
	}
}

// merged returns m with a patch merged into it (RFC 7396): nil removes a name. clear removes all
// names first.
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
		p.add("allowed_ips", "are more than %d", maxAddresses)
		return
	}
	for i, a := range list {
		if !a.IsValid() {
			p.add(fmt.Sprintf("allowed_ips[%d]", i), "is not an address or a CIDR prefix")
		}
	}
}

// grants checks those of a key homed in namespace, or of a member, whose home is empty. short says
// that the first was given by the short form, as fields of the key. Of a namespace that the caller
// knows nothing of nothing is said: whether it may give something there comes later.
func (p *fieldErrors) grants(auth authority, namespace string, grants []keystore.Grant, short bool) {
	permissions, roles := 0, 0
	for _, g := range grants {
		permissions += len(g.Permissions)
		roles += len(g.Roles)
	}
	switch {
	case len(grants) > maxGrants:
		p.add("grants", "are more than %d", maxGrants)
		return
	case permissions > maxPermissions:
		p.add("permissions", "are more than %d", maxPermissions)
		return
	case roles > maxRoles:
		p.add("roles", "are more than %d", maxRoles)
		return
	case permissions+roles == 0 && namespace != "":
		p.add("permissions",
			"the key has none: give it some, or an access level, or roles, or grants")
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
			p.add(field+"namespace", "%q has a grant already", g.Namespace)
		}
		seen[g.Namespace] = true
		for _, permission := range g.Permissions {
			p.secret(field+"permissions", permission.Action)
		}
		if !auth.hasAnyIn(g.Namespace) {
			continue
		}
		if g.Namespace != keystore.AnyNamespace && (g.Namespace != namespace || namespace == "") {
			p.namespace(auth.policy, field+"namespace", g.Namespace)
		}
		for _, r := range g.Roles {
			if auth.policy.RoleSet(g.Namespace, r) == nil {
				p.add(field+"roles",
					"there is no role %q in namespace %q, and no shared one; create it first", r,
					g.Namespace)
			}
		}
	}
}

// mend refuses to write over what nobody could read.
func rowUnreadable(field, why string) error {
	var p fieldErrors
	p.add(field, "cannot be read in the database (%s): say what they are to be", why)
	return p.err()
}

func (p *fieldErrors) namespace(d *keystore.Directory, field, id string) {
	if d.Namespace(id) == nil {
		p.add(field, "there is no namespace %q; create it first", id)
	}
}

// owner leaves it to whether the caller acts for a member where it would not see that there is one.
func (p *fieldErrors) owner(auth authority, id string) {
	if id != keystore.RootMember && auth.policy.Member(id) == nil &&
		auth.may(adminMembers, "read", keystore.AnyNamespace) {
		p.add("owner", "there is no member %q", id)
	}
}

// keyRoles checks the home grant against what its namespace says of the keys in it, and fills in
// what was left open.
func (p *fieldErrors) keyRoles(home *keystore.Namespace, k *keystore.Key) {
	if home != nil && home.Unreadable != "" {
		p.add("namespace",
			"its row cannot be read, so that nobody knows which roles its keys have: %s",
			home.Unreadable)
	}
	if home == nil || len(home.KeyRoles) == 0 {
		return
	}
	g := k.HomeGrant()
	if home.KeyRoles[0] == keystore.AnyRole {
		if g == nil || len(g.Roles) == 0 {
			p.add("roles", "keys of namespace %q have at least one", home.ID)
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
		p.add("roles", "keys of namespace %q have exactly these: %s", home.ID,
			strings.Join(home.KeyRoles, ", "))
	}
}

func sameNames(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// normalise brings grants into the form in which they are kept, that in the home namespace first.
func normalise(grants []keystore.Grant, home string) {
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

// normalise brings a key into the form in which it is kept.
func normaliseKey(k *keystore.Key) {
	normalise(k.Grants, k.Namespace)
	for i, a := range k.AllowedIPs {
		k.AllowedIPs[i] = a.Masked()
	}
}

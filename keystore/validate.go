package keystore

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Caps of spec section 7b.
const (
	maxName        = 200 // characters
	maxGrants      = 100
	maxPermissions = 500 // in all grants of a key
	maxAddresses   = 256
	maxMetadata    = 4 << 10
	maxReason      = 1000 // characters
	// MaxGrace is how long a rotated token may overlap with the new one.
	MaxGrace = 30 * 24 * time.Hour
)

// problems collects what is wrong with the fields of a body, up to a hundred of them.
type problems []FieldError

func (p *problems) add(field, format string, args ...any) {
	if len(*p) < 100 {
		*p = append(*p, FieldError{Field: field, Detail: fmt.Sprintf(format, args...)})
	}
}

func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return &Error{Kind: KindInvalid, Code: "invalid_fields", Detail: "some fields are not valid", Fields: p}
}

func (p *problems) text(field, s string, most int) {
	switch {
	case !utf8.ValidString(s):
		p.add(field, "is not valid UTF-8")
	case utf8.RuneCountInString(s) > most:
		p.add(field, "is longer than %d characters", most)
	case strings.ContainsFunc(s, unicode.IsControl):
		p.add(field, "has control characters")
	}
}

func (p *problems) metadata(m map[string]string) {
	size := 0
	for name, value := range m {
		size += len(name) + len(value)
		if name == "" {
			p.add("metadata", "has an empty name")
		}
		p.text("metadata."+name, value, maxMetadata)
	}
	if size > maxMetadata {
		p.add("metadata", "is larger than %d bytes in all", maxMetadata)
	}
}

func (p *problems) addresses(list []netip.Prefix) {
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

// grants checks the grants of a key homed in namespace. short says that the first was given by the short form, as fields of the key.
func (p *problems) grants(tx Tx, namespace string, grants []Grant, short bool) error {
	permissions := 0
	for _, g := range grants {
		permissions += len(g.Permissions)
	}
	switch {
	case len(grants) > maxGrants:
		p.add("grants", "are more than %d", maxGrants)
		return nil
	case permissions > maxPermissions:
		p.add("permissions", "are more than %d", maxPermissions)
		return nil
	case permissions == 0:
		p.add("permissions", "the key has none: give it some, or an access level, or grants")
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
		if g.Namespace != AnyNamespace && g.Namespace != namespace {
			if err := p.namespace(tx, field+"namespace", g.Namespace); err != nil {
				return err
			}
		}
		for _, r := range g.Roles {
			p.add(field+"roles", "there is no role %q", r)
		}
	}
	return nil
}

func (p *problems) namespace(tx Tx, field, id string) error {
	_, err := tx.Namespace(id)
	switch {
	case err == nil:
		return nil
	case isNotFound(err):
		p.add(field, "there is no namespace %q; create it first", id)
		return nil
	}
	return err
}

// normalise brings a key into the form in which it is kept.
func (k *Key) normalise() {
	for i := range k.Grants {
		g := &k.Grants[i]
		g.Permissions = slices.Clone(g.Set().Permissions())
		if g.Roles == nil {
			g.Roles = []string{}
		}
	}
	slices.SortStableFunc(k.Grants, func(a, b Grant) int {
		switch { // the home grant first
		case a.Namespace == k.Namespace:
			return -1
		case b.Namespace == k.Namespace:
			return 1
		}
		return 0
	})
	for i, a := range k.AllowedIPs {
		k.AllowedIPs[i] = a.Masked()
	}
}

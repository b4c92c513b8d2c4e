package admin

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// shownKey returns the wire type of a key.
func (a *API) shownKey(k *keystore.Key) api.Key { return a.ShowKey(k, a.keys.Now()) }

// ShowKey returns the wire type of a key with the status that it has at a time.
func (a *API) ShowKey(k *keystore.Key, at time.Time) api.Key {
	status := k.Status(at)
	out := api.Key{
		ID: k.ID, Name: k.Name, Namespace: k.Namespace, Prefix: k.Listed(),
		Access: string(k.Access()),
		Grants: showGrants(k.Grants), Owner: k.Owner, Status: string(status),
		Active:        k.Active && status != keystore.StatusRevoked && status != keystore.StatusExpired,
		OwnerDisabled: !a.keys.Policy().OwnerActive(k.Owner),
		CreatedAt:     k.CreatedAt, CreatedBy: k.CreatedBy, ExpiresAt: nilIfZero(k.ExpiresAt),
		RevokedAt: nilIfZero(k.RevokedAt), LastUsedAt: nilIfZero(k.LastUsedAt),
		LastUsedFrom:  nilIfEmpty(addressText(k.LastUsedFrom)),
		DerivedUsedAt: nilIfZero(k.LastDerived.At), DerivedNote: nilIfEmpty(k.LastDerived.Note),
		Secrets: make([]api.Secret, len(k.Secrets)), AllowedIPs: make([]string, len(k.AllowedIPs)),
		RateLimit: showRate(k.Rate), Quota: showQuota(k.Quota), Plan: nilIfEmpty(k.Plan),
		Metadata: k.Metadata, Version: k.Version,
	}
	if out.RevokedAt != nil {
		out.RevokedBy, out.RevokeReason = nilIfEmpty(k.RevokedBy), nilIfEmpty(k.RevokeReason)
	}
	if out.Metadata == nil {
		out.Metadata = map[string]string{}
	}
	for i, s := range k.Secrets {
		out.Secrets[i] = api.Secret{CreatedAt: s.CreatedAt, ExpiresAt: nilIfZero(s.ExpiresAt)}
	}
	for i, p := range k.AllowedIPs {
		out.AllowedIPs[i] = p.String()
	}
	return out
}

// addressText returns an address, or the empty string for the zero Addr.
func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func showGrants(grants []keystore.Grant) []api.Grant {
	out := make([]api.Grant, len(grants))
	for i, g := range grants {
		out[i] = api.Grant{Namespace: g.Namespace, Permissions: permissionTexts(g.Permissions),
			Roles: append([]string{}, g.Roles...), Connected: g.Connected}
	}
	return out
}

// permissionTexts returns permissions as strings, sorted like a keystore.Set.
func permissionTexts(list []keystore.Permission) []string {
	out := make([]string, 0, len(list))
	for _, p := range keystore.NewSet(list...).Permissions() {
		out = append(out, p.String())
	}
	return out
}

// keySpec converts the body of a mint. wrong has the values that cannot be converted. The key store
// checks whether the values fit together, and reports its errors with those in wrong.
func keySpec(r *api.MintRequest) (spec manage.KeySpec, wrong fields) {
	spec = manage.KeySpec{
		Name: r.Name, Namespace: r.Namespace, Grants: wrong.grants(r.Grants),
		Inactive:   r.Active != nil && !*r.Active,
		AllowedIPs: wrong.addresses(r.AllowedIPs), Owner: r.Owner, Metadata: r.Metadata,
		ExpiresAt: wrong.expiry(r.ExpiresAt), NewRoles: wrong.newRoles(r.NewRoles),
		Limits: keystore.KeyLimits{Limits: wrong.limits(r.RateLimit, r.Quota), Plan: r.Plan},
	}
	if r.Access != "" || len(r.Permissions) > 0 || len(r.Roles) > 0 || r.Connected {
		spec.Home = &keystore.Grant{Permissions: wrong.permissions("", r.Access, r.Permissions),
			Roles: r.Roles, Connected: r.Connected}
	}
	return spec, wrong
}

// keyPatch converts the body of an edit, like keySpec.
func keyPatch(r *api.KeyPatch) (p manage.KeyPatch, wrong fields) {
	p = manage.KeyPatch{
		Name:      wrong.needed("name", r.Name),
		Active:    sent(r.Active, true),
		Roles:     sent(r.Roles, nil),
		Connected: sent(r.Connected, false),
		Owner:     wrong.needed("owner", r.Owner),
		NewRoles:  wrong.newRoles(r.NewRoles.Or(nil)),
		Limits:    wrong.limitsPatch(r.RateLimit, r.Quota),
		Plan:      sent(r.Plan, ""),
	}
	if access := r.Access.Or(""); r.Permissions.Sent || access != "" &&
		access != string(keystore.Custom) {
		list := wrong.permissions("", access, r.Permissions.Or(nil))
		p.Permissions = &list
	}
	if r.Grants.Sent {
		list := wrong.grants(r.Grants.Or(nil))
		p.Grants = &list
	}
	if r.ExpiresAt.Sent {
		at := r.ExpiresAt.Or(time.Time{})
		p.ExpiresAt = &at
	}
	if r.AllowedIPs.Sent {
		list := wrong.addresses(r.AllowedIPs.Or(nil))
		p.AllowedIPs = &list
	}
	if r.Metadata.Sent {
		p.Metadata = r.Metadata.Or(nil)
		p.ClearMetadata = r.Metadata.Value == nil
	}
	return p, wrong
}

// sent returns the new value of a patched field: nil if it is absent, the default if it is null.
func sent[T any](o api.Optional[T], def T) *T {
	if !o.Sent {
		return nil
	}
	v := o.Or(def)
	return &v
}

// needed is like sent, for a field without a default.
func (f *fields) needed(field string, o api.Optional[string]) *string {
	if o.Sent && o.Value == nil {
		f.add(field, "cannot be removed")
	}
	return o.Value
}

// fixed refuses a new value of a field that never changes. null stands for the empty value.
func (f *fields) fixed(field string, o api.Optional[string], value string) {
	if o.Sent && o.Or("") != value {
		f.add(field, "never changes")
	}
}

func (f *fields) grants(list []api.GrantRequest) []keystore.Grant {
	out := make([]keystore.Grant, len(list))
	for i, g := range list {
		out[i] = keystore.Grant{
			Namespace:   g.Namespace,
			Permissions: f.permissions(index("grants", i), g.Access, g.Permissions),
			Roles:       g.Roles, Connected: g.Connected,
		}
	}
	return out
}

func grantEdits(r *api.GrantEdit) (manage.GrantEdits, error) {
	var wrong fields
	if len(r.Add)+len(r.Remove)+len(r.RemoveNamespaces) == 0 {
		wrong.add("add", "must not be empty unless remove or remove_namespaces is given")
	}
	e := manage.GrantEdits{Add: wrong.parts("add", r.Add),
		Remove: wrong.parts("remove", r.Remove), RemoveNamespaces: r.RemoveNamespaces}
	return e, wrong.err()
}

func (f *fields) parts(field string, list []api.GrantPart) []keystore.Grant {
	out := make([]keystore.Grant, len(list))
	for i, g := range list {
		in := index(field, i)
		out[i] = keystore.Grant{
			Namespace: g.Namespace, Permissions: f.permissions(in, g.Access, g.Permissions),
			Roles: g.Roles, Connected: g.Connected,
		}
		if len(g.Permissions)+len(out[i].Permissions)+len(g.Roles) == 0 && !g.Connected {
			f.add(in+"permissions", "must not be empty unless access, roles or connected is given")
		}
	}
	return out
}

// index returns the prefix of the fields of one element of a list.
func index(list string, i int) string { return fmt.Sprintf("%s[%d].", list, i) }

// permissions converts the access and permissions of a grant. in is the prefix of the field names.
func (f *fields) permissions(in, access string, list []string) []keystore.Permission {
	short := keystore.Access(access)
	if access != "" && short != keystore.Custom {
		if len(list) > 0 {
			f.add(in+"access", "must be custom if permissions are given")
		}
		return short.Permissions()
	}
	out := make([]keystore.Permission, 0, len(list))
	for i, s := range list {
		p, err := keystore.ParsePermission(s)
		if err != nil {
			f.add(fmt.Sprintf("%spermissions[%d]", in, i), "%v", err)
			continue
		}
		out = append(out, p)
	}
	return out
}

// addresses parses addresses and CIDR ranges. It converts IPv4 in IPv6 to IPv4, like the addresses
// of clients.
func (f *fields) addresses(list []string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for i, s := range list {
		p, err := netip.ParsePrefix(s)
		if addr, err2 := netip.ParseAddr(s); err != nil && err2 == nil && addr.Zone() == "" {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		if err != nil {
			f.add(fmt.Sprintf("allowed_ips[%d]", i),
				"must be an address or a CIDR range such as 10.0.0.0/8, not %q", s)
			continue
		}
		out = append(out, p)
	}
	return out
}

package console

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func (v *visit) keyLink(id string, more ...string) string {
	return v.link(keysPath + "/" + id + strings.Join(more, ""))
}

// ifVersion limits a change to the version for which the form was shown.
func (f *form) ifVersion() client.ChangeOption {
	n, err := strconv.ParseInt(f.Value("version"), 10, 64)
	if err != nil || n < 1 {
		n = -1 // no object has it
	}
	return client.IfVersion(n)
}

func editKey(v *visit) error {
	k, err := v.api.FindKey(v.ctx, v.r.PathValue("id"))
	if err != nil {
		return err
	}
	p, err := v.keyForm(k.Namespace, &k)
	if err != nil {
		return err
	}
	return v.write(http.StatusOK, "key_form", "Edit "+k.Name, p, formOf(p))
}

// formOf returns the form of a key, filled in.
func formOf(p *keyForm) *form {
	k := p.Key
	f := blank("name", k.Name, "owner", k.Owner, "version", strconv.FormatInt(k.Version, 10),
		"allowed_ips", strings.Join(k.AllowedIPs, "\n"))
	if k.Active {
		f.values.Set("active", "true")
	}
	f.values.Set("metadata", metadataText(k.Metadata))
	f.setLimits(k.RateLimit, k.Quota)
	if k.Plan != nil {
		f.values.Set("plan", *k.Plan)
	}
	f.values.Set("access", byRoles)
	for _, g := range k.Grants {
		if g.Namespace != k.Namespace {
			f.values.Add("grants", g.Namespace)
			f.values.Set("access:"+g.Namespace, kept)
			if g.Connected {
				f.values.Set("connected:"+g.Namespace, "true")
			}
			continue
		}
		if g.Connected {
			f.values.Set("connected", "true")
		}
		f.values["roles"] = g.Roles
		if len(g.Permissions) == 0 {
			continue
		}
		f.values.Set("access", string(accessOf(g.Permissions)))
		f.setPermissions(p.Table, g.Permissions)
	}
	return f
}

// metadataText returns metadata in the form of the text field, one name=value per line.
func metadataText(m map[string]string) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, name+"="+m[name])
	}
	return strings.Join(lines, "\n")
}

// accessOf returns the access level of permissions.
func accessOf(list []string) keystore.Access {
	switch strings.Join(list, ",") {
	case "read":
		return keystore.ReadOnly
	case "read,write":
		return keystore.ReadWrite
	}
	return keystore.Custom
}

func saveKey(v *visit) error {
	k, err := v.api.FindKey(v.ctx, v.r.PathValue("id"))
	if err != nil {
		return err
	}
	p, err := v.keyForm(k.Namespace, &k)
	if err != nil {
		return err
	}
	f := v.form()
	title := "Edit " + k.Name
	if f.again() {
		return v.again("key_form", title, p, f)
	}
	patch := v.patch(p, f)
	if !f.Ok() {
		return v.again("key_form", title, p, f)
	}
	done, err := v.api.EditKey(v.ctx, k.ID, patch, f.ifVersion(), client.Wait(shortWait))
	if err != nil {
		if f.fail(err) {
			return v.again("key_form", title, p, f)
		}
		return err
	}
	return v.changed(v.keyLink(k.ID), "Changes saved", done.Propagation)
}

// patch returns the changes that a form makes to a key.
func (v *visit) patch(p *keyForm, f *form) api.KeyPatch {
	k := p.Key
	home := f.homeGrant()
	if len(p.Fixed) > 0 {
		home.roles = p.Fixed
	}
	permissions := home.permissions
	if access := keystore.Access(home.access); access != keystore.Custom {
		permissions = nil
		for _, one := range access.Permissions() {
			permissions = append(permissions, one.String())
		}
	}
	patch := api.KeyPatch{
		Name: api.Some(f.Value("name")), AllowedIPs: api.Some(words(f.Value("allowed_ips"))),
		RateLimit: f.rateChange(k.RateLimit), Quota: f.quotaChange(k.Quota),
		Plan: f.planChange("plan", k.Plan),
	}
	// an expired key is shown as inactive
	if active := f.Has("active", "true"); active != k.Active {
		patch.Active = api.Some(active)
	}
	// unchanged metadata may contain values that cannot be typed
	if text := strings.ReplaceAll(f.Value("metadata"), "\r\n",
		"\n"); strings.TrimSpace(text) != strings.TrimSpace(metadataText(k.Metadata)) {
		patch.Metadata = api.Some(replaced(k.Metadata, f.metadata()))
	}
	if owner := f.Value("owner"); owner != "" && owner != k.Owner {
		patch.Owner = api.Some(owner)
	}
	others := f.otherGrants(p, home, v.sharedRoles())
	f.needsRole(p, home, others)
	switch changed := !sameGrants(k, others); {
	case changed && len(home.newRoles) > 0:
		f.wrong("new_roles",
			"cannot be created while the namespaces change: save one change first, then the other")
	case changed:
		if len(permissions)+len(home.roles) > 0 {
			others = append(others, api.GrantRequest{Namespace: k.Namespace,
				Permissions: permissions, Roles: home.roles, Connected: home.connected})
		}
		patch.Grants = api.Some(others)
	default:
		patch.Permissions = api.Some(orEmpty(permissions))
		patch.Roles, patch.Connected = api.Some(orEmpty(home.roles)), api.Some(home.connected)
		if len(home.newRoles) > 0 {
			patch.NewRoles = api.Some(home.newRoles)
		}
	}
	return patch
}

func orEmpty(list []string) []string { return append([]string{}, list...) }

// sameGrants reports whether a form leaves the grants of a key in other namespaces unchanged.
func sameGrants(k *api.Key, others []api.GrantRequest) bool {
	n := 0
	for _, g := range k.Grants {
		if g.Namespace == k.Namespace {
			continue
		}
		n++
		if !slices.ContainsFunc(others, func(o api.GrantRequest) bool {
			return o.Namespace == g.Namespace && o.Connected == g.Connected && o.Access == "" &&
				slices.Equal(o.Permissions, g.Permissions) && slices.Equal(o.Roles, g.Roles)
		}) {
			return false
		}
	}
	return n == len(others)
}

// replaced returns the merge patch from one map to another (RFC 7396).
func replaced(before, after map[string]string) map[string]*string {
	patch := make(map[string]*string)
	for name := range before {
		patch[name] = nil
	}
	for name, value := range after {
		patch[name] = &value
	}
	return patch
}

// switchKey activates or deactivates a key.
func switchKey(v *visit) error {
	id := v.r.PathValue("id")
	active := v.form().Has("active", "true")
	done, err := v.api.EditKey(v.ctx, id, api.KeyPatch{Active: api.Some(active)},
		client.Wait(shortWait))
	if err != nil {
		return err
	}
	title := "The key is inactive: it is refused until you activate it"
	if active {
		title = "The key is active"
	}
	return v.changed(v.keyLink(id), title, done.Propagation)
}

type rotatePage struct {
	Key    api.Key
	Graces []choice
}

var graces = []choice{
	{Value: "0s", Label: "At once", Hint: "The current token is revoked."},
	{Value: "1h", Label: "In an hour"}, {Value: "24h", Label: "In a day"},
	{Value: "168h", Label: "In a week"}, {Value: "720h", Label: "In 30 days"},
}

func askToRotate(v *visit) error {
	k, err := v.api.FindKey(v.ctx, v.r.PathValue("id"))
	if err != nil {
		return err
	}
	f := blank("grace", "24h", "version", strconv.FormatInt(k.Version, 10))
	return v.write(http.StatusOK, "key_rotate", "Rotate token of "+k.Name, rotatePage{k, graces}, f)
}

func rotateKey(v *visit) error {
	k, err := v.api.FindKey(v.ctx, v.r.PathValue("id"))
	if err != nil {
		return err
	}
	f := v.form()
	grace := cmp.Or(f.Value("grace"), "0s")
	// The version keeps a reload from rotating again.
	done, err := v.api.RotateKey(v.ctx, k.ID, api.RotateRequest{Grace: grace}, f.ifVersion(),
		client.Wait(shortWait))
	if client.StatusOf(err) == http.StatusPreconditionFailed {
		return v.done(v.keyLink(k.ID),
			notice{Kind: "warning", Title: "The key has been changed",
				Text: "If you rotated its token, the new token was shown once and cannot be shown " +
					"again. If you lost it, rotate the token again."})
	}
	if err != nil {
		if f.fail(err) {
			return v.again("key_rotate", "Rotate token of "+k.Name, rotatePage{k, graces}, f)
		}
		return err
	}
	p := tokenPage{Key: done.Key, Token: done.Token, Propagation: &done.Propagation}
	for _, g := range graces {
		if g.Value == grace {
			p.Grace = strings.ToLower(g.Label)
		}
	}
	return v.showToken(p, "New token")
}

type revokePage struct{ Key api.Key }

// confirmation is the word to type before a key is revoked.
const confirmation = "revoke"

func askToRevoke(v *visit) error {
	k, err := v.api.FindKey(v.ctx, v.r.PathValue("id"))
	if err != nil {
		return err
	}
	if !v.MayRevoke(k) {
		return v.refuseChange(k, "revoke")
	}
	return v.show("key_revoke", "Revoke "+k.Name, revokePage{k})
}

// refuseChange answers a request for the form of a change that the visitor may not make.
func (v *visit) refuseChange(k api.Key, operation string) error {
	if k.Status == string(keystore.StatusRevoked) && operation != "delete" {
		return v.done(v.keyLink(k.ID), notice{Kind: "warning", Title: "The key is already revoked"})
	}
	v.refuse(http.StatusForbidden, "Access denied", "This requires the permission admin.keys:"+
		operation+" in namespace "+k.Namespace+". Ask an administrator for it.")
	return nil
}

func revokeKey(v *visit) error {
	id := v.r.PathValue("id")
	f := v.form()
	if strings.ToLower(strings.TrimSpace(f.Value("confirm"))) != confirmation {
		k, err := v.api.FindKey(v.ctx, id)
		if err != nil {
			return err
		}
		f.wrong("confirm", fmt.Sprintf("type the word %s to confirm", confirmation))
		return v.again("key_revoke", "Revoke "+k.Name, revokePage{k}, f)
	}
	done, err := v.api.RevokeKey(v.ctx, id,
		api.RevokeRequest{Reason: f.Value("reason"), Made: f.Has("made", "true")},
		client.Wait(shortWait))
	if err != nil {
		if f.fail(err) {
			k, err := v.api.FindKey(v.ctx, id)
			if err != nil {
				return err
			}
			return v.again("key_revoke", "Revoke "+k.Name, revokePage{k}, f)
		}
		return err
	}
	return v.changed(v.keyLink(id), "Key revoked", done.Propagation)
}

func askToDelete(v *visit) error {
	k, err := v.api.FindKey(v.ctx, v.r.PathValue("id"))
	if err != nil {
		return err
	}
	if !v.mayIn("admin.keys:delete", k.Namespace) {
		return v.refuseChange(k, "delete")
	}
	return v.show("key_delete", "Delete "+k.Name, revokePage{k})
}

func deleteKey(v *visit) error {
	done, err := v.api.DeleteKey(v.ctx, v.r.PathValue("id"), client.Wait(shortWait))
	if err != nil {
		return err
	}
	return v.changed(v.link(keysPath), "Key "+done.Key.Name+" deleted", done.Propagation)
}

// shortWait bounds how long an answer waits for all nodes. Slower changes are shown on the progress
// page.
const shortWait = 2 * time.Second

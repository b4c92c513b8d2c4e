package console

import (
	"cmp"
	"errors"
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

// isStale reports whether a call was refused because the object has another version.
func isStale(err error) bool { return client.StatusOf(err) == http.StatusPreconditionFailed }

// unsaved answers a form whose change was refused. It saves the form again if someone else has changed
// the object since it was read, and shows it if its input is wrong.
func unsaved(v *visit, f *form, err error, save func(*visit) error, show func() error) error {
	switch {
	case isStale(err):
		return save(v)
	case f.fail(err):
		return show()
	}
	return err
}

// keyToChange returns the key of the address. It refuses a revoked key, before the visitor fills in
// a form for it.
func (v *visit) keyToChange() (k api.Key, err error) {
	if k, err = v.api.FindKey(v.ctx, v.r.PathValue("id")); err == nil &&
		k.Status == string(keystore.StatusRevoked) {
		err = &client.Error{Problem: api.NewProblem(http.StatusConflict, "revoked",
			"the key has been revoked, which is final; create another one")}
	}
	return k, err
}

func editKey(v *visit) error {
	k, err := v.keyToChange()
	if err != nil {
		return err
	}
	p, err := v.keyForm(k.Namespace, &k, nil)
	if err != nil {
		return err
	}
	f := v.kept()
	if f == nil {
		f = v.keyEdit(p).now
	}
	return v.write(http.StatusOK, "key_form", "Edit "+k.Name, p, f)
}

// formOf returns the form of a key, filled in.
func formOf(p *keyForm, k *api.Key) *form {
	f := blank("name", k.Name, "owner", k.Owner, "allowed_ips", strings.Join(k.AllowedIPs, "\n"))
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
	k, err := v.keyToChange()
	if err != nil {
		return err
	}
	p, err := v.keyForm(k.Namespace, &k, nil)
	if err != nil {
		return err
	}
	f := v.form()
	title := "Edit " + k.Name
	if v.merge(v.keyEdit(p), f) {
		return v.again("key_form", title, p, f)
	}
	step := f.again()
	if step != "" && step != reviewStep {
		return v.again("key_form", title, p, f)
	}
	patch := v.patch(p, f)
	if step == reviewStep && f.Ok() {
		return v.reviewed("Review changes of "+k.Name, p, f)
	}
	done, err := v.api.EditKey(v.refusing(f), k.ID, patch, f.ifVersion(), client.Wait(shortWait))
	refused, ok := errors.AsType[*client.Error](err)
	switch {
	case isStale(err):
		return saveKey(v) // someone has changed the key since it was read above
	case ok && refused.Code == "grow_only":
		p.wouldLose(f, refused)
		return v.again("key_form", title, p, f)
	case err == nil:
		return v.changed(v.keyLink(k.ID), "Changes saved", done.Propagation)
	case f.fail(err):
		return v.again("key_form", title, p, f)
	}
	return err
}

// wouldLose adds the errors of an edit that removes permissions of a key in a `grow_only`
// namespace. The REST interface says which permission the key would lose, not by which field.
func (p *keyForm) wouldLose(f *form, refused *client.Error) {
	f.Problem = "Permissions of keys in " + p.Home.ID + " can only be added. For fewer " +
		"permissions, create another key."
	home := homeGrantOf(p.Key)
	for _, e := range refused.Errors {
		field := "grants"
		if strings.HasSuffix(e.Detail, " in "+p.Home.ID) {
			switch kept := f.homeGrant(); {
			case home.Connected && !kept.connected:
				field = "connected"
			case kept.access == string(keystore.Custom) &&
				len(missing(home.Permissions, kept.permissions)) > 0:
				field = "permissions"
			case len(p.Fixed) == 0 && len(missing(home.Roles, kept.roles)) > 0:
				field = "roles"
			default:
				field = "access"
			}
		}
		f.wrong(field, strings.Replace(e.Detail, "key "+p.Key.ID, "the key "+
			strconv.Quote(p.Key.Name), 1))
	}
}

// patch returns the changes that a form makes to a key.
func (v *visit) patch(p *keyForm, f *form) api.KeyPatch {
	k := p.Key
	home := f.homeGrant()
	if len(p.Fixed) > 0 {
		home.roles = p.Fixed
	}
	permissions := withAccess(home.permissions, home.access)
	patch := api.KeyPatch{
		AllowedIPs: api.Some(words(f.Value("allowed_ips"))),
		RateLimit:  f.rateChange(k.RateLimit), Quota: f.quotaChange(k.Quota),
		Plan: f.planChange("plan", k.Plan),
	}
	if name := f.Value("name"); name != "" {
		patch.Name = api.Some(name)
	} else {
		f.wrong("name", "is required")
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
	{Value: "0s", Label: "At once", Hint: "The old token is revoked."},
	{Value: "1h", Label: "In an hour"}, {Value: "24h", Label: "In a day"},
	{Value: "168h", Label: "In a week"}, {Value: "720h", Label: "In 30 days"},
}

// Expired reports whether the key has expired. A new token would expire with it.
func (p rotatePage) Expired() bool { return p.Key.Status == string(keystore.StatusExpired) }

func askToRotate(v *visit) error {
	k, err := v.keyToChange()
	if err != nil {
		return err
	}
	p := rotatePage{k, graces}
	if p.Expired() {
		return v.write(http.StatusConflict, "key_rotate", "Key expired", p, nil)
	}
	f := blank("grace", "24h", "version", strconv.FormatInt(k.Version, 10))
	return v.write(http.StatusOK, "key_rotate", "Rotate token of "+k.Name, p, f)
}

func rotateKey(v *visit) error {
	k, err := v.api.FindKey(v.ctx, v.r.PathValue("id"))
	if err != nil {
		return err
	}
	if p := (rotatePage{Key: k}); p.Expired() {
		return v.write(http.StatusConflict, "key_rotate", "Key expired", p, nil)
	}
	f := v.form()
	grace := cmp.Or(f.Value("grace"), "0s")
	// The version keeps a reload from rotating again.
	done, err := v.api.RotateKey(v.ctx, k.ID, api.RotateRequest{Grace: grace}, f.ifVersion(),
		client.Wait(shortWait))
	if isStale(err) {
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
	if len(done.Key.Secrets) > 1 {
		p.Old = done.Key.Secrets[1].ExpiresAt
	}
	return v.showToken(p, "Token rotated")
}

type revokePage struct{ Key api.Key }

// confirmation is the word to type before a key is revoked.
const confirmation = "revoke"

// needsConfirmation adds an error unless the confirmation has been typed.
func (f *form) needsConfirmation() {
	if strings.ToLower(strings.TrimSpace(f.Value("confirm"))) != confirmation {
		f.wrong("confirm", fmt.Sprintf("type the word %s to confirm", confirmation))
	}
}

func askToRevoke(v *visit) error {
	k, err := v.keyToChange()
	if err != nil {
		return err
	}
	if !v.MayRevoke(k) {
		return v.refuseChange(k, "revoke")
	}
	return v.ask("key_revoke", "Revoke "+k.Name, revokePage{k})
}

// refuseChange answers a request for the form of a change that the visitor may not make.
func (v *visit) refuseChange(k api.Key, operation string) error {
	v.refuse(http.StatusForbidden, "Access denied", "This requires the permission admin.keys:"+
		operation+" in namespace "+k.Namespace+". Ask an administrator for it.")
	return nil
}

func revokeKey(v *visit) error {
	id := v.r.PathValue("id")
	f := v.form()
	if f.needsConfirmation(); !f.Ok() {
		k, err := v.api.FindKey(v.ctx, id)
		if err != nil {
			return err
		}
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
	return v.ask("key_delete", "Delete "+k.Name, revokePage{k})
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

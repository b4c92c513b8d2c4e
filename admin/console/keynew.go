package console

import (
	"cmp"
	"crypto/rand"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const newKeyTitle = "Create key"

// firstHome returns the namespace that the form for a new key begins with: the switcher's, or the
// first one where the visitor may create keys.
func (v *visit) firstHome() string {
	if ns := v.namespace(); ns != "" && v.mayIn("admin.keys:create", ns) {
		return ns
	}
	if v.mayIn("admin.keys:create", keystore.DefaultNamespace) {
		return keystore.DefaultNamespace
	}
	for _, namespace := range slices.Sorted(maps.Keys(v.keys.Permissions(v.Caller))) {
		if v.mayIn("admin.keys:create", namespace) {
			return namespace
		}
	}
	return keystore.DefaultNamespace
}

func newKey(v *visit) error {
	f := v.kept()
	p, err := v.newKeyForm(f)
	if err != nil {
		return err
	}
	switch {
	case f != nil:
	case p.Like != nil:
		f = v.formLike(p)
	default:
		f = blank("namespace", p.Home.ID, "access", string(keystore.ReadOnly), "expires",
			lifetimeOf(p.Home), "active", "true", "owner", v.ownOwner())
		f.setLimits(nil, nil)
		switch {
		case p.RoleNeeded:
			f.values.Set("access", byRoles)
		case p.Barred("read"):
			f.values.Set("access", string(keystore.Custom))
		}
	}
	return v.write(http.StatusOK, "key_form", newKeyTitle, p, f)
}

// newKeyForm returns the choices of the form for a new key: for a form that was sent or kept, or
// for a new one if f is nil.
func (v *visit) newKeyForm(f *form) (*keyForm, error) {
	var like *api.Key
	if id := v.query("like"); id != "" {
		k, err := v.api.FindKey(v.ctx, id)
		if err != nil {
			return nil, err
		}
		like = &k
	}
	var home, once string
	if f != nil {
		home, once = cmp.Or(f.Value("namespace"), keystore.DefaultNamespace), f.Value("once")
	} else if home = v.firstHome(); like != nil && v.mayIn("admin.keys:create", like.Namespace) {
		home = like.Namespace
	}
	p, err := v.keyForm(home, nil, like)
	if err != nil {
		return nil, err
	}
	p.Expiries, p.Once = keyExpiries(v.keys.Now(), p.Home), cmp.Or(once, rand.Text())
	return p, nil
}

// formLike returns the form for a new key with the values of another one. It leaves out permissions
// and roles that the visitor cannot give.
func (v *visit) formLike(p *keyForm) *form {
	f := formOf(p, p.Like)
	f.values.Set("namespace", p.Home.ID)
	f.values.Set("active", "true")
	f.values.Set("expires", lifetimeOf(p.Home))
	if !slices.ContainsFunc(p.Owners, func(c choice) bool { return c.Value == p.Like.Owner }) {
		f.values.Set("owner", v.ownOwner())
	}
	own := homeGrantOf(p.Like)
	if slices.ContainsFunc(own.Permissions, p.Barred) {
		p.Less = true
		f.values.Set("access", string(keystore.Custom))
		f.values.Del("permissions")
		f.setPermissions(p.Table, slices.DeleteFunc(slices.Clone(own.Permissions), p.Barred))
	}
	f.values["roles"] = slices.DeleteFunc(slices.Clone(f.values["roles"]), func(name string) bool {
		barred := slices.ContainsFunc(slices.Concat(p.Roles, p.Builtin),
			func(c choice) bool { return c.Value == name && c.Disabled })
		p.Less = p.Less || barred
		return barred
	})
	return f
}

func mintKey(v *visit) error {
	f := v.form()
	p, err := v.newKeyForm(f)
	if err != nil {
		return err
	}
	step := f.again()
	if step != "" && step != reviewStep && step != codeStep {
		if !slices.ContainsFunc(p.Expiries,
			func(c choice) bool { return c.Value == f.Value("expires") }) {
			f.values.Set("expires", lifetimeOf(p.Home)) // of another namespace
		}
		return v.again("key_form", newKeyTitle, p, f)
	}
	now := v.keys.Now()
	home := f.homeGrant()
	active := f.Has("active", "true")
	spec := api.MintRequest{
		Name: cmp.Or(strings.TrimSpace(f.Value("name")), "-"), Namespace: p.Home.ID,
		Access: home.access, Permissions: home.permissions, Roles: home.roles,
		Connected: home.connected, Grants: f.otherGrants(p, home, v.sharedRoles()),
		NewRoles: home.newRoles, Active: &active, ExpiresAt: f.expiry(now),
		AllowedIPs: words(f.Value("allowed_ips")), Owner: f.Value("owner"),
		Metadata: f.metadata(), RateLimit: f.rateLimit(), Quota: f.quota(),
		Plan: strings.TrimSpace(f.Value("plan")),
	}
	f.require("name") // instead of the name above
	f.needsRole(p, home, spec.Grants)
	if step == codeStep {
		if f.Ok() {
			f.Code = v.mintCode(spec)
		}
		return v.again("key_form", newKeyTitle, p, f)
	}
	if step == reviewStep && f.Ok() {
		return v.reviewed("Review key", p, f)
	}
	minted, err := v.api.MintKey(v.refusing(f), spec, p.Once)
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Code == "already_made" {
		return v.done(v.link(keysPath+"/"+refused.ID),
			notice{Kind: "warning", Title: "This key already exists",
				Text: "Its token was shown once and cannot be shown again. If it is lost, " +
					"rotate the token or create another key."})
	}
	if err != nil {
		if f.fail(err) {
			return v.again("key_form", newKeyTitle, p, f)
		}
		return err
	}
	return v.showToken(tokenPage{Key: minted.Key, Token: minted.Token}, "Your new key")
}

// reviewStep is the value of the field `again` that asks for a review. The button that has it is
// also the action of the Enter key, so that Enter in a field creates no key.
const reviewStep = "review"

// codeStep is the value that asks for the samples that create the key.
const codeStep = "code"

// A tokenPage shows a token once.
type tokenPage struct {
	Key         api.Key
	Token       string
	Propagation *api.Propagation // of a rotation; nil: a new key
	Old         *time.Time       // when the old token stops working; nil: it does not work
	Samples     []sample         // a call with the token
	Blanks      bool             // whether the call has parameters to fill in
	Test        string           // the path of the call if the page can make it; else empty
	// Elsewhere is the host in the samples to replace with the API's; empty: the console's own
	// host.
	Elsewhere string
}

// showToken answers the form itself with a token, without a redirect. Reloading the page sends the
// form again, which creates nothing. The status is 201, because browsers keep only pages with
// status 200 for going back.
func (v *visit) showToken(p tokenPage, title string) error {
	address := "https://" + exampleHost
	if p.Elsewhere = exampleHost; v.Beside {
		p.Elsewhere, address = "", "http://"+v.r.Host
		if v.Secure {
			address = "https://" + v.r.Host
		}
	}
	method, path := v.exampleCall(p.Key)
	p.Blanks = strings.ContainsAny(path, "{*")
	p.Samples = samples(method, address, path, p.Token)
	if v.Beside && method == http.MethodGet && !p.Blanks {
		p.Test = path
	}
	return v.write(http.StatusCreated, "token", title, p, nil)
}

// exampleHost is a reserved host (RFC 2606): a token that is sent there by mistake reaches nobody.
const exampleHost = "api.example.com"

// exampleCall returns a declared call that a key may make. It prefers GET and the fewest
// parameters.
func (v *visit) exampleCall(k api.Key) (method, path string) {
	method, path = http.MethodGet, "/"
	list, err := v.api.ListPermissions(v.ctx, "", maxRead)
	stored, err2 := v.keys.FindKey(v.ctx, v.Caller, k.ID)
	if err != nil || err2 != nil {
		return method, path
	}
	may := new(keystore.Set)
	for _, e := range v.keys.Policy().Explain(stored) {
		if e.Namespace == k.Namespace {
			may = keystore.NewSet(e.Effective...)
		}
	}
	effort := math.MaxInt
	for _, op := range list.Items {
		need := keystore.Need{Class: keystore.Write}
		if op.Class == keystore.Read.String() {
			need.Class = keystore.Read
		}
		need.Resource, need.Operation, _ = strings.Cut(op.Permission, ":")
		n := strings.Count(op.Path, "{") + strings.Count(op.Path, "*")
		if op.Method != http.MethodGet {
			n += 1000
		}
		if n < effort && may.Allows(need) {
			method, path, effort = op.Method, op.Path, n
		}
	}
	return method, path
}

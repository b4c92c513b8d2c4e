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
	p, err := v.keyForm(v.firstHome(), nil)
	if err != nil {
		return err
	}
	p.Expiries, p.Once = expiryChoices(v.keys.Now()), rand.Text()
	f := blank("namespace", p.Home.ID, "access", string(keystore.ReadOnly), "expires", never,
		"active", "true", "owner", v.Caller.Member())
	f.setLimits(nil, nil)
	switch {
	case p.RoleNeeded:
		f.values.Set("access", byRoles)
	case p.Barred("read"):
		f.values.Set("access", string(keystore.Custom))
	}
	return v.write(http.StatusOK, "key_form", newKeyTitle, p, f)
}

func mintKey(v *visit) error {
	f := v.form()
	p, err := v.keyForm(cmp.Or(f.Value("namespace"), keystore.DefaultNamespace), nil)
	if err != nil {
		return err
	}
	now := v.keys.Now()
	p.Expiries, p.Once = expiryChoices(now), cmp.Or(f.Value("once"), rand.Text())
	again := f.again()
	if again && f.Value("again") != "samples" {
		return v.again("key_form", newKeyTitle, p, f)
	}
	home := f.homeGrant()
	active := f.Has("active", "true")
	spec := api.MintRequest{
		Name: f.Value("name"), Namespace: p.Home.ID, Access: home.access,
		Permissions: home.permissions, Roles: home.roles, Connected: home.connected,
		Grants: f.otherGrants(p, home, v.sharedRoles()), NewRoles: home.newRoles, Active: &active,
		ExpiresAt: f.expiry(now), AllowedIPs: words(f.Value("allowed_ips")),
		Owner: f.Value("owner"), Metadata: f.metadata(), RateLimit: f.rateLimit(),
		Quota: f.quota(), Plan: strings.TrimSpace(f.Value("plan")),
	}
	if again {
		if f.Ok() {
			if p.Samples, err = v.mintSamples(spec); err != nil {
				return err
			}
		}
		return v.again("key_form", newKeyTitle, p, f)
	}
	if spec.Name == "" {
		f.wrong("name", "is required")
	}
	f.needsRole(p, home, spec.Grants)
	if !f.Ok() {
		return v.again("key_form", newKeyTitle, p, f)
	}
	minted, err := v.api.MintKey(v.ctx, spec, p.Once)
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

// A tokenPage shows a token once.
type tokenPage struct {
	Key         api.Key
	Token       string
	Propagation *api.Propagation // of a rotation; nil: a new key
	Grace       string           // how long the previous token stays valid
	Example     string           // a call with the token
	Blanks      bool             // whether the example has parameters to fill in
	// Elsewhere is the host in the example to replace with the API's; empty: the console's own
	// host.
	Elsewhere string
}

// showToken answers the form itself with a token, without a redirect. Reloading the page sends the
// form again, which creates nothing. Browsers do not go back to a page whose status is not 200.
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
	p.Example = "curl "
	if method != http.MethodGet {
		// RFC 9110 allows methods with characters that are special to a shell.
		p.Example += `-X "` + inShell.Replace(method) + `" `
	}
	p.Example += `-H "Authorization: Bearer ` + p.Token + `" "` + inShell.Replace(address+path) +
		`"`
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

// inShell escapes the characters that a shell interprets in double quotes.
var inShell = strings.NewReplacer(`"`, "%22", "$", "%24", "!", "%21", "`", "%60", `\`, "%5C")

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

const newKeyTitle = "New key"

// firstHome is where a new key is to live until somebody chooses: where the switcher stands, or the
// first place where the visitor may make one.
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
	if f.Value("again") != "" { // another namespace was chosen, and the form looks different there
		f.status = http.StatusOK
		return v.again("key_form", newKeyTitle, p, f)
	}
	home := f.homeGrant()
	active := f.Has("active", "true")
	spec := api.MintRequest{
		Name: f.Value("name"), Namespace: p.Home.ID, Access: home.access,
		Permissions: home.permissions, Roles: home.roles, Connected: home.connected,
		Grants: f.otherGrants(p, home, v.sharedRoles()), NewRoles: home.newRoles, Active: &active,
		ExpiresAt: f.expiry(now), AllowedIPs: words(f.Value("allowed_ips")),
		Owner: f.Value("owner"), Metadata: f.metadata(),
	}
	if spec.Name == "" {
		f.wrong("name", "is required, so that people know what the key is for")
	}
	f.needsRole(p, home, spec.Grants)
	if !f.Ok() {
		return v.again("key_form", newKeyTitle, p, f)
	}
	made, err := v.api.MintKey(v.ctx, spec, p.Once)
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Code == "already_made" {
		return v.done(v.link(keysPath+"/"+refused.ID),
			notice{Kind: "warning", Title: "This key has been made already",
				Text: "Its token was shown once, and cannot be shown again. If you have lost it, " +
					"give the key a new token, or make another key."})
	}
	if err != nil {
		if f.fail(err) {
			return v.again("key_form", newKeyTitle, p, f)
		}
		return err
	}
	return v.showToken(tokenPage{Key: made.Key, Token: made.Token}, "Your new key")
}

// A tokenPage shows a token, this once.
type tokenPage struct {
	Key         api.Key
	Token       string
	Propagation *api.Propagation // of a rotation
	Grace       string           // how long the token before is good
	Example     string           // a call to try it with
	Blanks      bool             // which has parameters to fill in
	// the host that stands in it for the API's, which is not known; empty: it is this one
	Elsewhere string
}

// showToken answers with a token. It is the answer to the form itself, which no way leads back to:
// what reloads it sends the form again, which makes nothing; and browsers keep no page to go back
// to whose status is not 200.
func (v *visit) showToken(p tokenPage, title string) error {
	address := "https://" + someAPI
	if p.Elsewhere = someAPI; v.Beside {
		p.Elsewhere, address = "", "http://"+v.r.Host
		if v.Secure {
			address = "https://" + v.r.Host
		}
	}
	method, path := v.exampleCall(p.Key)
	p.Blanks = strings.ContainsAny(path, "{*")
	p.Example = "curl "
	if method != http.MethodGet {
		// RFC 9110 lets methods have signs that mean something to a shell
		p.Example += `-X "` + inShell.Replace(method) + `" `
	}
	p.Example += `-H "Authorization: Bearer ` + p.Token + `" "` + inShell.Replace(address+path) +
		`"`
	return v.write(http.StatusCreated, "token", title, p, nil)
}

// someAPI is nobody's (RFC 2606): a token that is sent there by mistake goes nowhere.
const someAPI = "api.example.com"

// exampleCall is a declared call that a key may make, a GET rather than another, with as little to
// fill in as there is.
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

// inShell escapes what a shell would look into between double quotes.
var inShell = strings.NewReplacer(`"`, "%22", "$", "%24", "!", "%21", "`", "%60", `\`, "%5C")

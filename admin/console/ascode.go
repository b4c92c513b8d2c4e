package console

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A code is a text to copy, such as a command, that does the same as a page of the console. It
// never contains a token.
type code struct {
	ID, Label, Text string
}

// base returns the address of the console's site, for a shell.
func (v *visit) base() string {
	if v.Secure {
		return "https://" + v.r.Host
	}
	return "http://" + v.r.Host
}

// curl returns the command that sends a request to a path of the REST interface.
func (v *visit) curl(path string, request any) code {
	body, err := json.MarshalIndent(request, "", "  ")
	if err != nil {
		panic(err) // requests consist of texts and numbers
	}
	return code{"as-curl", "curl", "curl " + shellWord(v.base()+api.Prefix+path) +
		" \\\n  -H \"Authorization: Bearer $MEMBER_TOKEN\"" +
		" \\\n  -H 'Content-Type: application/json'" +
		" \\\n  -d " + shellQuoted(string(body))}
}

// createCode returns the texts that create an object with a request to a path of the REST interface
// and on the command line.
func (v *visit) createCode(path string, request any, c *command) []code {
	return []code{v.curl(path, request), {"as-cli", "Command line", c.String()}}
}

// mintCode returns the texts that create a key and use it.
func (v *visit) mintCode(spec api.MintRequest) []code {
	if spec.Owner == v.Caller.Member() {
		spec.Owner = "" // the default
	}
	host := "https://" + exampleHost
	if v.Beside {
		host = v.base()
	}
	return append(v.createCode("/keys", spec, mintCommand(spec)),
		code{"as-caddyfile", "Caddyfile of a site that calls the API with the key",
			"reverse_proxy " + caddyWord(host) + " {\n\theader_up Host {upstream_hostport}\n" +
				"\theader_up Authorization \"Bearer {env.API_KEY}\"\n}"})
}

// deriveCode returns the texts that derive a token which can only read, in the key's namespace.
func deriveCode(k api.Key) []code {
	c := newCommand("derive")
	c.flag("expires", "15m")
	c.flag("permission", "read")
	c.flag("namespace", k.Namespace)
	return []code{
		{"derive-cli", "Command line", c.String() + " < key.token"},
		{"derive-python", "Python", fmt.Sprintf(derivePython, k.Namespace)},
	}
}

// derivePython is the program in docs/derived.md, with %q in place of the namespace.
const derivePython = `import base64, hashlib, sys, time, jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

token = sys.stdin.read().strip().encode()
seed = HKDF(SHA256(), 32, None, b"caddy-apikeys/derive/1").derive(token)
kid = base64.urlsafe_b64encode(hashlib.sha256(token).digest()).rstrip(b"=").decode()
claims = {"exp": int(time.time()) + 900, "scope": "read", "ns": [%q]}
print(jwt.encode(claims, Ed25519PrivateKey.from_private_bytes(seed), "EdDSA", {"typ": "ak+jwt", "kid": kid}))`

// A command is a `caddy apikeys` command.
type command struct{ strings.Builder }

func newCommand(words ...string) *command {
	c := new(command)
	c.WriteString("caddy apikeys")
	for _, word := range words {
		c.WriteString(" " + shellWord(word))
	}
	return c
}

// flag adds a flag for each of its values that is not empty.
func (c *command) flag(name string, values ...string) {
	for _, value := range values {
		if value != "" {
			c.WriteString(" \\\n  --" + name + " " + shellWord(value))
		}
	}
}

// set adds a flag without a value if it is on.
func (c *command) set(name string, on bool) {
	if on {
		c.WriteString(" \\\n  --" + name)
	}
}

// limits adds the flags for limits, either of which may be nil.
func (c *command) limits(rate *api.RateLimit, quota *api.Quota) {
	switch {
	case rate == nil:
	case rate.Unlimited:
		c.flag("rate", "unlimited")
	default:
		c.flag("rate", fmt.Sprintf("%d/%s", rate.Requests, rate.Per))
		if rate.Burst > 0 {
			c.flag("burst", fmt.Sprint(rate.Burst))
		}
		c.set("shadow-rate", rate.Shadow)
	}
	switch {
	case quota == nil:
	case quota.Unlimited:
		c.flag("quota", "unlimited")
	default:
		c.flag("quota", fmt.Sprintf("%d/%s", quota.Requests, quota.Per))
		c.set("shadow-quota", quota.Shadow)
	}
}

// mintCommand returns the command that creates a key.
func mintCommand(spec api.MintRequest) *command {
	c := newCommand("keys", "mint")
	c.flag("name", spec.Name)
	c.flag("namespace", spec.Namespace)
	if spec.Access != string(keystore.Custom) {
		c.flag("access", spec.Access)
	}
	c.flag("permission", spec.Permissions...)
	c.flag("role", spec.Roles...)
	for _, r := range spec.NewRoles {
		c.flag("new-role", r.Name+"="+strings.Join(r.Permissions, ","))
	}
	c.set("connected", spec.Connected)
	c.flag("grant", grantFlags(spec.Grants)...)
	c.flag("owner", spec.Owner)
	c.flag("plan", spec.Plan)
	c.limits(spec.RateLimit, spec.Quota)
	if spec.ExpiresAt != nil {
		c.flag("expires", spec.ExpiresAt.UTC().Format(time.RFC3339))
	}
	c.flag("allow-ip", spec.AllowedIPs...)
	for _, name := range slices.Sorted(maps.Keys(spec.Metadata)) {
		c.flag("metadata", name+"="+spec.Metadata[name])
	}
	c.set("inactive", spec.Active != nil && !*spec.Active)
	return c
}

func roleCommand(spec api.RoleRequest) *command {
	c := newCommand("roles", "create", shareableWord(spec.Namespace, spec.Name))
	c.flag("permission", spec.Permissions...)
	c.flag("description", spec.Description)
	return c
}

func planCommand(spec api.PlanRequest) *command {
	c := newCommand("plans", "create", shareableWord(spec.Namespace, spec.Name))
	c.limits(spec.RateLimit, spec.Quota)
	c.flag("description", spec.Description)
	return c
}

func memberCommand(spec api.MemberRequest) *command {
	c := newCommand("members", "create")
	c.flag("name", spec.Name)
	c.flag("kind", spec.Kind)
	c.flag("login", spec.Login)
	c.flag("grant", grantFlags(spec.Grants)...)
	return c
}

func namespaceCommand(spec api.NamespaceRequest) *command {
	c := newCommand("namespaces", "create", spec.ID)
	c.flag("kind", spec.Kind)
	c.flag("name", spec.Name)
	if spec.Parent != nil {
		c.flag("parent", *spec.Parent)
	}
	c.flag("child-prefix", spec.ChildPrefix)
	c.flag("edit-policy", spec.EditPolicy)
	c.flag("key-role", spec.KeyRoles...)
	c.flag("reach", spec.Reach...)
	c.flag("token-prefix", spec.TokenPrefix)
	c.flag("max-lifetime", spec.MaxLifetime)
	if spec.Idle != nil {
		c.flag("idle", spec.Idle.After+"="+spec.Idle.Then)
	}
	c.flag("on-leak", spec.OnLeak)
	c.limits(spec.RateLimit, spec.Quota)
	c.flag("default-plan", spec.DefaultPlan)
	return c
}

// shareableWord returns the name of a role or a plan on the command line.
func shareableWord(namespace, name string) string {
	if namespace == keystore.AnyNamespace {
		return name
	}
	return namespace + "/" + name
}

// grantFlags returns grants as values of --grant.
func grantFlags(grants []api.GrantRequest) (list []string) {
	for _, g := range grants {
		list = append(list, grantFlag(g))
	}
	return list
}

// grantFlag returns a grant as the value of --grant.
func grantFlag(g api.GrantRequest) string {
	list := slices.Clone(g.Permissions)
	if g.Access != "" && g.Access != string(keystore.Custom) {
		list = []string{g.Access}
	}
	for _, role := range g.Roles {
		list = append(list, "@"+role)
	}
	if g.Connected {
		g.Namespace += "+"
	}
	return g.Namespace + "=" + strings.Join(list, ",")
}

// likeKey returns the request for a key like another one. A past expiry is left out.
func (v *visit) likeKey(k api.Key) api.MintRequest {
	spec := api.MintRequest{Name: k.Name, Namespace: k.Namespace, AllowedIPs: k.AllowedIPs,
		RateLimit: k.RateLimit, Quota: k.Quota, Metadata: k.Metadata, Owner: k.Owner}
	if k.Owner == keystore.RootMember {
		spec.Owner = ""
	}
	if k.Status == string(keystore.StatusInactive) {
		spec.Active = new(bool)
	}
	if k.Plan != nil {
		spec.Plan = *k.Plan
	}
	if k.ExpiresAt != nil && k.ExpiresAt.After(v.keys.Now()) {
		spec.ExpiresAt = k.ExpiresAt
	}
	for _, g := range k.Grants {
		if g.Namespace != k.Namespace {
			spec.Grants = append(spec.Grants, api.GrantRequest{Namespace: g.Namespace,
				Permissions: g.Permissions, Roles: g.Roles, Connected: g.Connected})
			continue
		}
		spec.Roles, spec.Connected = g.Roles, g.Connected
		if access := accessOf(g.Permissions); access != keystore.Custom {
			spec.Access = string(access)
		} else {
			spec.Permissions = g.Permissions
		}
	}
	return spec
}

// plainWord is a text without characters that are special to a shell.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// shellWord returns a text as one word of a POSIX shell.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return shellQuoted(s)
}

func shellQuoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// caddyWord returns a text as one token of a Caddyfile.
func caddyWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "`" + strings.ReplaceAll(s, "`", "") + "`"
}

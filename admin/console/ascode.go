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

// mintCode returns the texts that create a key and use it.
func (v *visit) mintCode(spec api.MintRequest) ([]code, error) {
	if spec.Owner == v.Caller.Member() {
		spec.Owner = "" // the default
	}
	body, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return nil, err
	}
	host := "https://" + exampleHost
	if v.Beside {
		host = v.base()
	}
	return []code{
		{"as-curl", "curl", "curl " + shellWord(v.base()+api.Prefix+"/keys") +
			" \\\n  -H \"Authorization: Bearer $MEMBER_TOKEN\" -H 'Content-Type: application/json'" +
			" \\\n  -d " + shellQuoted(string(body))},
		{"as-cli", "Command line", mintCommand(spec)},
		{"as-caddyfile", "Caddyfile of a site that calls the API with the key",
			"reverse_proxy " + caddyWord(host) + " {\n\theader_up Host {upstream_hostport}\n" +
				"\theader_up Authorization \"Bearer {env.API_KEY}\"\n}"},
	}, nil
}

// deriveCode returns the texts that derive a token which can only read, in the key's namespace.
func deriveCode(k api.Key) []code {
	return []code{
		{"derive-cli", "Command line", "caddy apikeys derive --expires 15m --permission read" +
			" --namespace " + shellWord(k.Namespace) + " \\\n  < key.token"},
		{"derive-python", "Python", fmt.Sprintf(derivePython, k.Namespace)},
	}
}

// derivePython is the program in docs/derived.md, with a verb for the namespace.
const derivePython = `import base64, hashlib, sys, time, jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

token = sys.stdin.read().strip().encode()
seed = HKDF(SHA256(), 32, None, b"caddy-apikeys/derive/1").derive(token)
kid = base64.urlsafe_b64encode(hashlib.sha256(token).digest()).rstrip(b"=").decode()
claims = {"exp": int(time.time()) + 900, "scope": "read", "ns": [%q]}
print(jwt.encode(claims, Ed25519PrivateKey.from_private_bytes(seed), "EdDSA", {"typ": "ak+jwt", "kid": kid}))`

// mintCommand returns the `caddy apikeys keys mint` for a request.
func mintCommand(spec api.MintRequest) string {
	var b strings.Builder
	b.WriteString("caddy apikeys keys mint")
	flag := func(name string, values ...string) {
		for _, value := range values {
			if value != "" {
				b.WriteString(" \\\n  --" + name + " " + shellWord(value))
			}
		}
	}
	set := func(name string, on bool) {
		if on {
			b.WriteString(" \\\n  --" + name)
		}
	}
	flag("name", spec.Name)
	flag("namespace", spec.Namespace)
	if spec.Access != string(keystore.Custom) {
		flag("access", spec.Access)
	}
	flag("permission", spec.Permissions...)
	flag("role", spec.Roles...)
	for _, r := range spec.NewRoles {
		flag("new-role", r.Name+"="+strings.Join(r.Permissions, ","))
	}
	set("connected", spec.Connected)
	for _, g := range spec.Grants {
		flag("grant", grantFlag(g))
	}
	flag("owner", spec.Owner)
	flag("plan", spec.Plan)
	if l := spec.RateLimit; l != nil && l.Unlimited {
		flag("rate", "unlimited")
	} else if l != nil {
		flag("rate", fmt.Sprintf("%d/%s", l.Requests, l.Per))
		if l.Burst > 0 {
			flag("burst", fmt.Sprint(l.Burst))
		}
		set("shadow-rate", l.Shadow)
	}
	if q := spec.Quota; q != nil && q.Unlimited {
		flag("quota", "unlimited")
	} else if q != nil {
		flag("quota", fmt.Sprintf("%d/%s", q.Requests, q.Per))
		set("shadow-quota", q.Shadow)
	}
	if spec.ExpiresAt != nil {
		flag("expires", spec.ExpiresAt.UTC().Format(time.RFC3339))
	}
	flag("allow-ip", spec.AllowedIPs...)
	for _, name := range slices.Sorted(maps.Keys(spec.Metadata)) {
		flag("metadata", name+"="+spec.Metadata[name])
	}
	set("inactive", spec.Active != nil && !*spec.Active)
	return b.String()
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

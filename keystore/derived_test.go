package keystore

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
	"weak"
)

// derivedVectors are the vectors in docs/derived-vectors.json. They were computed independently of
// this code, with Python's cryptography.
type derivedVectors struct {
	Now        int64
	MaxSeconds int64 `json:"max_seconds"`
	Vectors    []struct {
		Name, Token, Seed, JWT, Verdict string
		PublicKey                       string `json:"public_key"`
	}
}

func readDerivedVectors(t testing.TB) (v derivedVectors) {
	t.Helper()
	text, err := os.ReadFile("../docs/derived-vectors.json")
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err != nil || len(v.Vectors) < 150 {
		t.Fatal(len(v.Vectors), err)
	}
	return v
}

// judgeDerived returns the verdict on a JWT if only token is valid.
func judgeDerived(token, jwt string, now, longest time.Duration) string {
	d, err := ParseDerived(jwt)
	if err != nil {
		return "invalid"
	}
	switch d.ValidAt(int64(now), longest) {
	case Expired:
		return "expired"
	case Malformed:
		return "invalid"
	}
	public := NewDerivingKey(token, "").Public
	if d.Parent != DigestOf(token) || d.Verify(&public) == nil {
		return "invalid"
	}
	return "ok"
}

func TestDerivedVectors(t *testing.T) {
	v := readDerivedVectors(t)
	verdicts := make(map[string]int)
	for _, one := range v.Vectors {
		private, err := privateKey(one.Token)
		if err != nil {
			t.Fatal(err)
		}
		if seed := hex.EncodeToString(private.Seed()); seed != one.Seed {
			t.Errorf("%s: seed %s, want %s", one.Name, seed, one.Seed)
		}
		public := NewDerivingKey(one.Token, "").Public
		if got := hex.EncodeToString(public[:]); got != one.PublicKey {
			t.Errorf("%s: public key %s, want %s", one.Name, got, one.PublicKey)
		}
		if got := judgeDerived(one.Token, one.JWT, time.Duration(v.Now)*time.Second,
			time.Duration(v.MaxSeconds)*time.Second); got != one.Verdict {
			t.Errorf("%s: %s, want %s", one.Name, got, one.Verdict)
		}
		verdicts[one.Verdict]++
	}
	if verdicts["ok"] < 10 || verdicts["expired"] < 3 || verdicts["invalid"] < 100 {
		t.Error(verdicts)
	}
}

// TestEveryChangedByteIsRefused changes each character of a derived token.
func TestEveryChangedByteIsRefused(t *testing.T) {
	token := tokenVectors[0].token
	jwt, err := Derive(token, Caveats{ExpiresAt: time.Unix(2000, 0), Permissions: []string{"read"}})
	if err != nil {
		t.Fatal(err)
	}
	const now = 1990 * time.Second
	if got := judgeDerived(token, jwt, now, time.Hour); got != "ok" {
		t.Fatal(got)
	}
	for i := range jwt {
		for _, c := range "A0_.=" {
			changed := jwt[:i] + string(c) + jwt[i+1:]
			if changed != jwt && judgeDerived(token, changed, now, time.Hour) == "ok" {
				t.Errorf("accepted with %c at %d", c, i)
			}
		}
		if judgeDerived(token, jwt[:i], now, time.Hour) == "ok" {
			t.Errorf("accepted after %d characters", i)
		}
	}
}

func TestDeriveRefuses(t *testing.T) {
	at := time.Unix(2000, 0)
	derived, err := Derive(tokenVectors[0].token, Caveats{ExpiresAt: at})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		token string
		c     Caveats
		want  string
	}{
		"no expiry":        {tokenVectors[0].token, Caveats{}, "expiry time"},
		"a derived token":  {derived, Caveats{ExpiresAt: at}, "derive from the key's own token"},
		"a member's token": {"akm_" + strings.Repeat("0", 58), Caveats{ExpiresAt: at}, "member"},
		"no token":         {"", Caveats{ExpiresAt: at}, "8 to 512"},
		"no permissions": {tokenVectors[0].token,
			Caveats{ExpiresAt: at, Permissions: []string{}}, "permissions must contain 1 to 100"},
		"no namespaces": {tokenVectors[0].token,
			Caveats{ExpiresAt: at, Namespaces: []string{}}, "namespaces must contain 1 to 100"},
		"no addresses": {tokenVectors[0].token,
			Caveats{ExpiresAt: at, AllowedIPs: []netip.Prefix{}}, "addresses must contain 1 to"},
		"a permission": {tokenVectors[0].token,
			Caveats{ExpiresAt: at, Permissions: []string{"orders"}}, `"orders"`},
		"two in one": {tokenVectors[0].token,
			Caveats{ExpiresAt: at, Permissions: []string{"read write"}}, `"read write"`},
		"a namespace": {tokenVectors[0].token,
			Caveats{ExpiresAt: at, Namespaces: []string{"*"}}, "not the id of a namespace"},
		"an address": {tokenVectors[0].token,
			Caveats{ExpiresAt: at, AllowedIPs: []netip.Prefix{{}}}, "CIDR range"},
		"a note": {tokenVectors[0].token,
			Caveats{ExpiresAt: at, Note: "a\nb"}, "200 printable characters"},
		"a token in the note": {tokenVectors[0].token,
			Caveats{ExpiresAt: at, Note: tokenVectors[0].token}, "must not contain a token"},
		"too much": {tokenVectors[0].token,
			Caveats{ExpiresAt: at, Namespaces: slices.Repeat([]string{strings.Repeat("n", 60)}, 80)},
			"at most 4096 are allowed"},
	} {
		got, err := Derive(c.token, c.c)
		if err == nil || !strings.Contains(err.Error(), c.want) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if err != nil && ContainsToken(err.Error()) {
			t.Errorf("%s: the error contains the token", name)
		}
	}
}

// TestDeriveIsUnderstood: ParseDerived reads what Derive writes.
func TestDeriveIsUnderstood(t *testing.T) {
	at := time.Unix(2000, 999_999_999)
	jwt, err := Derive("secret-token:"+tokenVectors[1].token+"\n", Caveats{ExpiresAt: at,
		NotBefore: time.Unix(1000, 0), Permissions: []string{"reports:read", "orders:search"},
		Namespaces: []string{"acme", "b"},
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8"),
			netip.MustParsePrefix("::ffff:192.0.2.0/120")}, Note: "<nächtlich> & 夜"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDerived(jwt)
	if err != nil {
		t.Fatal(err)
	}
	public := NewDerivingKey(tokenVectors[1].token, "").Public
	n := d.Verify(&public)
	got := fmt.Sprintf("%d %d %v %v %v %s", n.expires, n.notBefore, n.scope, n.namespaces,
		n.AllowedIPs, n.Note)
	want := "2000 1000 orders:search,reports:read [acme b] [10.0.0.0/8 192.0.2.0/24] " +
		"<nächtlich> & 夜"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
	old, err := Derive(tokenVectors[1].token,
		Caveats{ExpiresAt: at, NotBefore: time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC)})
	if got := judgeDerived(tokenVectors[1].token, old, 1990*time.Second, time.Hour); got != "ok" {
		t.Errorf("a token that is valid from 1969: %s, %v", got, err)
	}
	if parent, ok := DerivedParent(jwt); !ok || parent != DigestOf(tokenVectors[1].token) {
		t.Error("DerivedParent does not return the digest of the parent token")
	}
	if !IsDerived(jwt) || IsDerived(tokenVectors[1].token) {
		t.Error("IsDerived is wrong for the derived token or for its parent")
	}
	for text, want := range map[string]bool{
		jwt: true, "a " + jwt + ", b": true, jwt[:len(jwt)-1]: false, jwt + "A": true,
		strings.Repeat(".ey", 1000): false, jwt[strings.Index(jwt, ".")+1:]: false,
	} {
		if ContainsToken(text) != want {
			t.Errorf("ContainsToken(%q) is %v", text, !want)
		}
	}
}

// TestShortTokenUnderFIPS: in the FIPS 140-only mode of Go, nothing can be derived from a token of
// fewer than 14 characters, and no caller panics.
func TestShortTokenUnderFIPS(t *testing.T) {
	if os.Getenv("GODEBUG") != "fips140=only" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	for token, can := range map[string]bool{
		"imported-1234": false, "imported-12345": true, tokenVectors[0].token: true,
	} {
		derived, err := Derive(token, Caveats{ExpiresAt: time.Unix(2000, 0)})
		if k := NewDerivingKey(token, ""); (k != DerivingKey{}) != can || (err == nil) != can {
			t.Errorf("%s: %v, %q, %v", token, k, derived, err)
		}
	}
}

// TestForgedTokensCostLittle: before the signature, only the header and the times are read.
func TestForgedTokensCostLittle(t *testing.T) {
	c := Caveats{ExpiresAt: time.Unix(2000, 0)}
	for i := range maxCaveats {
		c.Permissions = append(c.Permissions, fmt.Sprintf("r%d:read", i))
		c.Namespaces = append(c.Namespaces, fmt.Sprint("n", i))
	}
	jwt, err := Derive(tokenVectors[0].token, c)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = ParseDerived(jwt) }); n > 1 {
		t.Errorf("parsing makes %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { IsDerived(jwt) }); n > 0 {
		t.Errorf("IsDerived makes %v allocations", n)
	}
	// Hundreds of short members, whose names and texts have escapes.
	parts := strings.Split(jwt, ".")
	fill := func(begin, member, end string) string {
		count := (MaxDerivedLen*3/4 - 300 - len(begin) - len(end)) / len(member)
		return base64.RawURLEncoding.EncodeToString(
			[]byte(begin + strings.Repeat(member, count) + end))
	}
	for _, forged := range []string{
		fill("{", `"t\u0079p":"\n",`, `"typ":"ak+jwt"}`) + "." + parts[1] + "." + parts[2],
		fill(`{"typ":"ak+jwt",`, `"\n":"\n",`, `"a":1}`) + "." + parts[1] + "." + parts[2],
		parts[0] + "." + fill(`{"exp":2000`, `,"\n":1`, "}") + "." + parts[2],
		parts[0] + "." + fill(`{"exp":2000`, `,"":1`, "}") + "." + parts[2],
	} {
		if _, err := ParseDerived(forged); err == nil {
			t.Errorf("%.60s… is left to the verification of its signature", forged)
		}
		if n := testing.AllocsPerRun(100, func() { _, _ = ParseDerived(forged) }); n > 1 {
			t.Errorf("parsing %.60s… makes %v allocations", forged, n)
		}
	}
}

// FuzzMembers: the scanner finds what encoding/json finds.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{}`, ` {}`, `{"a":1}`, `{"a":1}x`, `{ "a" : [1,{"b":"]"}] , "c":"}\\" }`,
		`{"a":{"b":[]},"a":null,"\u0061":"\""}`, `{"a"`, `{"a":`, `{"a":,}`, `{"a":1,}`, `{"a\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var names, values []string
		for rest := []byte(s); ; {
			var name, value []byte
			var ok bool
			if name, value, rest, ok = nextMember(rest); !ok {
				break
			}
			names = append(names, string(plainText(name)))
			values = append(values, string(value))
		}
		if !isObject([]byte(s)) {
			return
		}
		d := json.NewDecoder(strings.NewReader(s))
		_, _ = d.Token()
		for i := 0; d.More(); i++ {
			name, _ := d.Token()
			var value json.RawMessage
			ascii := !strings.ContainsFunc(name.(string),
				func(r rune) bool { return r >= utf8.RuneSelf })
			if err := d.Decode(&value); err != nil || i >= len(names) ||
				ascii && names[i] != name || values[i] != string(value) {
				t.Fatalf("%q: %q %q, not %q %q", s, names, values, name, value)
			}
			if !d.More() && i != len(names)-1 {
				t.Fatalf("%q: %q", s, names)
			}
		}
	})
}

// TestNarrowingKeepsNothingOfTheKey: a Narrowing does not keep a big set in memory.
func TestNarrowingKeepsNothingOfTheKey(t *testing.T) {
	c := Caveats{ExpiresAt: time.Unix(2000, 0), Permissions: []string{"*"}}
	n := new(Narrowing)
	if err := n.set(c); err != nil {
		t.Fatal(err)
	}
	var list []Permission
	for i := range 4 * maxKeptSet {
		list = append(list, Permission{fmt.Sprint("r", i), "read"})
	}
	left := func() weak.Pointer[Set] {
		all := NewSet(append(list, Permission{"x", "read"})...)
		return weak.Make(n.Left(all, "acme"))
	}()
	runtime.GC() // list is not used any more
	if left.Value() != nil {
		t.Error("the set that is left is kept")
	}
	small := MustParsePermissions("orders:read", "read")
	set := NewSet(small...)
	if allocs := testing.AllocsPerRun(100, func() { n.Left(set, "acme") }); allocs > 1 {
		t.Errorf("what is left of a small set makes %v allocations", allocs)
	}
	big := NewSet(append(list, Permission{"y", "read"})...)
	bigLeft := n.Left(big, "acme")
	if allocs := testing.AllocsPerRun(100, func() { n.Left(big, "acme") }); allocs > 1 {
		t.Errorf("what is left of a big set makes %v allocations in each request", allocs)
	}
	runtime.KeepAlive(bigLeft)
	runtime.KeepAlive(n)
}

// TestForeignJWTs: a JWT of another issuer is no derived token, and everything that claims the type
// is one, however malformed.
func TestForeignJWTs(t *testing.T) {
	// jwt.io's first example.
	foreign := "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG" +
		"9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"
	for _, s := range []string{foreign, "", ".", "..", "ey..", "eyJ9.x.y", foreign[:20]} {
		if _, err := ParseDerived(s); !errors.Is(err, ErrNotDerived) || IsDerived(s) {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, header := range []string{
		`{"typ":"ak+jwt"}`, `{"typ":"AK+JWT","alg":"none"}`, `{"TYP":"ak+jwt"}`,
		`{"typ":"application/ak+jwt"}`, `{"typ":"ak\u002bjwt"}`, ` {"typ":"ak+jwt"}`,
		`{"typ":"JWT","typ":"ak+jwt"}`, `{"typ":"ak+jwt","typ":"JWT"}`, `{"typ":"ak+jwt",`,
		`{"typ":"ak+jwt"}x`,
	} {
		for _, padding := range []string{"", "="} {
			s := base64.RawURLEncoding.EncodeToString([]byte(header)) + padding + ".x.y"
			if _, err := ParseDerived(s); err == nil || errors.Is(err, ErrNotDerived) {
				t.Errorf("%s: %v", header, err)
			}
		}
	}
}

func TestDecideNarrowed(t *testing.T) {
	const now = 1000 * int64(time.Second)
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	d := NewDirectory(&Policy{Namespaces: []Namespace{{ID: "acme"}, {ID: "b"}}})
	key := &Key{ID: "k", Namespace: "acme", Owner: RootMember, Active: true,
		Secrets:    []Secret{{Digest: Digest{1}}},
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Grants: []Grant{{Namespace: AnyNamespace,
			Permissions: MustParsePermissions("read", "orders:write")}}}
	r := NewRecord(key, Digest{1})
	here, there := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.2.0.1")
	wide := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	narrow := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	read, write := Need{Class: Read, Resource: "orders"}, Need{Class: Write, Resource: "orders"}
	const all = "orders:write,read" // the permissions of the key
	outside := netip.MustParseAddr("192.0.2.1")
	scope := func(permissions ...string) Caveats { return Caveats{Permissions: permissions} }
	in := func(namespaces ...string) Caveats { return Caveats{Namespaces: namespaces} }
	from := func(ranges []netip.Prefix) Caveats { return Caveats{AllowedIPs: ranges} }
	for name, c := range map[string]struct {
		caveats   Caveats
		need      Need
		namespace string
		client    netip.Addr
		want      Outcome
		left      string
	}{
		"nothing narrowed":      {Caveats{}, write, "acme", here, OK, all},
		"a scope":               {scope("read"), read, "acme", here, OK, "read"},
		"beyond the scope":      {scope("read"), write, "acme", here, Forbidden, "read"},
		"a scope of a resource": {scope("orders:read"), read, "acme", here, OK, "orders:read"},
		"beyond the key":        {scope("*"), Need{Class: Write}, "acme", here, Forbidden, all},
		"all of a resource": {scope("orders:*"), write, "acme", here, OK,
			"orders:*,orders:write"},
		"nothing of the key":    {scope("billing:write"), write, "acme", here, Forbidden, ""},
		"in the namespace":      {in("b", "acme"), read, "acme", here, OK, all},
		"another namespace":     {in("b"), read, "acme", here, Forbidden, ""},
		"no namespace":          {in("gone"), read, "gone", here, Forbidden, ""},
		"its addresses":         {from(narrow), read, "acme", here, OK, all},
		"another address":       {from(narrow), read, "acme", there, Address, all},
		"not the key's address": {from(wide), read, "acme", outside, Address, all},
		"no address":            {from(narrow), read, "acme", netip.Addr{}, Address, all},
		"expired":               {Caveats{ExpiresAt: at(1000)}, read, "acme", here, Expired, all},
	} {
		if c.caveats.ExpiresAt.IsZero() {
			c.caveats.ExpiresAt = at(1001)
		}
		n := new(Narrowing)
		if err := n.set(c.caveats); err != nil {
			t.Fatal(name, err)
		}
		ns := d.Namespace(c.namespace)
		q := &Request{Now: now, Policy: d, Namespace: ns, Need: c.need, Client: c.client,
			Narrowing: n}
		if got := Decide(r, q); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		for range 2 {
			if got := r.Set(d, ns, n).String(); got != c.left {
				t.Errorf("%s: %q is left, want %q", name, got, c.left)
			}
		}
	}
	q := &Request{Now: now, Policy: d, Namespace: d.Namespace("acme"), Need: read,
		Client: here, Early: true, Narrowing: &Narrowing{Validity: Validity{expires: 2000}, AllowedIPs: narrow}}
	free := *key
	free.AllowedIPs = nil
	if got := Decide(NewRecord(&free, Digest{1}), q); got != Early {
		t.Errorf("early data for a token with addresses: %v", got)
	}
}

// TestEffectivePermissions checks that a key with its owner, or a derived token, has a permission
// if, and only if, [Decide] allows all requests that the permission allows.
func TestEffectivePermissions(t *testing.T) {
	resources := []string{"a", "b", "admin", "admin.keys"}
	choices := MustParsePermissions("*", "read", "write")
	for _, r := range resources {
		for _, action := range []string{"*", "read", "write", "x"} {
			choices = append(choices, Permission{r, action})
		}
	}
	// Requests and permissions also have a resource and an operation that no grant names.
	var needs []Need
	permissions := slices.Clone(choices)
	for _, r := range append(resources, "") {
		operations := []string{""}
		if r != "" {
			operations = append(operations, "x", "y")
			permissions = append(permissions, Permission{r, "y"})
		}
		for _, o := range operations {
			needs = append(needs, Need{Read, r, o, false}, Need{Write, r, o, false})
		}
	}
	for _, r := range []string{"c", "admin.c"} {
		permissions = append(permissions, Permission{r, "*"}, Permission{r, "read"},
			Permission{r, "y"})
		needs = append(needs, Need{Read, r, "", false}, Need{Write, r, "", false},
			Need{Read, r, "y", false}, Need{Write, r, "y", false})
	}
	allowed := func(p Permission) (list []Need) {
		for _, n := range needs {
			if NewSet(p).Allows(n) {
				list = append(list, n)
			}
		}
		return list
	}
	random := rand.New(rand.NewPCG(1, 2))
	some := func() (list []Permission) {
		for range 1 + random.IntN(4) {
			list = append(list, choices[random.IntN(len(choices))])
		}
		return list
	}
	for range 300 {
		key, owner, scope := some(), some(), some()
		d := NewDirectory(&Policy{Namespaces: []Namespace{{ID: "acme"}},
			Members: []Member{{ID: "ada", Active: true,
				Grants: []Grant{{Namespace: "acme", Permissions: owner}}}}})
		n := &Narrowing{Validity: Validity{expires: 2000}, scope: NewSet(scope...)}
		k := &Key{Owner: "ada", Active: true, Secrets: []Secret{{Digest: Digest{1}}},
			Grants: []Grant{{Namespace: "acme", Permissions: key}}}
		switch random.IntN(4) {
		case 0:
			k.Owner = RootMember
		case 1:
			n.scope, scope = nil, nil
		case 2:
			n, scope = nil, nil // the key's own token
		}
		r, ns := NewRecord(k, Digest{1}), d.Namespace("acme")
		left := r.Set(d, ns, n)
		decide := func(n2 Need) bool {
			return Decide(r, &Request{Policy: d, Namespace: ns, Need: n2, Narrowing: n}) == OK
		}
		for _, p := range permissions {
			list := allowed(p)
			may := !slices.ContainsFunc(list, func(n Need) bool { return !decide(n) })
			has := !slices.ContainsFunc(list, func(n Need) bool { return !left.Allows(n) })
			if may != has {
				t.Fatalf("key %v of %s %v, scope %v: %v may be used: %v, left: %s", key, k.Owner,
					owner, scope, p, may, left)
			}
		}
		for _, need := range needs {
			if left.Allows(need) && !decide(need) {
				t.Fatalf("key %v of %s %v, scope %v: %v is forbidden, left: %s", key, k.Owner,
					owner, scope, need, left)
			}
		}
	}
}

// FuzzParseDerived: an accepted token has only one form, and nothing panics.
func FuzzParseDerived(f *testing.F) {
	for _, v := range readDerivedVectors(f).Vectors {
		f.Add(v.JWT)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDerived(s)
		if (err == nil) && (len(s) > MaxDerivedLen || !IsDerived(s)) {
			t.Fatal(len(s))
		}
		signed, signature, ok := CutDerived(s)
		if err != nil {
			return
		}
		if !ok || signed+"."+signature != s || signed != d.Signed() {
			t.Fatal("CutDerived and ParseDerived split the token differently")
		}
		if base64.RawURLEncoding.EncodeToString(d.signature[:]) != signature {
			t.Fatal("the signature has two forms")
		}
		n := new(Narrowing)
		if !n.parse(new(segmentBuffer).decode(d.claims)) {
			return
		}
		if n.Validity != d.Validity || n.expires <= 0 || len(n.Note) > 4*maxNote ||
			n.Size() > 1<<18 {
			t.Fatal(n)
		}
		if !ContainsToken(s) {
			t.Fatal("it is not recognized as a token")
		}
	})
}

// TestAcceptsDerived: derived tokens are accepted if their token's prefix is accepted, or if it is
// known that another system's token has no accepted prefix.
func TestAcceptsDerived(t *testing.T) {
	foreign := ForeignPrefix("sk_live_0123456789", []string{"ak", "sk", "sk_test", "ak_live"})
	for _, test := range []struct {
		prefix, accepted string
		want             bool
	}{
		{"ak", "ak", true},
		{"ak", "new ak", true},
		{"ak", "new", false},
		{"ak", "ak_live", false},
		{"", "ak", false}, // unknown
		{foreign, "ak", true},
		{foreign, "ak sk_test", true},
		{foreign, "sk", false},
		{foreign, "ak sk", false},
		{foreign, "sk_live", false}, // it was not accepted then
		{foreign, "live", false},
		{ForeignPrefix("x", nil), "ak", false},
	} {
		if AcceptsDerived(test.prefix, strings.Fields(test.accepted)) != test.want {
			t.Errorf("%q with %s: not %v", test.prefix, test.accepted, test.want)
		}
		if want := test.prefix != "ak"; IsForeign(test.prefix) != want {
			t.Errorf("IsForeign(%q) is not %v", test.prefix, want)
		}
	}
	id := NewID()
	token := "ak_" + id + strings.Repeat("0", tokenBodyLen-TokenIDLen)
	prefixes := []string{"sk", "ak"}
	for s, want := range map[string]bool{token: true, token[1:]: false, "ak_" + token: false,
		"sk" + token[2:]: true, "ak-" + token[3:]: false, token + "0": false, token[3:]: false,
		token[2:]: false, id: false, "": false} {
		if NamesKey(s, prefixes, id) != want {
			t.Errorf("NamesKey(%q) is not %v", s, want)
		}
	}
	if NamesKey(token, prefixes, id[1:]) || NamesKey(token, prefixes, "") {
		t.Error("NamesKey of a part of the id")
	}
}

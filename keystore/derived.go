package keystore

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A derived token is a JWT (RFC 7519) in compact form that the holder of a key has signed with
// EdDSA (RFC 8037). Its key pair is derived from the key's token (docs/derived.md).
const (
	// MaxDerivedLen is the maximum length of a derived token in characters.
	MaxDerivedLen = 4096
	// DefaultDerivedLife is the maximum time for which a derived token can be valid, unless the
	// deployment configures another.
	DefaultDerivedLife = 24 * time.Hour

	derivedType      = "ak+jwt"
	derivedInfo      = "caddy-apikeys/derive/1"
	signatureLen     = 86 // of 64 bytes in base64url
	maxNote          = 200
	maxCaveats       = 100 // permissions, namespaces or addresses of one token
	maxNumericDigits = 11  // of exp and nbf
	maxClaims        = 6   // known names
	maxParameters    = 16  // of the header of any JWT
)

// ErrNotDerived means that a credential is not a derived token: it is not a JWT, or its type is
// another one.
var ErrNotDerived = errors.New("not a derived token")

// errDerived means that a derived token is malformed. Clients do not learn why.
var errDerived = errors.New("malformed derived token")

// A DerivedToken is a derived token whose header and times were checked. Verify checks the
// signature and the other claims.
type DerivedToken struct {
	Parent Digest // of the token that it was derived from
	Validity

	claims    string // in base64url
	signed    string // the text that the signature covers
	signature [ed25519.SignatureSize]byte
}

// A PublicKey verifies the tokens that were derived from one token. It does not reveal that token,
// but it confirms a guessed one, as a [Digest] does.
type PublicKey [ed25519.PublicKeySize]byte

// A DerivingKey is stored beside the digest of a token, so that nodes can verify the tokens that
// were derived from the token. The zero value means that no node has seen the token in plain text
// yet, or that no token can be derived from it.
type DerivingKey struct {
	Public PublicKey
	// Prefix is the prefix of the token, or a [ForeignPrefix] if another system created the token.
	Prefix string
}

// NewDerivingKey returns the deriving key of a token with a prefix. It returns the zero value for a
// token from which no others can be derived: in the FIPS 140-only mode of Go, one of fewer than 14
// characters. It takes some 20 µs.
func NewDerivingKey(token, prefix string) DerivingKey {
	private, err := privateKey(token)
	if err != nil {
		return DerivingKey{}
	}
	return DerivingKey{PublicKey(private.Public().(ed25519.PublicKey)), prefix}
}

// ForeignPrefix returns the text that replaces the prefix of a token that another system created.
// The beginning of such a token may be secret. So the text lists the accepted prefixes that the
// token does not have, each between spaces.
func ForeignPrefix(token string, accepted []string) string {
	list := " "
	for _, prefix := range accepted {
		if !HasTokenPrefix(token, prefix) {
			list += prefix + " "
		}
	}
	return list
}

// IsForeign reports whether the Prefix of a [DerivingKey] is a [ForeignPrefix].
func IsForeign(prefix string) bool { return prefix == "" || prefix[0] == ' ' }

// AcceptsDerived reports whether a deployment with these accepted prefixes accepts tokens that were
// derived from a token. prefix is the Prefix of its [DerivingKey]. It must be one of the accepted
// prefixes, or a [ForeignPrefix] that lists all of them: a token of another system may have an
// accepted prefix that is not listed.
func AcceptsDerived(prefix string, accepted []string) bool {
	if !IsForeign(prefix) {
		return slices.Contains(accepted, prefix)
	}
	return !slices.ContainsFunc(accepted,
		func(p string) bool { return !strings.Contains(prefix, " "+p+" ") })
}

// privateKey returns the key pair with which tokens are derived from a token. It fails if the
// process runs in the FIPS 140-only mode of Go and the token is too short for that mode.
func privateKey(token string) (ed25519.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, []byte(token), nil, derivedInfo, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// Derive derives a token from a key's token and restricts it by caveats. It needs no network. A
// server refuses the result if it expires later than the server allows.
func Derive(token string, c Caveats) (string, error) {
	token = TrimSecretToken(strings.TrimSpace(token))
	switch _, err := ParseDerived(token); {
	case !errors.Is(err, ErrNotDerived):
		return "", errors.New("this is a derived token: derive from the key's own token")
	case HasTokenPrefix(token, MemberPrefix):
		return "", errors.New("this is a member's token: derive from a key's token")
	case !PossibleCredential(token):
		return "", fmt.Errorf("a token must have %d to %d visible ASCII characters",
			MinCredentialLen, MaxCredentialLen)
	}
	var n Narrowing
	if err := n.set(c); err != nil {
		return "", err
	}
	claims := struct {
		Exp   int64          `json:"exp"`
		Nbf   int64          `json:"nbf,omitempty"`
		Scope string         `json:"scope,omitempty"`
		NS    []string       `json:"ns,omitempty"`
		IP    []netip.Prefix `json:"ip,omitempty"`
		Note  string         `json:"note,omitempty"`
	}{Exp: n.expires, Nbf: n.notBefore, Scope: strings.Join(c.Permissions, " "),
		NS: c.Namespaces, IP: c.AllowedIPs, Note: c.Note}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	private, err := privateKey(token)
	if err != nil {
		return "", err
	}
	digest := DigestOf(token)
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString([]byte(`{"alg":"EdDSA","typ":"`+derivedType+`","kid":"`+
		b64.EncodeToString(digest[:])+`"}`)) + "." + b64.EncodeToString(payload)
	derived := signed + "." +
		b64.EncodeToString(ed25519.Sign(private, []byte(signed)))
	if len(derived) > MaxDerivedLen {
		return "", fmt.Errorf("the derived token would have %d characters; at most %d are allowed",
			len(derived), MaxDerivedLen)
	}
	return derived, nil
}

// CutDerived splits a credential that may be a derived token into the signed text and the
// signature. It only looks at a few bytes.
func CutDerived(credential string) (signed, signature string, ok bool) {
	dot := len(credential) - signatureLen - 1
	if dot < 2 || credential[dot] != '.' || credential[:2] != "ey" { // {"
		return "", "", false
	}
	return credential[:dot], credential[dot+1:], true
}

// containsDerived reports whether s contains the claims and the signature of a derived token.
func containsDerived(s string) bool {
	for {
		dot := strings.Index(s, ".ey") // {"
		if dot < 0 {
			return false
		}
		s = s[dot+1:]
		rest := s[segmentLen(s):]
		if strings.HasPrefix(rest, ".") && segmentLen(rest[1:]) >= signatureLen {
			return true // text may follow the token directly
		}
	}
}

// segmentLen returns how many characters at the beginning of s are base64url.
func segmentLen(s string) int {
	for i := range len(s) {
		if !isBase62[s[i]] && s[i] != '-' && s[i] != '_' {
			return i
		}
	}
	return len(s)
}

// IsDerived reports whether a credential claims to be a derived token, even if it is malformed. It
// reads only the header.
func IsDerived(credential string) bool {
	header, _, dots := strings.Cut(credential, ".")
	return dots && hasDerivedType(header)
}

// DerivedParent returns the digest of the token that a derived token was derived from, and whether
// the credential is one. Anyone can write that digest into a forged token: only
// [DerivedToken.Verify] proves the derivation.
func DerivedParent(credential string) (parent Digest, ok bool) {
	t, err := ParseDerived(credential)
	if err != nil {
		return parent, false
	}
	return t.Parent, true
}

// ParseDerived checks the size and the header of a derived token and reads its times. It is cheap,
// because anyone can send forged tokens. The error is [ErrNotDerived] for a credential that does
// not have the type of derived tokens.
func ParseDerived(credential string) (*DerivedToken, error) {
	header, _, dots := strings.Cut(credential, ".")
	if !dots || !hasDerivedType(header) {
		return nil, ErrNotDerived
	}
	signed, signature, ok := CutDerived(credential)
	_, claims, _ := strings.Cut(signed, ".")
	// [ContainsToken] recognizes derived tokens by the beginning of their claims.
	if !ok || len(credential) > MaxDerivedLen || !strings.HasPrefix(claims, "ey") {
		return nil, errDerived
	}
	t := &DerivedToken{claims: claims, signed: signed}
	var buffer segmentBuffer
	if !t.readHeader(buffer.decode(header)) || !t.readTimes(buffer.decode(claims)) ||
		copy(t.signature[:], buffer.decode(signature)) != len(t.signature) {
		return nil, errDerived
	}
	return t, nil
}

// hasDerivedType reports whether the header of a JWT has the type of derived tokens. It is lenient,
// so that a malformed derived token is refused and never passed on as the token of another issuer.
// It reads only maxParameters, because anyone can send hundreds.
func hasDerivedType(header string) bool {
	var buffer segmentBuffer
	if len(header) > MaxDerivedLen {
		header = header[:MaxDerivedLen]
	}
	n, _ := base64.RawURLEncoding.Decode(buffer[:], readOnly(strings.TrimRight(header, "=")))
	rest := bytes.TrimSpace(buffer[:n])
	for range maxParameters {
		var name, value []byte
		var ok bool
		name, value, rest, ok = nextMember(rest)
		if !ok {
			return false
		}
		if !equalFold(plainText(name), "typ") {
			continue
		}
		value = plainText(value)
		if equalFold(value, derivedType) || equalFold(value, "application/"+derivedType) {
			return true
		}
	}
	return false
}

// equalFold is [strings.EqualFold] without an allocation.
func equalFold(text []byte, want string) bool { return bytes.EqualFold(text, readOnly(want)) }

// A segmentBuffer has room for any part of a derived token. It is used on the stack.
type segmentBuffer [MaxDerivedLen]byte

var strictBase64 = base64.RawURLEncoding.Strict()

// decode decodes one part of a JWT, or returns nil. Only the canonical encoding is decoded. The next
// call overwrites the result.
func (b *segmentBuffer) decode(s string) []byte {
	if len(s) > len(b) || strings.ContainsAny(s, "\r\n") { // Decode ignores them
		return nil
	}
	n, err := strictBase64.Decode(b[:], readOnly(s))
	if err != nil {
		return nil
	}
	return b[:n]
}

// readHeader refuses every parameter and form that it does not know (RFC 8725).
func (t *DerivedToken) readHeader(text []byte) bool {
	if !isObject(text) {
		return false
	}
	var alg, typ, kid bool
	for {
		var name, value []byte
		var ok bool
		name, value, text, ok = nextMember(text)
		if !ok {
			return alg && typ && kid
		}
		value = plainText(value)
		switch string(plainText(name)) {
		case "alg":
			if alg || string(value) != "EdDSA" {
				return false
			}
			alg = true
		case "typ":
			if typ || string(value) != derivedType {
				return false
			}
			typ = true
		case "kid":
			if kid || len(value) != 43 {
				return false
			}
			var digest [33]byte // Decode wants room for the last character
			n, err := strictBase64.Decode(digest[:], value)
			if err != nil || n != len(t.Parent) {
				return false
			}
			kid, t.Parent = true, Digest(digest[:])
		default:
			return false
		}
	}
}

// readTimes reads exp and nbf. It refuses a token with more than maxClaims claims. Verify checks
// everything else.
func (t *DerivedToken) readTimes(text []byte) bool {
	for claims := 0; claims <= maxClaims; claims++ {
		var name, value []byte
		var ok bool
		name, value, text, ok = nextMember(text)
		if !ok {
			return t.expires > 0
		}
		into := &t.expires
		switch string(plainText(name)) {
		case "exp":
		case "nbf":
			into = &t.notBefore
		default:
			continue
		}
		if *into, ok = numericDate(value); !ok {
			return false
		}
	}
	return false
}

// parse reads the claims of a derived token. It refuses every claim and form that it does not know.
func (n *Narrowing) parse(text []byte) bool {
	if !isObject(text) {
		return false
	}
	var c Caveats
	var seen []string
	for {
		var raw, value []byte
		var more bool
		if raw, value, text, more = nextMember(text); !more {
			return n.set(c) == nil
		}
		name := string(plainText(raw))
		if slices.Contains(seen, name) {
			return false
		}
		seen = append(seen, name)
		var seconds int64
		ok := false
		switch name {
		case "exp":
			seconds, ok = numericDate(value)
			c.ExpiresAt = time.Unix(seconds, 0)
		case "nbf":
			seconds, ok = numericDate(value)
			c.NotBefore = time.Unix(seconds, 0)
		case "scope":
			var scope string
			scope, ok = jsonText(value)
			c.Permissions = strings.Split(scope, " ")
		case "ns":
			c.Namespaces, ok = jsonTexts(value)
		case "ip":
			var ranges []string
			if ranges, ok = jsonTexts(value); ok {
				c.AllowedIPs, ok = parsePrefixes(ranges)
			}
		case "note":
			c.Note, ok = jsonText(value)
		}
		if !ok {
			return false
		}
	}
}

func parsePrefixes(ranges []string) ([]netip.Prefix, bool) {
	list := make([]netip.Prefix, len(ranges))
	for i, s := range ranges {
		var err error
		if list[i], err = netip.ParsePrefix(s); err != nil {
			return nil, false
		}
	}
	return list, true
}

// set checks caveats and sets n to them.
func (n *Narrowing) set(c Caveats) error {
	if c.ExpiresAt.Unix() <= 0 { // also the zero time
		return errors.New("a derived token must have an expiry time")
	}
	n.expires = c.ExpiresAt.Unix()
	n.notBefore = max(0, c.NotBefore.Unix()) // the zero time is before 1970
	for name, list := range map[string]int{"permissions": lengthOr1(c.Permissions),
		"namespaces": lengthOr1(c.Namespaces), "addresses": lengthOr1(c.AllowedIPs)} {
		if list < 1 || list > maxCaveats {
			return fmt.Errorf("%s must contain 1 to %d entries", name, maxCaveats)
		}
	}
	if c.Permissions != nil {
		permissions := make([]Permission, len(c.Permissions))
		for i, text := range c.Permissions {
			var err error
			if permissions[i], err = ParsePermission(text); err != nil {
				return err
			}
		}
		n.scope = NewSet(permissions...)
	}
	for _, id := range c.Namespaces {
		if !ValidNamespaceID(id) {
			return fmt.Errorf("%.100q is not the id of a namespace", id)
		}
	}
	n.namespaces = c.Namespaces
	if c.AllowedIPs != nil {
		n.AllowedIPs = make([]netip.Prefix, 0, len(c.AllowedIPs)) // no larger: it is kept
	}
	for _, p := range c.AllowedIPs {
		if !p.IsValid() {
			return errors.New("an address must be a CIDR range such as 10.0.0.0/8")
		}
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		n.AllowedIPs = append(n.AllowedIPs, p.Masked())
	}
	if _, hidden := HiddenIn(c.Note); hidden || utf8.RuneCountInString(c.Note) > maxNote ||
		strings.ContainsFunc(c.Note, unprintable) {
		return fmt.Errorf("a note must have at most %d printable characters", maxNote)
	}
	if ContainsToken(c.Note) {
		return errors.New("a note must not contain a token")
	}
	n.Note = c.Note
	return nil
}

// lengthOr1 returns the length of a list, and 1 for nil, which means no restriction.
func lengthOr1[T any](list []T) int {
	if list == nil {
		return 1
	}
	return len(list)
}

func unprintable(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }

// Signed returns the text that the signature covers. It does not contain the signature.
func (t *DerivedToken) Signed() string { return t.signed }

// Verify returns how the token narrows its key. It returns nil if the signature is not that of the
// key pair, or if a claim is invalid. It takes some 60 µs.
func (t *DerivedToken) Verify(p *PublicKey) *Narrowing {
	var buffer segmentBuffer
	n := new(Narrowing)
	if !ed25519.Verify(p[:], readOnly(t.signed), t.signature[:]) ||
		!n.parse(buffer.decode(t.claims)) {
		return nil
	}
	return n
}

// jsonText returns the text of a JSON string. It refuses null, which json.Unmarshal accepts, and
// half of a surrogate pair.
func jsonText(value []byte) (s string, ok bool) {
	if value[0] != '"' || json.Unmarshal(value, &s) != nil {
		return "", false
	}
	return s, !strings.ContainsRune(s, utf8.RuneError)
}

// jsonTexts returns the texts of a JSON array of strings. An empty array is not nil.
func jsonTexts(value []byte) ([]string, bool) {
	var list []json.RawMessage
	if value[0] != '[' || json.Unmarshal(value, &list) != nil || len(list) > maxCaveats {
		return nil, false
	}
	texts := make([]string, len(list))
	for i, one := range list {
		var ok bool
		if texts[i], ok = jsonText(one); !ok {
			return nil, false
		}
	}
	return texts, true
}

// numericDate returns a NumericDate (RFC 7519, section 2) in whole seconds.
func numericDate(value []byte) (seconds int64, ok bool) {
	if len(value) > maxNumericDigits {
		return 0, false
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
		seconds = 10*seconds + int64(c-'0')
	}
	return seconds, true
}

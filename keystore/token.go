package keystore

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"log/slog"
	"strings"
	"sync"
	"unsafe"
)

// Sizes of a token's parts, in characters: <prefix>_<id><secret><tag><check>.
const (
	// DefaultPrefix is the token prefix of a deployment that configures none.
	DefaultPrefix  = "ak"
	TokenIDLen     = 12
	tokenSecretLen = 32
	tokenTagLen    = 8
	tokenBodyLen   = TokenIDLen + tokenSecretLen + tokenTagLen + base62CRCLen
	maxPrefixLen   = 24

	// MemberPrefix marks the tokens of members; keys cannot have it.
	MemberPrefix = "akm"

	MinCredentialLen = 8
	MaxCredentialLen = 512
)

// ErrMalformed says that a string is not a token of ours: wrong alphabet, length or check.
var ErrMalformed = errors.New("not a well-formed API key token")

// A Digest is the SHA-256 of a whole credential: all that is stored of it.
type Digest [sha256.Size]byte

// DigestOf returns the digest of a credential. It does not allocate.
func DigestOf(credential string) Digest {
	// A conversion would copy: the compiler does not see that Sum256 leaves its argument as it is.
	return sha256.Sum256(unsafe.Slice(unsafe.StringData(credential), len(credential)))
}

// IsZero reports whether d is the zero value, which no credential has.
func (d Digest) IsZero() bool { return d == Digest{} }

// String is redacted: a digest identifies a token to whoever can guess it.
func (d Digest) String() string { return "sha256:…" }

// A Token is the secret a client sends. Its zero value is no token. All its printed forms are
// redacted; [Token.Reveal] is the one way to the secret.
type Token struct {
	text   string
	prefix int // length
}

// Reveal returns the token itself, for the one answer that shows it.
func (t Token) Reveal() string { return t.text }

// Prefix returns the part before the last underscore.
func (t Token) Prefix() string { return t.text[:t.prefix] }

// ID returns the public id of the key the token was made for.
func (t Token) ID() string { return t.text[t.prefix+1:][:TokenIDLen] }

// Digest returns what is stored of the token.
func (t Token) Digest() Digest { return DigestOf(t.text) }

// String returns the listed form, `<prefix>_<first 8 of id>…`.
func (t Token) String() string {
	if t.text == "" {
		return ""
	}
	return ListedPrefix(t.Prefix(), t.ID())
}

// GoString, LogValue, MarshalText and Format keep the secret out of %#v, slog and JSON.
func (t Token) GoString() string              { return "keystore.Token(" + t.String() + ")" }
func (t Token) LogValue() slog.Value          { return slog.StringValue(t.String()) }
func (t Token) MarshalText() ([]byte, error)  { return []byte(t.String()), nil }
func (t Token) Format(f fmt.State, verb rune) { _, _ = f.Write([]byte(t.String())) }

// ListedPrefix is how a key is shown: `<prefix>_<first 8 of id>…`.
func ListedPrefix(prefix, id string) string { return prefix + "_" + id[:min(8, len(id))] + "…" }

// ParseToken checks form and check digits, as anyone can do offline; [TokenKey.Verify] checks the
// tag. It accepts exactly what [Token.Reveal] returns.
func ParseToken(s string) (Token, error) {
	prefix := len(s) - tokenBodyLen - 1
	if prefix < 1 || s[prefix] != '_' || !ValidPrefix(s[:prefix]) {
		return Token{}, ErrMalformed
	}
	body := s[prefix+1:]
	if !base62Only(body) {
		return Token{}, ErrMalformed
	}
	var check [base62CRCLen]byte
	putCheck(check[:], s[:len(s)-base62CRCLen])
	if string(check[:]) != s[len(s)-base62CRCLen:] {
		return Token{}, ErrMalformed
	}
	return Token{text: s, prefix: prefix}, nil
}

// ContainsToken reports whether a token stands anywhere in s: one with right check digits, of this
// deployment or another.
func ContainsToken(s string) bool {
	for body := 0; ; {
		i := strings.IndexByte(s[body:], '_')
		if i < 0 || len(s)-body-i <= tokenBodyLen {
			return false
		}
		body += i + 1
		if !base62Only(s[body : body+tokenBodyLen]) {
			continue
		}
		for start := body - 2; start >= 0 && body-1-start <= maxPrefixLen; start-- {
			if _, err := ParseToken(s[start : body+tokenBodyLen]); err == nil {
				return true
			}
		}
	}
}

func base62Only(s string) bool {
	for i := range len(s) {
		if !isBase62[s[i]] {
			return false
		}
	}
	return true
}

// ValidPrefix reports whether p is `[a-z][a-z0-9]*(_[a-z0-9]+)*` of at most 24 characters.
func ValidPrefix(p string) bool {
	if p == "" || len(p) > maxPrefixLen || p[0] < 'a' || p[0] > 'z' || p[len(p)-1] == '_' {
		return false
	}
	for i := 1; i < len(p); i++ {
		c := p[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' && p[i-1] != '_') {
			return false
		}
	}
	return true
}

// HasTokenPrefix reports whether s starts with prefix and the underscore that ends it, whatever
// follows.
func HasTokenPrefix(s, prefix string) bool {
	return len(s) > len(prefix) && s[len(prefix)] == '_' && s[:len(prefix)] == prefix
}

// putCheck writes the CRC-32 (IEEE) of s in base62.
func putCheck(dst []byte, s string) {
	putBase62(dst, uint64(crc32.ChecksumIEEE([]byte(s))))
}

// A TokenKey signs tokens, so that a forged or mistyped one is refused without asking a store.
// It is safe for concurrent use.
type TokenKey struct {
	secret [32]byte
	macs   sync.Pool
}

// NewTokenKey returns the TokenKey of a 32-byte secret.
func NewTokenKey(secret [32]byte) *TokenKey {
	k := &TokenKey{secret: secret}
	k.macs.New = func() any { return &tagState{mac: hmac.New(sha256.New, k.secret[:])} }
	return k
}

// ParseTokenSecret reads the 64 hex digits of `token_key`. The error does not repeat them.
func ParseTokenSecret(s string) (secret [32]byte, err error) {
	if len(s) != hex.EncodedLen(len(secret)) {
		return secret, fmt.Errorf("a token key has 64 hex digits, this one has %d characters",
			len(s))
	}
	if _, err := hex.Decode(secret[:], []byte(s)); err != nil {
		return secret, errors.New("a token key has 64 hex digits, this one has other characters")
	}
	return secret, nil
}

// tagState keeps the buffers of one tag computation from being allocated each time.
type tagState struct {
	mac hash.Hash
	sum [sha256.Size]byte
	in  [maxPrefixLen + 1 + TokenIDLen + tokenSecretLen]byte
}

// putTag writes the tag over signed: HMAC-SHA-256, its first 8 bytes as a big-endian number, modulo
// 62^8, in base62.
func (k *TokenKey) putTag(dst []byte, signed string) {
	st := k.macs.Get().(*tagState)
	defer k.macs.Put(st)
	st.mac.Reset()
	st.mac.Write(st.in[:copy(st.in[:], signed)])
	sum := st.mac.Sum(st.sum[:0])
	putBase62(dst, binary.BigEndian.Uint64(sum)%base62TagSpace)
}

// Verify reports whether the tag of t was made with this key.
func (k *TokenKey) Verify(t Token) bool {
	if t.text == "" {
		return false
	}
	signed := len(t.text) - tokenTagLen - base62CRCLen
	var tag [tokenTagLen]byte
	k.putTag(tag[:], t.text[:signed])
	return hmac.Equal(tag[:], []byte(t.text[signed:][:tokenTagLen]))
}

// Generate makes a new token with a fresh secret. id is the key's: see [NewID].
func (k *TokenKey) Generate(prefix, id string) Token {
	return k.seal(prefix, id, RandomBase62(tokenSecretLen))
}

func (k *TokenKey) seal(prefix, id, secret string) Token {
	var b strings.Builder
	b.Grow(len(prefix) + 1 + tokenBodyLen)
	b.WriteString(prefix)
	b.WriteByte('_')
	b.WriteString(id)
	b.WriteString(secret)
	var tag [tokenTagLen]byte
	k.putTag(tag[:], b.String())
	b.Write(tag[:])
	var check [base62CRCLen]byte
	putCheck(check[:], b.String())
	b.Write(check[:])
	return Token{text: b.String(), prefix: len(prefix)}
}

// NewID returns a new public key id: 12 random base62 characters (71 bits).
func NewID() string { return RandomBase62(TokenIDLen) }

// randomBase62 returns n uniformly random characters from the system's generator.
func RandomBase62(n int) string {
	out := make([]byte, 0, n)
	var buf [64]byte
	for len(out) < n {
		_, _ = rand.Read(buf[:]) // never fails: crypto/rand
		for _, b := range buf {
			if b < 248 && len(out) < n { // 4·62; the rest would favour the first letters
				out = append(out, base62Alphabet[b%62])
			}
		}
	}
	return string(out)
}

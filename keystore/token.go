package keystore

import (
	"crypto/aes"
	"crypto/cipher"
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
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// A token is <prefix>_<id><secret><tag><check> (docs/api_key.md, rule 6). Lengths are in
// characters.
const (
	// DefaultPrefix is the token prefix of a deployment that configures none.
	DefaultPrefix = "ak"
	// TokenIDLen is the length of a key's id.
	TokenIDLen     = 12
	tokenSecretLen = 32
	tokenTagLen    = 8
	tokenBodyLen   = TokenIDLen + tokenSecretLen + tokenTagLen + base62CRCLen
	maxPrefixLen   = 24

	// MemberPrefix is the prefix of members' tokens. Tokens of keys cannot have it.
	MemberPrefix = "akm"

	// MinCredentialLen and MaxCredentialLen are the limits for tokens and imported credentials.
	MinCredentialLen = 8
	MaxCredentialLen = 512
)

// ErrMalformed means that a string is not a token: its alphabet, length or check digits are wrong.
var ErrMalformed = errors.New("not a well-formed API key token")

// A Digest is the SHA-256 of a whole credential. Databases store it instead of the credential.
type Digest [sha256.Size]byte

// DigestOf returns the digest of a credential. It does not allocate.
func DigestOf(credential string) Digest { return sha256.Sum256(readOnly(credential)) }

// readOnly returns the bytes of s for functions that only read them. A conversion would copy,
// because the compiler cannot know that they do not write.
func readOnly(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s)) //nolint:gosec // only read
}

// IsZero reports whether d is the zero value, which is the digest of no credential.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns a redacted form, because a digest confirms a guessed token.
func (d Digest) String() string { return "sha256:…" }

// A Token is the secret that a client sends. The zero value is not a token. All printed forms are
// redacted. Only [Token.Reveal] returns the secret.
type Token struct {
	text   string
	prefix int // its length
}

// Reveal returns the token itself, for the one response that shows it.
func (t Token) Reveal() string { return t.text }

// Prefix returns the part before the last underscore.
func (t Token) Prefix() string { return t.text[:t.prefix] }

// ID returns the public id of the token's key.
func (t Token) ID() string { return t.text[t.prefix+1:][:TokenIDLen] }

// Digest returns the digest of the token, under which it is stored.
func (t Token) Digest() Digest { return DigestOf(t.text) }

// String returns the listed form: see [ListedPrefix].
func (t Token) String() string {
	if t.text == "" {
		return ""
	}
	return ListedPrefix(t.Prefix(), t.ID())
}

// GoString implements [fmt.GoStringer] with the listed form.
func (t Token) GoString() string { return "keystore.Token(" + t.String() + ")" }

// LogValue implements [slog.LogValuer] with the listed form.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText implements [encoding.TextMarshaler] with the listed form.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Format implements [fmt.Formatter] with the listed form for every verb.
func (t Token) Format(f fmt.State, verb rune) { _, _ = f.Write([]byte(t.String())) }

// ListedPrefix returns the form of a key in lists: `<prefix>_<first 8 characters of the id>…`.
func ListedPrefix(prefix, id string) string { return prefix + "_" + id[:min(8, len(id))] + "…" }

// ParseToken parses the text that [Token.Reveal] returns. It verifies the form and the check
// digits, which requires no secret. [TokenKey.Verify] verifies the tag.
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

// TokenPattern returns a regular expression (RE2) for the tokens with these prefixes. It does not
// look at the characters around a token.
func TokenPattern(prefixes []string) string {
	return fmt.Sprintf("(?:%s)_[0-9A-Za-z]{%d}", strings.Join(prefixes, "|"), tokenBodyLen)
}

// ContainsToken reports whether s contains a well-formed token of this or any other deployment, or
// something shaped like a derived token. It takes linear time.
func ContainsToken(s string) bool {
	if containsDerived(s) {
		return true
	}
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

// ValidPrefix reports whether p is `[a-z][a-z0-9]*(_[a-z0-9]+)*` and has at most 24 characters.
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

// HasTokenPrefix reports whether s begins with prefix and an underscore.
func HasTokenPrefix(s, prefix string) bool {
	return len(s) > len(prefix) && s[len(prefix)] == '_' && s[:len(prefix)] == prefix
}

// NamesKey reports whether s has the length, the id and one of the prefixes of a token that was
// created for a key.
func NamesKey(s string, prefixes []string, id string) bool {
	prefix := len(s) - tokenBodyLen - 1
	return prefix > 0 && len(id) == TokenIDLen && s[prefix] == '_' &&
		s[prefix+1:][:TokenIDLen] == id && slices.Contains(prefixes, s[:prefix])
}

// putCheck writes the CRC-32 (IEEE) of s in base62.
func putCheck(dst []byte, s string) {
	putBase62(dst, uint64(crc32.ChecksumIEEE(readOnly(s))))
}

// A TokenKey signs tokens, so that a node refuses a forged or mistyped one without a database
// query. It is safe for concurrent use.
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

// AEAD returns a cipher under a key that is derived from k for one purpose, which must contain a
// space. Any node with the same token key can open a sealed text. The nonces are random
// and part of the sealed text.
func (k *TokenKey) AEAD(purpose string) cipher.AEAD {
	mac := hmac.New(sha256.New, k.secret[:])
	mac.Write([]byte(purpose)) // the space tells it from the text of a token: see putTag
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	sealing, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES has the block size of GCM
	}
	return sealing
}

// ParseTokenSecret parses the 64 hex digits of `token_key`. Errors do not contain any of them.
func ParseTokenSecret(s string) (secret [32]byte, err error) {
	if len(s) != hex.EncodedLen(len(secret)) {
		return secret, fmt.Errorf("a token key must be 64 hex digits; this one has %d characters",
			len(s))
	}
	if _, err := hex.Decode(secret[:], []byte(s)); err != nil {
		return secret, errors.New("a token key must be 64 hex digits; this one has other " +
			"characters")
	}
	return secret, nil
}

// tagState holds the reusable buffers of one tag computation.
type tagState struct {
	mac hash.Hash
	sum [sha256.Size]byte
	in  [maxPrefixLen + 1 + TokenIDLen + tokenSecretLen]byte
}

// putTag writes the tag of signed to dst: the first 8 bytes of its HMAC-SHA-256, as a big-endian
// number modulo 62^8, in base62.
func (k *TokenKey) putTag(dst []byte, signed string) {
	st := k.macs.Get().(*tagState)
	defer k.macs.Put(st)
	st.mac.Reset()
	st.mac.Write(st.in[:copy(st.in[:], signed)])
	sum := st.mac.Sum(st.sum[:0])
	putBase62(dst, binary.BigEndian.Uint64(sum)%base62TagSpace)
}

// Verify reports whether this key created the tag of t.
func (k *TokenKey) Verify(t Token) bool {
	if t.text == "" {
		return false
	}
	signed := len(t.text) - tokenTagLen - base62CRCLen
	var tag [tokenTagLen]byte
	k.putTag(tag[:], t.text[:signed])
	return hmac.Equal(tag[:], []byte(t.text[signed:][:tokenTagLen]))
}

// Generate returns a new token with a random secret. id is the id of its key: see [NewID].
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

// RandomBase62 returns n uniformly random characters from the system's generator.
func RandomBase62(n int) string {
	out := make([]byte, 0, n)
	var buf [64]byte
	for len(out) < n {
		_, _ = rand.Read(buf[:]) // crypto/rand never fails
		for _, b := range buf {
			if b < 248 && len(out) < n { // 4·62; the rest would favor the first digits
				out = append(out, base62Alphabet[b%62])
			}
		}
	}
	return string(out)
}

package manage

import (
	"encoding/hex"
	"strings"
	"unicode"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// cleaned returns the report as it is stored: shortened, without invisible characters, and without
// anything that may be a token.
func (r LeakReport) cleaned(token string) LeakReport {
	secret := newSecretText(token)
	clean := func(s string, most int) string {
		s = visible(s)
		if secret.mayBeIn(s) {
			return "(withheld, because it contains a token)"
		}
		return keystore.Truncate(s, most)
	}
	return LeakReport{URL: clean(r.URL, maxLeakURL), Source: clean(r.Source, maxLeakText),
		Type: clean(r.Type, maxLeakText)}
}

// visible returns a text without control characters and other invisible ones.
func visible(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) || unicode.In(c, unicode.Other_Default_Ignorable_Code_Point,
			unicode.Variation_Selector) {
			return -1
		}
		return c
	}, strings.ToValidUTF8(s, ""))
}

const (
	// A text that shares secretPart consecutive letters and digits with a token is withheld. From
	// fewer, nobody can guess the rest of the token.
	secretPart = 12
	// maxDecodings is how often a text is decoded. A text that changes each time is withheld.
	maxDecodings = 5
)

// A secretText finds a token in texts. It compares only letters and digits, because URLs, line
// breaks and editors change the other characters.
type secretText struct {
	length int             // of a part
	parts  map[string]bool // every part of the token
}

func newSecretText(token string) secretText {
	plain := alphanumeric(token)
	t := secretText{min(secretPart, len(plain)), make(map[string]bool)}
	for i := range len(plain) - t.length + 1 {
		t.parts[plain[i:i+t.length]] = true
	}
	return t
}

// mayBeIn reports whether a text contains a part of the token, or any token.
func (t secretText) mayBeIn(s string) bool {
	for range maxDecodings {
		plain := alphanumeric(s)
		for i := 0; t.length > 0 && i+t.length <= len(plain); i++ {
			if t.parts[plain[i:i+t.length]] {
				return true
			}
		}
		if keystore.ContainsToken(s) {
			return true
		}
		decoded := visible(percentDecoded(s))
		if decoded == s {
			return false
		}
		s = decoded
	}
	return true
}

func alphanumeric(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			return c
		}
		return -1
	}, s)
}

// percentDecoded decodes percent-encoding (RFC 3986 §2.1). It leaves invalid escapes unchanged.
func percentDecoded(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.Write(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

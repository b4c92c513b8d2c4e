package redact

import (
	"bytes"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

// signatureLen is the length of the signature of a derived token (docs/derived.md).
const signatureLen = 86

// inJWT are the characters of the parts of a JWT.
var inJWT = func() (in [256]bool) {
	for c := range in {
		in[c] = ascii.IsAlphanumeric(byte(c)) || c == '-' || c == '_'
	}
	return in
}()

// redactDerived replaces the signature of everything in text that is shaped like a derived token. It
// works in place and returns the shorter text. The claims stay: without the signature they are no
// credential. To be fast, it examines only every 87th byte and the words that contain one of them.
func redactDerived(text []byte) []byte {
	var out []byte // as in redactTokens
	copied := 0
	for i := signatureLen - 1; i < len(text); i += signatureLen {
		if !inJWT[text[i]] {
			continue
		}
		start, end := word(text, i)
		i = end
		if end-start != signatureLen || !followsClaims(text[copied:start]) {
			continue
		}
		if out == nil {
			out = text[:0]
		}
		out = append(out, text[copied:start]...)
		out = append(out, Replacement...)
		copied = end
	}
	if out == nil {
		return text
	}
	return append(out, text[copied:]...)
}

// word returns the beginning and end of the characters of a JWT around text[i].
func word(text []byte, i int) (start, end int) {
	for start = i; start > 0 && inJWT[text[start-1]]; start-- {
	}
	for end = i + 1; end < len(text) && inJWT[text[end]]; end++ {
	}
	return start, end
}

// followsClaims reports whether a text ends with the header and the claims of a JWT and a dot.
func followsClaims(text []byte) bool {
	dot := len(text) - 1
	if dot < 1 || text[dot] != '.' || !inJWT[text[dot-1]] {
		return false
	}
	claims, _ := word(text[:dot], dot-1)
	if claims < 2 || text[claims-1] != '.' || !inJWT[text[claims-2]] {
		return false
	}
	header, _ := word(text[:claims-1], claims-2)
	return bytes.Contains(text[header:claims-1], []byte("ey")) // {"
}

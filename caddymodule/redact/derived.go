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

// mayContainDerived is a fast check that is false for words without a dot, such as long base64.
func mayContainDerived(word []byte) bool {
	return bytes.IndexByte(word, '.') >= 0 || bytes.IndexByte(word, '%') >= 0 ||
		bytes.IndexByte(word, '\\') >= 0
}

// findDerived returns the beginning and end of the first derived token in word, or len(word) twice
// if there is none. It recognizes a token by its claims and its signature, as
// keystore.ContainsToken does. The result includes adjacent characters that could belong to a JWT.
func findDerived(word []byte) (from, to int) {
	// The current part of a JWT: where it begins, its length without escapes, and its first two
	// characters.
	part, length := 0, 0
	var begin [2]byte
	// Where the previous part begins, or -1 if no dot ends it; and where the header begins, or -1
	// if the previous part cannot be claims.
	previous, header := -1, -1
	from, to = -1, len(word)
	for i := 0; ; {
		c, next := byte(0), i
		if i < len(word) {
			c, next, _ = decodeByte(word, i)
		}
		if inJWT[c] {
			if length < len(begin) {
				begin[length] = c
			}
			length++
			i = next
			continue
		}
		switch {
		case header >= 0 && length >= signatureLen:
			if from < 0 {
				from = header
			}
			to = i // so far: this may be the claims of a token that follows a word and a dot
		case from >= 0:
			return from, to
		}
		if i == len(word) {
			break
		}
		header = -1
		if c == '.' && length >= len(begin) && begin == [2]byte{'e', 'y'} { // {"
			header = previous
		}
		previous = -1
		if c == '.' {
			previous = part
		}
		part, length, i = next, 0, next
	}
	if from < 0 {
		from = to
	}
	return from, to
}

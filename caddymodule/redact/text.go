package redact

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

// Replacement is written in place of a secret. Caddy's own encoders use the same word.
const Replacement = "REDACTED"

// redactParams replaces the values of the declared query parameters and cookies in text. It finds
// every name=value, in a URL, a bare query string or a sentence. The name, the = or both may be
// percent-encoded, any number of times over.
//
// A value ends only at a character that it cannot contain. The value of a query parameter therefore
// includes quotes and brackets: it is better to remove too much than to leave a part of a
// credential.
func (s *sourceSet) redactParams(text string) string {
	if !s.mayContainParam(text) {
		return text
	}
	var out strings.Builder
	copied, name := 0, 0 // how much of text is in out; where the current name begins
	for i := 0; i < len(text); {
		c, next, level := decodeByte(text, i)
		if c == '=' {
			if p := s.param(text[name:i]); p != nil {
				out.WriteString(text[copied:next])
				out.WriteString(Replacement)
				next = p.valueEnd(text, next, level)
				copied = next
			}
		}
		if separators[c] {
			name = next
		}
		i = next
	}
	if copied == 0 {
		return text
	}
	out.WriteString(text[copied:])
	return out.String()
}

// mayContainParam is a fast check that is false for nearly all texts without a declared parameter.
func (s *sourceSet) mayContainParam(text string) bool {
	if len(s.params) == 0 {
		return false
	}
	for i := range len(text) { // for short texts, this is faster than three calls of IndexByte
		switch text[i] {
		case '%', '\\':
			return true
		case '=':
			if i > 0 && s.lastBytes[text[i-1]] {
				return true
			}
		}
	}
	return false
}

// param returns the declared parameter with a name as written in a text, or nil.
func (s *sourceSet) param(encoded string) *param {
	for i := range s.params {
		if p := &s.params[i]; equalEncoded(encoded, p.name) || equalEncoded(encoded, p.tail) {
			return p
		}
	}
	return nil
}

// equalEncoded reports whether encoded, as written in a text, stands for name. It ignores case: a
// client that sends the name in the wrong case has still sent its key.
func equalEncoded(encoded, name string) bool {
	n := 0
	for i := 0; i < len(encoded); n++ {
		c, next, _ := decodeByte(encoded, i)
		if n == len(name) || ascii.Lower(c) != ascii.Lower(name[n]) &&
			!(c == '+' && name[n] == ' ') {
			return false
		}
		i = next
	}
	return n == len(name)
}

// valueEnd returns the end of the value that begins at i. level is how many times the = before it
// is percent-encoded. A delimiter that is encoded more often than that belongs to the value.
func (p *param) valueEnd(text string, i, level int) int {
	for i < len(text) {
		c, next, l := text[i], i+1, 0
		if c == '%' {
			c, next, l = decodeByte(text, i)
		}
		if l <= level && (c <= ' ' || c == 0x7f || !p.cookie && (c == '&' || c == '#') ||
			!p.query && c == ';') {
			return i
		}
		i = next
	}
	return i
}

// redactTree redacts a value that encoding/json has decoded, in place, and reports whether it
// changed anything.
func (s *sourceSet) redactTree(tree any) (any, bool) {
	changed := false
	switch v := tree.(type) {
	case string:
		text := s.redactParams(v)
		return text, text != v
	case []any:
		for i := range v {
			item, c := s.redactTree(v[i])
			v[i], changed = item, changed || c
		}
	case map[string]any:
		for key := range v {
			if s.isHeader(key) {
				v[key], changed = redactedLike(v[key]), true
				continue
			}
			item, c := s.redactTree(v[key])
			v[key], changed = item, changed || c
		}
	}
	return tree, changed
}

// redactedLike returns the replacement for v. A list stays a list, because log indexes expect one
// type per field.
func redactedLike(v any) any {
	if _, ok := v.([]any); ok {
		return []any{Replacement}
	}
	return Replacement
}

// redactReflected redacts a value through its JSON encoding. It returns value itself if there is
// nothing to redact, which preserves the order of its fields.
func (s *sourceSet) redactReflected(value any) (any, error) {
	if values, ok := value.(url.Values); ok {
		value = s.redactValues(values)
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber()
	var tree any
	if err := decoder.Decode(&tree); err != nil {
		return nil, err
	}
	if tree, changed := s.redactTree(tree); changed {
		return tree, nil
	}
	return value, nil
}

func (s *sourceSet) redactValues(values url.Values) url.Values {
	out := make(url.Values, len(values))
	for name, list := range values {
		if s.param(name) != nil {
			list = []string{Replacement}
		}
		out[name] = list
	}
	return out
}

// tokenBody is the number of base62 characters after the last underscore of a token: id 12, secret
// 32, tag 8, check 6 (docs/api_key.md, rule 6).
const tokenBody = 58

// inToken are the bytes that a token and a derived token can consist of, percent-encoded or not.
var inToken = func() (in [256]bool) {
	for c := range in {
		in[c] = inJWT[c] || strings.IndexByte(`.%\`, byte(c)) >= 0
	}
	return in
}()

// redactTokens replaces the body of everything in text that is shaped like a token, and everything
// that is shaped like a derived token. It works in place and returns the shorter text. The prefix of
// a token stays: it is not secret, and its beginning is ambiguous in escaped text (in `\nak_…` the n
// is not part of it). To be fast, it examines only every 59th byte and the words that contain one of
// them.
func redactTokens(text []byte) []byte {
	const shortest = len("_") + tokenBody
	r := redaction{text: text}
	for i, last := shortest-1, 0; i < len(text); i += shortest {
		if !inToken[text[i]] {
			continue
		}
		start, end := i, i+1
		for start > last && inToken[text[start-1]] {
			start--
		}
		for end < len(text) && inToken[text[end]] {
			end++
		}
		i, last = end, end
		if end-start < shortest {
			continue
		}
		derived := mayContainDerived(text[start:end]) // once, because it reads the whole word
		for start < end {
			from, to := end-start, end-start
			if derived {
				from, to = findDerived(text[start:end])
			}
			r.replaceBodies(start, start+from)
			r.replace(start+from, start+to)
			start += to
		}
	}
	return r.result()
}

// A redaction replaces parts of a text in place, from its beginning to its end.
type redaction struct {
	text   []byte
	out    []byte // the redacted text so far, in the memory of text; nil if nothing was redacted
	copied int    // how much of text is in out
}

func (r *redaction) replace(from, to int) {
	if from == to {
		return
	}
	if r.out == nil {
		r.out = r.text[:0]
	}
	r.out = append(append(r.out, r.text[r.copied:from]...), Replacement...)
	r.copied = to
}

func (r *redaction) replaceBodies(start, end int) {
	for {
		from, to := findBody(r.text[start:end])
		if from < 0 {
			return
		}
		r.replace(start+from, start+to)
		start += to
	}
}

func (r *redaction) result() []byte {
	if r.out == nil {
		return r.text
	}
	return append(r.out, r.text[r.copied:]...)
}

// findBody returns the beginning and end of the first token body in word: 58 base62 characters
// after an underscore. from is negative if there is none. A longer run of base62 characters counts
// too, as in two tokens pasted together, unless it could be a hexadecimal digest.
func findBody(word []byte) (from, to int) {
	from = -1
	count, hexadecimal := 0, true
	for i := 0; ; {
		c, next := byte(0), i
		if i < len(word) {
			c, next, _ = decodeByte(word, i)
		}
		if ascii.IsAlphanumeric(c) {
			count++
			hexadecimal = hexadecimal && ascii.IsHex(c)
			i = next
			continue
		}
		if from >= 0 && (count == tokenBody || count > tokenBody && !hexadecimal) {
			return from, i
		}
		if i == len(word) {
			return -1, -1
		}
		from, count, hexadecimal = -1, 0, true
		if c == '_' {
			from = next
		}
		i = next
	}
}

// decodeByte returns the byte that begins at text[i] and where the next one begins. The byte may be
// percent-encoded, level times over (%26, %2526), or escaped with backslashes as in JSON (\u0026,
// \n). For a short escape such as \n, and for \u with a code point above ff, it returns the
// backslash, which is a separator too. An invalid escape is not decoded: its first byte stands for
// itself.
func decodeByte[T string | []byte](text T, i int) (c byte, next, level int) {
	c, next = text[i], i+1
	switch c {
	case '%':
		at := next
		for at+4 <= len(text) && text[at] == '2' && text[at+1] == '5' && ascii.IsHex(text[at+2]) &&
			ascii.IsHex(text[at+3]) {
			at, level = at+2, level+1
		}
		if at+2 <= len(text) && ascii.IsHex(text[at]) && ascii.IsHex(text[at+1]) {
			return ascii.Unhex(text[at])<<4 | ascii.Unhex(text[at+1]), at + 2, level + 1
		}
		return c, next, 0
	case '\\':
		for next < len(text) && text[next] == '\\' { // JSON in JSON
			next++
		}
		if next == len(text) {
			return c, next, 0
		}
		switch text[next] {
		case 'u':
			if next+5 <= len(text) && ascii.IsHex(text[next+1]) && ascii.IsHex(text[next+2]) &&
				ascii.IsHex(text[next+3]) && ascii.IsHex(text[next+4]) {
				if text[next+1] == '0' && text[next+2] == '0' {
					c = ascii.Unhex(text[next+3])<<4 | ascii.Unhex(text[next+4])
				}
				return c, next + 5, 0
			}
		case 'n', 't', 'r', 'b', 'f', '"', '/':
			return c, next + 1, 0
		}
	}
	return c, next, 0
}

package keystore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// isObject reports whether text is exactly one valid JSON object in UTF-8.
func isObject(text []byte) bool {
	return len(text) > 0 && text[0] == '{' && utf8.Valid(text) && json.Valid(text)
}

// nextMember splits a JSON object (RFC 8259), or the rest that an earlier call returned, after its
// first member. It returns the name in quotes and the value. It does not allocate. If [isObject]
// refuses the text, it finds only some members or none.
func nextMember(text []byte) (name, value, rest []byte, ok bool) {
	first := byte(',')
	if bytes.HasPrefix(text, []byte("{")) {
		first = '{'
	}
	text, ok = after(text, first)
	if !ok || len(text) == 0 || text[0] != '"' {
		return nil, nil, nil, false
	}
	end := stringEnd(text)
	name = text[:end]
	if text, ok = after(text[end:], ':'); !ok {
		return nil, nil, nil, false
	}
	end = valueEnd(text)
	value = bytes.TrimRight(text[:end], jsonSpace)
	return name, value, text[end:], len(value) > 0
}

const jsonSpace = " \t\r\n"

// after returns what follows a character at the beginning of text, without white space around it.
func after(text []byte, c byte) (rest []byte, ok bool) {
	text = bytes.TrimLeft(text, jsonSpace)
	if len(text) == 0 || text[0] != c {
		return nil, false
	}
	return bytes.TrimLeft(text[1:], jsonSpace), true
}

// stringEnd returns where the JSON string at the beginning of text ends.
func stringEnd(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// valueEnd returns where the value at the beginning of text ends: at a comma or a bracket.
func valueEnd(text []byte) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i += stringEnd(text[i:]) - 1
		case '[', '{':
			depth++
		case ']', '}':
			if depth == 0 {
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return len(text)
}

// plainText returns the text of a JSON string. It returns nil if value is not a string, or has an
// escape for a character outside ASCII: no text that it is compared with contains one. It decodes
// the escapes in place, and so can be called only once. It does not allocate, because anyone can
// send a thousand escapes.
func plainText(value []byte) []byte {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return nil
	}
	value = value[1 : len(value)-1]
	if bytes.IndexByte(value, '\\') < 0 {
		return value
	}
	text := value[:0]
	for len(value) > 0 {
		c, length := value[0], 1
		if c == '\\' {
			if c, length = unescape(value); length == 0 {
				return nil
			}
		}
		text, value = append(text, c), value[length:]
	}
	return text
}

// unescape returns the ASCII character that the escape at the beginning of s stands for, and the
// length of the escape, which is 0 if there is none.
func unescape(s []byte) (c byte, length int) {
	if len(s) >= 6 && s[1] == 'u' {
		var b [2]byte
		if _, err := hex.Decode(b[:], s[2:6]); err != nil || b[0] != 0 || b[1] >= utf8.RuneSelf {
			return 0, 0
		}
		return b[1], 6
	}
	if len(s) < 2 {
		return 0, 0
	}
	i := strings.IndexByte(`"\/bfnrt`, s[1])
	if i < 0 {
		return 0, 0
	}
	return "\"\\/\b\f\n\r\t"[i], 2
}

package keystore

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// isObject reports whether text is exactly one valid JSON object in UTF-8.
func isObject(text []byte) bool {
	return len(text) > 0 && text[0] == '{' && utf8.Valid(text) && json.Valid(text)
}

// nextMember splits a JSON object (RFC 8259), or what a former call has left of one, after its first
// member: the name in quotes, and the value. It does not allocate. Of a text that [isObject] refuses,
// it finds some members or none.
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

// plainText returns the text of a JSON string, or nil if value is none.
func plainText(value []byte) []byte {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return nil
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1]
	}
	var s string
	if json.Unmarshal(bytes.Clone(value), &s) != nil { // a copy, so that value can be on the stack
		return nil
	}
	return []byte(s)
}

// Package ascii converts and classifies ASCII bytes. Its functions do not change other bytes, so
// UTF-8 text stays valid. The packages under caddymodule use it for patterns, header names and log
// fields. It imports nothing.
package ascii

// Lower returns c in lower case.
func Lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// Upper returns c in upper case.
func Upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - ('a' - 'A')
	}
	return c
}

// ToLower returns s in lower case.
func ToLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		b[i] = Lower(c)
	}
	return string(b)
}

// IsAlphanumeric reports whether c is a letter or a digit. These are also the base62 digits.
func IsAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// IsHex reports whether c is a hexadecimal digit of either case.
func IsHex(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' || 'a' <= c && c <= 'f'
}

// Unhex returns the value of the hexadecimal digit c. IsHex(c) must be true.
func Unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return Lower(c) - 'a' + 10
}

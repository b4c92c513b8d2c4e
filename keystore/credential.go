package keystore

import "strings"

// possible reports whether s can be a credential at all, ours or imported: 8 to 512 visible ASCII
// characters (spec section 2).
func PossibleCredential(s string) bool {
	if len(s) < MinCredentialLen || len(s) > MaxCredentialLen {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// TrimSecretToken drops the URI scheme of RFC 8959, `secret-token:`, from before a credential; the
// case of a scheme does not matter (RFC 3986 §3.1).
func TrimSecretToken(credential string) string {
	const scheme = "secret-token:"
	if len(credential) >= len(scheme) && strings.EqualFold(credential[:len(scheme)], scheme) {
		return credential[len(scheme):]
	}
	return credential
}

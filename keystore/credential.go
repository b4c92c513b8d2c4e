package keystore

import "strings"

// PossibleCredential reports whether s has the form of a credential, imported or not: 8 to 512
// visible ASCII characters (docs/api_key.md, rule 6).
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

// TrimSecretToken removes the URI scheme `secret-token:` (RFC 8959) before a credential. The case
// of a scheme does not matter (RFC 3986, section 3.1).
func TrimSecretToken(credential string) string {
	const scheme = "secret-token:"
	if len(credential) >= len(scheme) && strings.EqualFold(credential[:len(scheme)], scheme) {
		return credential[len(scheme):]
	}
	return credential
}

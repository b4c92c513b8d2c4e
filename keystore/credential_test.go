package keystore

import (
	"strings"
	"testing"
)

func TestPossibleCredential(t *testing.T) {
	for credential, want := range map[string]bool{
		strings.Repeat("a", MinCredentialLen): true, strings.Repeat("a", MinCredentialLen-1): false,
		strings.Repeat("a", MaxCredentialLen): true, strings.Repeat("a", MaxCredentialLen+1): false,
		"!~!~!~!~": true, "12345678 ": false, " 12345678": false, "1234\t5678": false,
		"12345678\x7f": false, "1234567é": false, "": false,
	} {
		if got := PossibleCredential(credential); got != want {
			t.Errorf("%q: %v", credential, got)
		}
	}
}

func TestTrimSecretToken(t *testing.T) {
	for credential, want := range map[string]string{
		"secret-token:ak_x": "ak_x", "Secret-TOKEN:ak_x": "ak_x", "secret-token:": "",
		"secret-token:secret-token:x": "secret-token:x", // only once
		"ak_x":                        "ak_x", "secret-token": "secret-token", "": "",
		"another-kind:ak_x": "another-kind:ak_x",
	} {
		if got := TrimSecretToken(credential); got != want {
			t.Errorf("%q: %q, want %q", credential, got, want)
		}
	}
}

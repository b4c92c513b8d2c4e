package redact

import (
	"strings"
	"testing"
)

func TestRedactDerived(t *testing.T) {
	claims := "eyJhbGciOiJFZERTQSJ9.eyJleHAiOjF9."
	signature := strings.Repeat("a-_Z9", 17) + "g"
	if len(signature) != signatureLen {
		t.Fatal(len(signature))
	}
	token, redacted := claims+signature, claims+Replacement
	for text, want := range map[string]string{
		token:                             redacted,
		" " + token + " ":                 " " + redacted + " ",
		`{"a":"` + token + `"}`:           `{"a":"` + redacted + `"}`,
		`\n` + token + `\n`:               `\n` + redacted + `\n`,
		"/x?a=" + token + "&b=1":          "/x?a=" + redacted + "&b=1",
		token + " " + token + "." + token: redacted + " " + redacted + "." + redacted,
		// Not a token: another length, no claims, no header.
		token + "a":                     token + "a",
		token[:len(token)-1]:            token[:len(token)-1],
		"." + signature:                 "." + signature,
		"a." + signature:                "a." + signature,
		"x.y." + signature:              "x.y." + signature,
		".eyJh." + signature:            ".eyJh." + signature,
		signature:                       signature,
		strings.Repeat(".", 300):        strings.Repeat(".", 300),
		strings.Repeat("eyJ", 300):      strings.Repeat("eyJ", 300),
		"eyJ.." + signature:             "eyJ.." + signature,
		strings.Repeat("a", 87) + token: strings.Repeat("a", 87) + redacted,
	} {
		for padding := range 100 {
			before := strings.Repeat(" ", padding)
			if got := string(redactDerived([]byte(before + text))); got != before+want {
				t.Fatalf("%q after %d spaces becomes %q", text, padding, got)
			}
		}
	}
}

package redact

import "testing"

// TestRedactShortestTokens has texts that consist of little more than a token, so redactTokens
// examines only one byte of it.
func TestRedactShortestTokens(t *testing.T) {
	body := randomBody()
	for _, text := range []string{"_", "a_", " a_", "ab_"} {
		if got := string(redactTokens([]byte(text + body))); got != text+Replacement {
			t.Errorf("%q and a body become %q", text, got)
		}
		if got := string(redactTokens([]byte(text + body + " "))); got != text+Replacement+" " {
			t.Errorf("%q, a body and a space become %q", text, got)
		}
	}
}

// TestNoTokenWithoutUnderscore checks that a token body is redacted only after an underscore.
func TestNoTokenWithoutUnderscore(t *testing.T) {
	body := randomBody()
	for _, before := range []string{"%20", "%2D", "ak%2D", `a\n`, "a_b%20"} {
		if text := before + body; string(redactTokens([]byte(text))) != text {
			t.Errorf("%q and a body are redacted", before)
		}
	}
}

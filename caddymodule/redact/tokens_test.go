package redact

import "testing"

// TestRedactShortestTokens has texts that hardly hold a token, so that one look must find it.
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

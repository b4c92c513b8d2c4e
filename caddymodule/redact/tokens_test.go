package redact

import (
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/linear"
)

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

// TestRedactionCostsLinearTime checks words that make the search start over again and again.
func TestRedactionCostsLinearTime(t *testing.T) {
	signature := strings.Repeat("a", signatureLen)
	for name, shape := range map[string]string{
		"dots": "a-b.c_d.", "claims": "eyJ.", "claims and signatures": "eyJ." + signature + ".",
		"derived tokens": "eyJ.eyJ." + signature + "%20", "joined": "eyJ.eyJ." + signature + ".",
		"without dots between": "eyJ.eyJ." + signature, "bodies": "ak_" + randomBody(),
		"bodies and dots": "ak_" + randomBody() + ".eyJ.", "escapes": "%2E%5F", "levels": "%25",
		"JSON": `\u002e\u005f`, "backslashes": `\`, "percent signs": "%", "base64": "QUJD",
		"encoded derived tokens": "eyJ%2EeyJ%2e" + signature + "%2E",
	} {
		t.Run(name, func(t *testing.T) {
			linear.Check(t, 20_000, func(size int) func() {
				text := []byte(strings.Repeat(shape, size/len(shape)))
				buffer := make([]byte, len(text))
				return func() { copy(buffer, text); redactTokens(buffer) }
			})
		})
	}
}

package redact

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// randomDerived returns a string with the shape of a derived token. Each of its parts is too long
// to occur elsewhere by chance.
func randomDerived() string {
	part := func(begin string, length int) string {
		text := []byte(begin)
		for len(text) < length {
			text = append(text, (base62 + "-_")[rand.IntN(64)])
		}
		return string(text)
	}
	return part("ey", 40+rand.IntN(100)) + "." + part("ey", 30+rand.IntN(200)) + "." +
		part("", signatureLen)
}

// escapings are forms in which logs may have a text.
var escapings = map[string]func(string) string{
	"plain":         func(s string) string { return s },
	"URL":           func(s string) string { return escapeAll(s, ".-_", "%%%02X") },
	"URL, all":      func(s string) string { return escapeEach(s, "%%%02x") },
	"URL in URL":    func(s string) string { return url.QueryEscape(escapeAll(s, ".-_", "%%%02X")) },
	"JSON":          func(s string) string { return escapeAll(s, ".-_", `\u%04x`) },
	"JSON, all":     func(s string) string { return escapeEach(s, `\u%04X`) },
	"JSON in JSON":  func(s string) string { return escapeAll(s, ".-_", `\\u%04x`) },
	"dots":          func(s string) string { return escapeAll(s, ".", "%%%02x") },
	"hyphens":       func(s string) string { return escapeAll(s, "-", "%%%02X") },
	"underscores":   func(s string) string { return escapeAll(s, "_", "%%%02X") },
	"JSON, dots":    func(s string) string { return escapeAll(s, ".", `\u%04x`) },
	"JSON, hyphens": func(s string) string { return escapeAll(s, "-", `\u%04x`) },
}

func escapeAll(text, chars, format string) string {
	for _, c := range chars {
		text = strings.ReplaceAll(text, string(c), fmt.Sprintf(format, c))
	}
	return text
}

func escapeEach(text, format string) string {
	var out strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&out, format, c)
	}
	return out.String()
}

// TestRedactEscapedTokens checks tokens and derived tokens in every form, at every offset and with
// every text around them.
func TestRedactEscapedTokens(t *testing.T) {
	token, derived := "ak_"+randomBody(), randomDerived()
	for form, escape := range escapings {
		for _, before := range []string{"", " ", "_", "a_", "%5F", `\u005f`, ".", "a.", "%2E", "ey.",
			`"`, `\"`, `\n`, "/", "=", "%3D", "%", "%e", "100%", `\`, "key", "ak_" + token[3:], derived + "."} {
			for _, after := range []string{"", " ", "_", "a", "%5F", `\u005f`, ".", ".json", "%2E", `"`, `\n`,
				"/", "&b=1", "%26", "%", `\`, "." + derived} {
				for padding := range 2 {
					around := strings.Repeat(" ", padding*37)
					text := around + before + escape(derived) + after
					got := string(redactTokens([]byte(text)))
					for part := range strings.SplitSeq(derived, ".") {
						if strings.Contains(got, escape(part)) {
							t.Fatalf("%s: %q becomes %q", form, text, got)
						}
					}
					if len(got) > len(text) || strings.Count(got, Replacement) == 0 {
						t.Fatalf("%s: %q becomes %q", form, text, got)
					}
				}
			}
			if text := before + escape(token); strings.Contains(string(redactTokens([]byte(text))),
				escape(token[3:])) {
				t.Errorf("%s: %q is not redacted", form, text)
			}
		}
	}
}

func TestRedactDerived(t *testing.T) {
	claims := "eyJhbGciOiJFZERTQSJ9.eyJleHAiOjF9."
	signature := strings.Repeat("a-_Z9", 17) + "g"
	if len(signature) != signatureLen {
		t.Fatal(len(signature))
	}
	token := claims + signature
	const redacted = Replacement
	for text, want := range map[string]string{
		token:                        redacted,
		" " + token + " ":            " " + redacted + " ",
		`{"a":"` + token + `"}`:      `{"a":"` + redacted + `"}`,
		`\n` + token + `\n`:          `\n` + redacted + `\n`,
		"/x?a=" + token + "&b=1":     "/x?a=" + redacted + "&b=1",
		"/x?a%3D" + token + "%26b=1": "/x?a%3D" + redacted + "%26b=1",
		token + " " + token:          redacted + " " + redacted,
		token + "." + token:          redacted + "." + redacted,
		token + token:                redacted + redacted,
		token + "a":                  redacted,
		"key_" + token:               redacted,
		"ak_" + strings.Repeat("z", tokenBody) + " " + token: "ak_" + redacted + " " + redacted,
		"ak_" + strings.Repeat("z", tokenBody) + "%20" + token: "ak_" + redacted + "%20" +
			redacted,
		token + ".ak_" + strings.Repeat("z", tokenBody): redacted + ".ak_" + redacted,
		// A part before the token, or long claims: the rest of the token is not left over.
		"x." + token: "x." + redacted,
		"x." + claims[:21] + "ey" + strings.Repeat("J", 90) + "." + signature: redacted,
		"." + claims[21:] + signature:                                         redacted, // without a header
		// Not a token: another length, no claims.
		token[:len(token)-1]:       token[:len(token)-1],
		"." + signature:            "." + signature,
		"a." + signature:           "a." + signature,
		"x.y." + signature:         "x.y." + signature,
		"eyJ " + token[21:]:        "eyJ " + token[21:],
		signature:                  signature,
		strings.Repeat(".", 300):   strings.Repeat(".", 300),
		strings.Repeat("eyJ", 300): strings.Repeat("eyJ", 300),
		strings.Repeat("eyJ.", 99): strings.Repeat("eyJ.", 99),
		"eyJ.." + signature:        "eyJ.." + signature,
	} {
		for padding := range 100 {
			before := strings.Repeat(" ", padding)
			if got := string(redactTokens([]byte(before + text))); got != before+want {
				t.Fatalf("%q after %d spaces becomes %q", text, padding, got)
			}
		}
	}
}

// FuzzRedactDerived checks that no part of a derived token is left in any text, escaped in any
// form and then percent-encoded up to three times.
func FuzzRedactDerived(f *testing.F) {
	f.Add("", "", uint8(0), uint8(0))
	f.Add(`{"a":"\n`, `\"}`, uint8(1), uint8(1))
	f.Add("/x%3F%2", "%26", uint8(2), uint8(2))
	f.Add("_", "_", uint8(3), uint8(3))
	f.Add("%5F", "%5F", uint8(4), uint8(0))
	f.Add(`\u005f`, `\u002e`, uint8(5), uint8(0))
	f.Add("50%e", ".", uint8(6), uint8(1))
	f.Add("x.eyJ.", ".eyJ", uint8(7), uint8(0))
	f.Add("ak_"+strings.Repeat("a", tokenBody), "%2D", uint8(8), uint8(0))
	var forms []func(string) string
	for _, name := range slices.Sorted(maps.Keys(escapings)) {
		forms = append(forms, escapings[name])
	}
	derived := randomDerived()
	f.Fuzz(func(t *testing.T, before, after string, form, escapes uint8) {
		escape := forms[int(form)%len(forms)]
		if !strings.Contains(escape(".-"), `\`) {
			once := escape
			escape = func(text string) string {
				text = once(text)
				for range escapes % 4 {
					text = url.QueryEscape(text)
				}
				return text
			}
		}
		text := before + escape(derived) + after
		got := string(redactTokens([]byte(text)))
		for part := range strings.SplitSeq(derived, ".") {
			if strings.Contains(got, escape(part)) {
				t.Errorf("redactTokens(%q) = %q", text, got)
			}
		}
		if len(got) > len(text) {
			t.Error("the result is longer than the text")
		}
	})
}

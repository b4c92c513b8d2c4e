package keystore_test

import (
	"slices"
	"testing"
	"unicode"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestHiddenCharacters lists names of many scripts that are valid, and names that are not.
func TestHiddenCharacters(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"CI", "Zoë", "Zoe\u0308", "鍵管理", "辻\U000E0100", "مفتاح", "می\u200Cخواهم", "क्\u200Dष",
		"ශ්\u200Dරී", "അവന്\u200D", "ᠭᠠᠷ\u180Eᠠ", "한국어", "👩\u200D💻", "👩🏽\u200D💻",
		"🏳\uFE0F\u200D🌈", "🙂\u200D↔\uFE0F", "1\uFE0F\u20E3", "❤\uFE0F", "\u0600١٢", "a b", "…",
		" CI ",
	} {
		if hidden, found := keystore.HiddenIn(name); found || !keystore.HasGlyph(name) {
			t.Errorf("%q: hidden %U, glyph %v", name, hidden, keystore.HasGlyph(name))
		}
	}
	for _, hidden := range []rune{
		0xAD, 0x34F, 0x61C, 0x115F, 0x180E, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2028, 0x2029,
		0x202A, 0x202E, 0x2060, 0x2064, 0x2066, 0x2069, 0x3164, 0xFEFF, 0xFFA0, 0xFFF9, 0xE0001,
		0xE0041, 0xE007F,
	} {
		for _, name := range []string{
			string(hidden), "CI" + string(hidden), "C" + string(hidden) + "I", string(hidden) + "CI",
		} {
			if got, found := keystore.HiddenIn(name); !found || got != hidden {
				t.Errorf("%q: %U, %v", name, got, found)
			}
		}
	}
	for _, name := range []string{"\uFE0F", "CI \uFE0F", "a\uFE0F\uFE0F", "می\u200C\u200Cخ",
		"👩\u200D", "👩\u200Da", " \u200Dक"} {
		if _, found := keystore.HiddenIn(name); !found {
			t.Errorf("%q is accepted", name)
		}
	}
	for _, name := range []string{"", " ", "\u00A0\u2003\u3000", "\u2800", "\uFFFC", "\u0301",
		"\u200B", "\u3164", "\U0001D159", "\uE000"} {
		if keystore.HasGlyph(name) {
			t.Errorf("%q has a glyph", name)
		}
	}
}

// FuzzHiddenIn checks that an accepted name has no direction control, and that each invisible
// character in it stands between or after visible ones.
func FuzzHiddenIn(f *testing.F) {
	for _, seed := range []string{"CI", "می\u200Cخواهم", "👩🏽\u200D💻", "a\u202Eb", "\u2800"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if _, found := keystore.HiddenIn(name); found {
			return
		}
		shown := []rune{' '}
		for _, r := range name {
			ignorable := unicode.In(r, unicode.Variation_Selector, unicode.Join_Control,
				unicode.Other_Default_Ignorable_Code_Point)
			if unicode.Is(unicode.Bidi_Control, r) {
				t.Fatalf("%q has the direction control %U", name, r)
			}
			if ignorable && unicode.IsSpace(shown[len(shown)-1]) {
				t.Fatalf("%q: %U follows nothing visible", name, r)
			}
			if !ignorable {
				shown = append(shown, r)
			}
		}
		plain := string(slices.DeleteFunc(shown, unicode.IsSpace))
		if keystore.HasGlyph(name) != keystore.HasGlyph(plain) {
			t.Fatalf("%q: its glyph is an invisible character", name)
		}
	})
}

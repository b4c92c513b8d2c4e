package keystore

import (
	"slices"
	"strings"
	"unicode"
)

// HasGlyph reports whether a text has a character that can be seen: a letter, digit, punctuation
// mark or symbol. A name without one could not be clicked.
func HasGlyph(s string) bool {
	for _, r := range s {
		if visible(r) {
			return true
		}
	}
	return false
}

// HiddenIn returns the first character of a name that is invisible or changes the direction of
// text, which could make the name look like another one. It admits the invisible characters that
// writing needs: a joiner after a letter of a script that uses joiners or between emoji, and a
// variation selector after a visible character.
func HiddenIn(name string) (hidden rune, found bool) {
	var last, base rune // the last character, and the last one that is not a mark
	text := []rune(name)
	for i, r := range text {
		switch {
		case unicode.Is(unicode.Variation_Selector, r):
			if !visible(last) {
				return r, true
			}
		case slices.Contains(joiners, r):
			between := unicode.IsSymbol(base) && i+1 < len(text) && unicode.IsSymbol(text[i+1])
			if !between && !unicode.In(base, joining...) {
				return r, true
			}
		case invisible(r):
			return r, true
		}
		if last = r; !unicode.IsMark(r) {
			base = r
		}
	}
	return 0, false
}

// visible reports whether a character has a glyph. Marks have none of their own, and those of
// unassigned and private characters are unknown.
func visible(r rune) bool {
	return unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S) && !invisible(r) &&
		!slices.Contains(blanks, r)
}

// invisible reports whether a character is a format character, such as a zero width space or a
// direction override, a line or paragraph separator, or another one that shows nothing.
func invisible(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector,
		unicode.Other_Default_Ignorable_Code_Point) &&
		!unicode.Is(unicode.Prepended_Concatenation_Mark, r) // the format characters with a glyph
}

// blanks are letters and symbols that fonts show as a space: a braille pattern without dots, an
// object replacement character, a musical null note, and blanks between hieroglyphs.
var blanks = []rune{0x2800, 0xFFFC, 0x1D159, 0x13441, 0x13442}

// joiners are the zero width non-joiner, the zero width joiner and the Mongolian vowel separator.
var joiners = []rune{0x200C, 0x200D, 0x180E}

// joining are the scripts that need joiners: letters change their form beside a joiner, or form a
// conjunct. See https://www.unicode.org/reports/tr31/#Layout_and_Format_Control_Characters.
var joining = []*unicode.RangeTable{
	unicode.Adlam, unicode.Arabic, unicode.Balinese, unicode.Bengali, unicode.Devanagari,
	unicode.Gujarati, unicode.Gurmukhi, unicode.Hanifi_Rohingya, unicode.Javanese, unicode.Kannada,
	unicode.Khmer, unicode.Malayalam, unicode.Mandaic, unicode.Mongolian, unicode.Myanmar,
	unicode.Nko, unicode.Oriya, unicode.Sinhala, unicode.Syriac, unicode.Tamil, unicode.Telugu,
}

// Truncate returns as much of the beginning of a text as fits into a number of bytes. It leaves out
// a character that does not fit completely.
func Truncate(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}

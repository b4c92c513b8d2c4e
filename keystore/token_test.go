package keystore

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// tokenVectors fix the format of tokens. They were computed independently of this code, with
// Python's hmac, hashlib and zlib.
var tokenVectors = []struct{ prefix, id, secret, key, token string }{
	{"ak", "000000000000", "00000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"ak_00000000000000000000000000000000000000000000Y9qx7g0Q2sb9zY"},
	{"ak_live", "Zz09Aa5QpLmX", "0123456789abcdefghijklmnopqrstuv",
		"ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"ak_live_Zz09Aa5QpLmX0123456789abcdefghijklmnopqrstuvvpBJA06E0pqdBK"},
	{"abcdefghijklmnopqrstuvwx", "zzzzzzzzzzzz", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
		"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
		"abcdefghijklmnopqrstuvwx_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzOVch0t3M3z9mnu"},
	{"a1_2_b", "A1b2C3d4E5f6", "QWERTYUIOPasdfghjklZXCVBNM123456",
		"deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
		"a1_2_b_A1b2C3d4E5f6QWERTYUIOPasdfghjklZXCVBNM123456iGXYjfa34TfXms"},
}

func testKey(t testing.TB, hex string) *TokenKey {
	t.Helper()
	secret, err := ParseTokenSecret(hex)
	if err != nil {
		t.Fatal(err)
	}
	return NewTokenKey(secret)
}

func TestTokenVectors(t *testing.T) {
	for i, v := range tokenVectors {
		key := testKey(t, v.key)
		if got := key.seal(v.prefix, v.id, v.secret).Reveal(); got != v.token {
			t.Errorf("vector %d: token differs", i)
		}
		tok, err := ParseToken(v.token)
		if err != nil {
			t.Errorf("vector %d: %v", i, err)
			continue
		}
		if tok.Prefix() != v.prefix || tok.ID() != v.id || !key.Verify(tok) {
			t.Errorf("vector %d: prefix %q, id %q, verified %v", i, tok.Prefix(), tok.ID(),
				key.Verify(tok))
		}
		if testKey(t, strings.Repeat("5a", 32)).Verify(tok) {
			t.Errorf("vector %d: verifies with another deployment's key", i)
		}
	}
}

// TestForgedTokenDoesNotVerify changes each character and corrects the check digits, as an attacker
// can.
func TestForgedTokenDoesNotVerify(t *testing.T) {
	key := testKey(t, strings.Repeat("00", 32))
	text := key.Generate("ak", NewID()).Reveal()
	for i := len("ak_"); i < len(text)-base62CRCLen; i++ {
		forged := []byte(text)
		forged[i] = base62Alphabet[(strings.IndexByte(base62Alphabet, forged[i])+1)%62]
		putCheck(forged[len(forged)-base62CRCLen:], string(forged[:len(forged)-base62CRCLen]))
		tok, err := ParseToken(string(forged))
		if err != nil {
			t.Fatalf("byte %d: correct check digits are refused: %v", i, err)
		}
		if key.Verify(tok) {
			t.Errorf("byte %d: the forged token verifies", i)
		}
	}
}

func TestMistypedTokenIsMalformed(t *testing.T) {
	text := testKey(t, strings.Repeat("00", 32)).Generate("ak_live", NewID()).Reveal()
	for i := range text {
		for _, c := range []byte("0Zz_-é") {
			if text[i] == c {
				continue
			}
			if _, err := ParseToken(text[:i] + string(c) + text[i+1:]); err == nil {
				t.Errorf("byte %d replaced by %q is accepted", i, c)
			}
		}
	}
	for _, other := range []string{"", text[:len(text)-1], text + "0", " " + text, text + "\n",
		strings.ToUpper(text)} {
		if _, err := ParseToken(other); err == nil {
			t.Errorf("a string of length %d is accepted; the token has length %d",
				len(other), len(text))
		}
	}
}

func TestPrefixes(t *testing.T) {
	for p, want := range map[string]bool{
		"ak": true, "a": true, "ak_live": true, "a1_2_b": true, "abcdefghijklmnopqrstuvwx": true,
		"z": true, "za09z": true,
		"": false, "1a": false, "_a": false, "a_": false, "a__b": false, "aK": false, "a-b": false,
		"{": false, "`": false, "a{": false, "a`": false, "a/": false, "a:": false,
		"é": false, "abcdefghijklmnopqrstuvwxy": false,
	} {
		if ValidPrefix(p) != want {
			t.Errorf("ValidPrefix(%q) = %v", p, !want)
		}
		token := testKey(t, strings.Repeat("00", 32)).Generate(p, NewID()).Reveal()
		if _, err := ParseToken(token); (err == nil) != want {
			t.Errorf("a token with the prefix %q: %v", p, err)
		}
	}
}

// TestCorrectedCheckDigits checks that correct check digits do not suffice.
func TestCorrectedCheckDigits(t *testing.T) {
	key := testKey(t, strings.Repeat("00", 32))
	text := key.Generate("ak", NewID()).Reveal()
	for _, change := range []struct {
		at int
		by byte
	}{{len("ak"), '-'}, {len("ak_"), '-'}, {len("ak_"), '_'}, {len("ak_") + 20, 0xe9},
		{len(text) - base62CRCLen - 1, ' '}} {
		changed := []byte(text)
		changed[change.at] = change.by
		end := len(text) - base62CRCLen
		putCheck(changed[end:], string(changed[:end]))
		if _, err := ParseToken(string(changed)); err == nil {
			t.Errorf("%q at byte %d is accepted", change.by, change.at)
		}
	}
	if key.Verify(Token{}) {
		t.Error("the zero token verifies")
	}
}

func TestHasTokenPrefix(t *testing.T) {
	for s, want := range map[string]bool{
		"ak_": true, "ak_x": true, "ak": false, "ak-x": false, "akm_x": false, "a": false, "": false,
		"AK_x": false, " ak_x": false,
	} {
		if got := HasTokenPrefix(s, "ak"); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// FuzzParseToken checks that ParseToken accepts only strings that Reveal returns unchanged.
func FuzzParseToken(f *testing.F) {
	for _, v := range tokenVectors {
		f.Add(v.token)
	}
	f.Add("ak_")
	f.Add(strings.Repeat("a", 59))
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			return
		}
		if tok.Reveal() != s || tok.Prefix()+"_" != s[:len(s)-tokenBodyLen] ||
			!ValidPrefix(tok.Prefix()) || tok.ID() != s[len(tok.Prefix())+1:][:TokenIDLen] {
			t.Errorf("%q: wrong parts", s)
		}
	})
}

func FuzzGenerate(f *testing.F) {
	f.Add("ak", []byte{1})
	f.Fuzz(func(t *testing.T, prefix string, seed []byte) {
		if !ValidPrefix(prefix) {
			return
		}
		var secret [32]byte
		copy(secret[:], seed)
		key := NewTokenKey(secret)
		generated := key.Generate(prefix, NewID())
		tok, err := ParseToken(generated.Reveal())
		if err != nil || tok != generated || !key.Verify(tok) {
			t.Errorf("prefix %q: a generated token does not parse and verify: %v", prefix, err)
		}
	})
}

func TestTokenIsRedactedInEveryPrintedForm(t *testing.T) {
	tok := testKey(t, strings.Repeat("01", 32)).Generate("ak", NewID())
	secret := tok.Reveal()[len("ak_")+8:]
	inJSON, err := json.Marshal(map[string]any{"token": tok, "p": &tok})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "token", tok, "in", struct{ T Token }{tok})
	for name, s := range map[string]string{
		"%v": fmt.Sprintf("%v", tok), "%+v": fmt.Sprintf("%+v", tok),
		"%#v": fmt.Sprintf("%#v", tok), "%s": fmt.Sprintf("%s", tok), "%q": fmt.Sprintf("%q", tok),
		"%x":          fmt.Sprintf("%x", tok),
		"in a struct": fmt.Sprintf("%+v", struct{ T Token }{tok}), "JSON": string(inJSON),
		"slog": log.String(), "String": tok.String(),
	} {
		if strings.Contains(s, secret[:8]) {
			t.Errorf("%s shows the secret", name)
		}
	}
}

func TestTokenSecretErrorsAreRedacted(t *testing.T) {
	for _, s := range []string{"", "abc", strings.Repeat("zq", 32), strings.Repeat("a", 63),
		strings.Repeat("a", 65)} {
		_, err := ParseTokenSecret(s)
		if err == nil {
			t.Errorf("%d characters are accepted", len(s))
		} else if len(s) > 3 && strings.Contains(err.Error(), s[:4]) {
			t.Error("the error contains the secret")
		}
	}
}

func TestRandomBase62IsUniform(t *testing.T) {
	const n = 620_000
	var counts [256]int
	for _, c := range []byte(RandomBase62(n)) {
		counts[c]++
	}
	for _, c := range []byte(base62Alphabet) {
		if counts[c] < 9_500 || counts[c] > 10_500 { // mean 10,000, standard deviation 99
			t.Errorf("%q occurs %d times in %d", c, counts[c], n)
		}
	}
}

// TestSealing checks that only the same key opens a sealed text, for the same purpose.
func TestSealing(t *testing.T) {
	open := func(key byte, purpose, where string, sealed []byte) (string, error) {
		text, err := NewTokenKey([32]byte{key}).AEAD(purpose).Open(nil, nil, sealed, []byte(where))
		return string(text), err
	}
	sealed := NewTokenKey([32]byte{1}).AEAD("a form").Seal(nil, nil, []byte("text"), []byte("here"))
	if text, err := open(1, "a form", "here", sealed); err != nil || text != "text" {
		t.Errorf("%q, %v", text, err)
	}
	for _, test := range []struct {
		key            byte
		purpose, where string
	}{{2, "a form", "here"}, {1, "a page", "here"}, {1, "a form", "there"}} {
		if text, err := open(test.key, test.purpose, test.where, sealed); err == nil {
			t.Errorf("%+v opens it: %q", test, text)
		}
	}
}

package keystore

import (
	"fmt"
	"testing"
)

func TestTokenText(t *testing.T) {
	token := NewTokenKey([32]byte{1}).Generate("ak_live", "0123456789ab")
	const listed = "ak_live_01234567…"
	if got := token.String(); got != listed {
		t.Errorf("a token is shown as %q", got)
	}
	if got := fmt.Sprintf("%v %#v", token, token); got != listed+" "+listed {
		t.Errorf("a token is printed as %q", got)
	}
	if got := token.GoString(); got != "keystore.Token("+listed+")" {
		t.Errorf("GoString is %q", got)
	}
	if got := (Token{}).String(); got != "" {
		t.Errorf("no token is shown as %q", got)
	}
	for id, want := range map[string]string{
		"0123456789ab": "ak_01234567…", "01234567": "ak_01234567…", "012": "ak_012…", "": "ak_…",
	} {
		if got := ListedPrefix("ak", id); got != want {
			t.Errorf("id %q is listed as %q, want %q", id, got, want)
		}
	}
}

func TestDigestIsZero(t *testing.T) {
	if !(Digest{}).IsZero() || DigestOf("").IsZero() {
		t.Error("only the zero value is zero")
	}
}

func TestParseTokenWithShortestPrefix(t *testing.T) {
	key := NewTokenKey([32]byte{1})
	if _, err := ParseToken(key.Generate("a", NewID()).Reveal()); err != nil {
		t.Error(err)
	}
	if _, err := ParseToken(key.Generate("", NewID()).Reveal()); err == nil {
		t.Error("a token without a prefix is accepted")
	}
}

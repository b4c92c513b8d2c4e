package redact

import (
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func TestArgument(t *testing.T) {
	token := keystore.NewTokenKey([32]byte{1}).Generate("ak", keystore.NewID()).Reveal()
	tokenKey := strings.Repeat("0123abcD", 8)
	for _, test := range []struct{ text, want string }{
		{"", ""},
		{"sqlite /var/lib/keys.db", "sqlite /var/lib/keys.db"},
		{"redis://:hunter2@h", "redis://…"},
		{"redis-sentinel://a,b/main", "redis-sentinel://…"},
		{"://hunter2", "://…"},
		{"hunter2://h", "…"},
		{"x/https://h/hunter2", "…"},
		{"u:hunter2@h:5432", "…"},
		{"host=h Password=hunter2", "…"},
		{"password", "password"},
		{token, "…"},
		{"/" + token + "//x", "…"},
		{token[1:], token[1:]},
		{tokenKey, "…"},
		{"key=" + tokenKey + ";", "…"},
		{"š" + tokenKey + "š", "…"}, // the last byte of the code point is a letter
		{tokenKey[1:], tokenKey[1:]},
		{tokenKey + "0", tokenKey + "0"},
	} {
		if got := Argument(test.text); got != test.want {
			t.Errorf("%q becomes %q, want %q", test.text, got, test.want)
		}
	}
}

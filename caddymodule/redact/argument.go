package redact

import (
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Argument returns the part of a configuration argument that an error may repeat. Caddy replaces
// {$VAR} before it parses a Caddyfile, so any argument can be a secret. For a URL, Argument returns
// only the scheme. For an address with a user or password, a token or a token key, it returns only
// an ellipsis.
func Argument(text string) string {
	scheme, _, isURL := strings.Cut(text, "://")
	switch {
	case isURL && strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyz-") == "":
		return scheme + "://…"
	case isURL, strings.Contains(text, "@"), strings.Contains(ascii.ToLower(text),
		"password="),
		keystore.ContainsToken(text):
		return "…"
	}
	for word := range strings.FieldsFuncSeq(text,
		func(r rune) bool { return r > 127 || !ascii.IsAlphanumeric(byte(r)) }) {
		if _, err := keystore.ParseTokenSecret(word); err == nil {
			return "…"
		}
	}
	return text
}

package caddymodule

import (
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// shown returns the part of a configuration argument that an error may repeat. Caddy replaces
// {$VAR} before it parses a Caddyfile, so any argument can be a secret: of a URL only the scheme is
// shown, and of an address with a user or password, a token or a token key, nothing.
func shown(argument string) string {
	scheme, _, isURL := strings.Cut(argument, "://")
	switch {
	case isURL && strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyz-") == "":
		return scheme + "://…"
	case isURL, strings.Contains(argument, "@"), strings.Contains(ascii.ToLower(argument),
		"password="),
		keystore.ContainsToken(argument):
		return "…"
	}
	for word := range strings.FieldsFuncSeq(argument,
		func(r rune) bool { return r > 127 || !ascii.IsAlphanumeric(byte(r)) }) {
		if _, err := keystore.ParseTokenSecret(word); err == nil {
			return "…"
		}
	}
	return argument
}

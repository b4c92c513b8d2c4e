package keystore

import (
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/linear"
)

func TestContainsToken(t *testing.T) {
	key := NewTokenKey([32]byte{1})
	other := NewTokenKey([32]byte{2})
	for _, token := range []string{
		key.Generate("ak", NewID()).Reveal(), key.Generate("ak_live", NewID()).Reveal(),
		other.Generate(MemberPrefix, NewID()).Reveal(),
		key.Generate(strings.Repeat("a", maxPrefixLen), NewID()).Reveal(),
	} {
		for _, text := range []string{
			token, "see " + token, token + ".", "x_" + token, "\n" + token + "\n", token + "abc",
			"_" + token, strings.Repeat("_", 100) + " " + token, "ak_0123 " + token,
		} {
			if !ContainsToken(text) {
				t.Errorf("%q: no token found", strings.Replace(text, token, "TOKEN", 1))
			}
		}
		last := token[len(token)-1]
		for _, text := range []string{
			token[:len(token)-1], token[:len(token)-1] + string('a'+(last+1)%25),
			strings.ReplaceAll(token, "_", "-"), "", "_", "a_",
			key.Generate("ak", NewID()).String(),
		} {
			if ContainsToken(text) {
				t.Errorf("%q: a token found", text)
			}
		}
	}
}

func TestContainsTokenTakesLinearTime(t *testing.T) {
	for name, text := range map[string]string{
		"underscores": "_", "prefixes": "a_",
		"bodies": strings.Repeat("a", maxPrefixLen) + "_" + strings.Repeat("0", tokenBodyLen),
	} {
		t.Run(name, func(t *testing.T) {
			linear.Check(t, 1_000, func(size int) func() {
				long := strings.Repeat(text, size/len(text)+1)
				return func() { ContainsToken(long) }
			})
		})
	}
}

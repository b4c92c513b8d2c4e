package keystore

import (
	"fmt"
	"strings"
	"testing"
)

func TestContainsToken(t *testing.T) {
	key := NewTokenKey([32]byte{1})
	other := NewTokenKey([32]byte{2})
	for _, token := range []string{
		key.Generate("ak", NewID()).Reveal(), key.Generate("ak_live", NewID()).Reveal(), other.Generate(MemberPrefix, NewID()).Reveal(),
		key.Generate("a2345678901234567890123", NewID()).Reveal(),
	} {
		for _, text := range []string{token, "see " + token, token + ".", "x_" + token, "\n" + token + "\n", token + "abc", "_" + token, strings.Repeat("_", 100) + " " + token, "ak_0123 " + token} {
			if !ContainsToken(text) {
				t.Errorf("%q is overlooked", strings.Replace(text, token, "TOKEN", 1))
			}
		}
		last := token[len(token)-1]
		for _, text := range []string{token[:len(token)-1], token[:len(token)-1] + string('a'+(last+1)%25), strings.Replace(token, "_", "-", -1), "", "_", "a_", key.Generate("ak", NewID()).String()} {
			if ContainsToken(text) {
				t.Errorf("%q is taken for a token", text)
			}
		}
	}
}

// BenchmarkContainsToken is linear in the length of the text.
func BenchmarkContainsToken(b *testing.B) {
	for name, text := range map[string]string{"underscores": "_", "prefixes": "a_", "bodies": "aaaaaaaaaaaaaaaaaaaaaaaa_" + strings.Repeat("0", tokenBodyLen)} {
		for _, n := range []int{1, 10, 100} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				long := strings.Repeat(text, n*1000/len(text)+1)
				b.SetBytes(int64(len(long)))
				for b.Loop() {
					ContainsToken(long)
				}
			})
		}
	}
}

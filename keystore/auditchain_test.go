package keystore

import (
	"crypto/sha256"
	"testing"
)

func TestChain(t *testing.T) {
	previous := Digest{7}
	row := AuditRow{Seq: 2, At: noon, Actor: "root", From: "127.0.0.1", Action: "key.mint",
		Object: "k", Namespaces: []string{"acme"}, After: `{"name":"CI"}`}
	want := Digest(sha256.Sum256(append(previous[:],
		`[2,1767268800000000,"root","127.0.0.1","key.mint","k",["acme"],"","{\"name\":\"CI\"}"]`...)))
	if got := row.Chain(previous); got != want {
		t.Error("the hash is not that of the row before and the fields")
	}
}

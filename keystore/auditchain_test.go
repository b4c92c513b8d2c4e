package keystore

import (
	"crypto/sha256"
	"strings"
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

func FuzzParseEventID(f *testing.F) {
	row := AuditRow{Seq: 17, Hash: Digest{1, 2, 255}}
	f.Add(row.EventID())
	for _, id := range []string{"", "evt_", "evt_1_", "evt_0_0102ff0000000000",
		"evt_1_0102FF0000000000", "evt_+1_0102ff0000000000", "evt_1_0102ff00000000zz", "17",
		"evt_99999999999999999999_0102ff0000000000"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		seq, ok := ParseEventID(id)
		if id == row.EventID() && (!ok || seq != 17) {
			t.Fatalf("%s is not read", id)
		}
		if ok && (seq < 1 || strings.Contains(id, ".")) {
			t.Fatalf("%q is read as %d", id, seq)
		}
	})
}

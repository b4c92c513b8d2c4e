package keystore

import (
	"strings"
	"testing"
)

func TestRecordMetadata(t *testing.T) {
	long := strings.Repeat("x", 300)
	metadata := map[string]string{"team": "erp", "tea": "green", "": "no name", "none": "",
		"ü": "\x00\xff", long: long + "y", "b": strings.Repeat("z", 1<<14)}
	digest := DigestOf("token")
	r := NewRecord(&Key{Metadata: metadata, Secrets: []Secret{{Digest: digest}}}, digest)
	for name, want := range metadata {
		if got := r.Metadata(name); got != want {
			t.Errorf("%.20q is %.20q, want %.20q", name, got, want)
		}
	}
	for _, name := range []string{"t", "teams", "zzz", "a", long[1:], "erp"} {
		if got := r.Metadata(name); got != "" {
			t.Errorf("%.20q is %.20q, and should be missing", name, got)
		}
	}
	if got := new(Record).Metadata("team"); got != "" {
		t.Errorf("the zero record has %q", got)
	}
}

package keystore_test

import (
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func TestParseLifetime(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"90d": 90 * day, "1d": day, "36500d": keystore.MaxLifetime, "1s": time.Second,
		"12h": 12 * time.Hour, "1d12h": 36 * time.Hour, "36h": 36 * time.Hour, "24h": day,
		"1.5h": 90 * time.Minute,
	} {
		if got, err := keystore.ParseLifetime(text); err != nil || got != want {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "0d", "0s", "90", "d", "-1d", "+1d", "1.5d", "36501d",
		"99999999999999999999d", "1d-1h", "-1h", "999ms", "1h1ns", "90 d", "90D", "1d1d",
		"876001h"} {
		if got, err := keystore.ParseLifetime(text); err == nil {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// FuzzParseLifetime checks that a time is written in a form that is read as the same time.
func FuzzParseLifetime(f *testing.F) {
	for _, seed := range []string{"90d", "1d12h", "36h", "1.5h", "90", "1h0.000001s", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := keystore.ParseLifetime(text)
		if err != nil {
			return
		}
		written := keystore.LifetimeText(d)
		if again, err := keystore.ParseLifetime(written); err != nil || again != d {
			t.Errorf("%q is %v, written as %q: %v %v", text, d, written, again, err)
		}
	})
}

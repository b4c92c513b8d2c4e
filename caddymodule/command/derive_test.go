package command

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestDerive: the command needs no server, and writes only the derived token.
func TestDerive(t *testing.T) {
	made := runCLI(cliToken+"\n", "derive", "--expires", "15m", "--permission",
		"orders:read,read", "--namespace", "acme", "--allow-ip", "192.0.2.1", "--note", "nightly")
	token, err := keystore.ParseDerived(strings.TrimSuffix(made.out, "\n"))
	if err != nil || made.err != "" || made.status != 0 {
		t.Fatalf("%q, %v", made.err, err)
	}
	public := keystore.NewDerivingKey(cliToken, "").Public
	n := token.Verify(&public)
	if token.Parent != keystore.DigestOf(cliToken) || n == nil || n.Note != "nightly" ||
		!slices.Equal(n.AllowedIPs, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}) ||
		n.ValidAt(time.Now().UnixNano(), 15*time.Minute) != keystore.OK {
		t.Errorf("%+v", n)
	}
	for args, want := range map[string]string{
		"derive":                                                "--expires is required",
		"derive --expires yesterday":                            "must be a time such as",
		"derive --expires -1h":                                  "must be in the future",
		"derive --expires 1ns":                                  "must be in the future",
		"derive --expires 1h --permission x":                    `permission "x"`,
		"derive --expires 1h --namespace *":                     "not the id of a namespace",
		"derive --expires 1h --allow-ip host":                   "--allow-ip must be an address",
		"derive --expires 1h --server https://keys.example.com": "derive works offline",
		"derive --expires 1h token":                             "accepts flags only",
	} {
		r := runCLI(cliToken+"\n", strings.Fields(args)...)
		if r.status != 1 || !strings.Contains(r.err, want) || r.out != "" {
			t.Errorf("%s: %q, %q", args, r.out, r.err)
		}
		noToken(t, r.err)
	}
	if r := runCLI(made.out, "derive", "--expires", "1m"); r.status != 1 ||
		!strings.Contains(r.err, "this is a derived token") {
		t.Errorf("from a derived token: %q", r.err)
	}
}

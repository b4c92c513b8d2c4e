package command

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestDerive: the command needs no server, and writes only the derived token.
func TestDerive(t *testing.T) {
	s := serveCLI(t, nil)
	out, messages, err := s.run(cliToken+"\n", "derive", "--expires", "15m", "--permission",
		"orders:read,read", "--namespace", "acme", "--allow-ip", "192.0.2.1", "--note", "nightly")
	token, err2 := keystore.ParseDerived(strings.TrimSuffix(out, "\n"))
	if err != nil || err2 != nil || messages != "" {
		t.Fatalf("%q, %v, %v", messages, err, err2)
	}
	if token.Parent != keystore.DigestOf(cliToken) || token.Narrowing.Note != "nightly" ||
		token.Narrowing.ValidAt(time.Now().UnixNano(), 15*time.Minute) != keystore.OK {
		t.Errorf("%+v", token.Narrowing)
	}
	for args, want := range map[string]string{
		"derive":                                                "--expires is required",
		"derive --expires yesterday":                            "must be a time such as",
		"derive --expires -1h":                                  "must be in the future",
		"derive --expires 1h --permission x":                    `permission "x"`,
		"derive --expires 1h --namespace *":                     "not the id of a namespace",
		"derive --expires 1h --allow-ip host":                   "--allow-ip must be an address",
		"derive --expires 1h --server https://keys.example.com": "derive works offline",
		"derive --expires 1h token":                             "accepts flags only",
	} {
		out, messages, err := s.run(cliToken+"\n", strings.Fields(args)...)
		if err == nil || !strings.Contains(messages+err.Error(), want) || out != "" {
			t.Errorf("%s: %q, %q, %v", args, out, messages, err)
		}
	}
	if _, messages, err := s.run(out, "derive", "--expires", "1m"); err == nil ||
		!strings.Contains(messages, "this is a derived token") {
		t.Errorf("from a derived token: %q, %v", messages, err)
	}
}

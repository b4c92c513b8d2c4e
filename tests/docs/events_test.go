package docs

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestSIEM runs the receiver of docs/events.md with the Caddyfile there, and reads the events with
// the command there.
func TestSIEM(t *testing.T) {
	t.Parallel()
	const page, chapter = "docs/events.md", "### A SIEM"
	port := freeport.For(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	dir := t.TempDir()
	script := write(t, dir, "siem.py", replace(t, block(t, page, chapter, "python"),
		`("", 8088)`, fmt.Sprintf(`("127.0.0.1", %d)`, port)))
	runProxy(t, dir, address, "env", append(environment, "/usr/bin/python3", script)...)

	_, options, _ := strings.Cut(block(t, page, chapter, "caddyfile"), "api_keys {\n")
	options, _, _ = strings.Cut(options, "\n\t}\n}")
	g := gate.Start(t, gate.Config{Env: environment,
		APIKeys: replace(t, options, "siem.internal:8088", address)})
	gate.Until(t, "the webhook is active", func() bool { // it begins with the events after that
		items, _ := g.Call(t, "GET", "/webhooks", nil).JSON()["items"].([]any)
		return len(items) == 1 && items[0].(gate.JSON)["state"] == "active"
	})
	names := []string{`O'Brien "x" \n $(id)`, "ключ 🔑"}
	for _, name := range names {
		key := g.Mint(t, gate.JSON{"name": name, "access": "read_only"})
		g.Call(t, "POST", "/keys/"+key.ID+"/revoke", gate.JSON{"reason": "left"})
	}
	for _, signature := range []string{"v1,AAAA", "v1,\u00e9"} {
		r, err := http.NewRequest("POST", "http://"+address, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"Webhook-Id": {"x"}, "Webhook-Timestamp": {"1"},
			"Webhook-Signature": {signature}}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("the signature %s got %d", signature, answer.StatusCode)
		}
	}
	query := replace(t, block(t, page, chapter, "sh"), "events.jsonl",
		filepath.Join(dir, "events.jsonl"))
	gate.Until(t, "the receiver has the events", func() bool {
		out, err := exec.Command("sh", "-c", query).CombinedOutput()
		lines := strings.Split(string(out), "\n")
		return err == nil && len(lines) == len(names)+1 &&
			strings.HasSuffix(lines[0], "Z root revoked "+names[0]+": left") &&
			strings.HasSuffix(lines[1], "Z root revoked "+names[1]+": left")
	})
}

package adversarial

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestBasicChallenge checks that git and Python's urllib can authenticate. They send the key only
// after a 401 with a Basic challenge.
func TestBasicChallenge(t *testing.T) {
	t.Parallel()
	w := start(t,
		gate.Config{APIKey: "from bearer\nfrom basic\noperation items:list read GET /repo/**"})
	const script = `
import os, urllib.request
passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
passwords.add_password(None, os.environ["URL"], "ci", os.environ["TOKEN"])
opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
print(opener.open(os.environ["URL"] + "/repo/x").status)
`
	withUser := strings.Replace(w.URL, "http://", "http://ci:"+w.tokens["R"]+"@", 1)
	for what, command := range map[string][]string{
		"git":    {"git", "ls-remote", withUser + "/repo"},
		"python": {"/usr/bin/python3", "-c", script},
	} {
		w.Upstream.Take()
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "URL="+w.URL, "TOKEN="+w.tokens["R"],
			"GIT_TERMINAL_PROMPT=0", "no_proxy=127.0.0.1")
		output, _ := cmd.CombinedOutput() // git fails, as the upstream is not a repository
		reached := w.Upstream.Take()
		if len(reached) != 1 || reached[0].Header.Get("X-Apikey-Id") != w.ids["R"] {
			t.Errorf("%s: %d requests at the upstream\n%s", what, len(reached),
				strings.ReplaceAll(string(output), w.tokens["R"], "TOKEN"))
		}
	}
}

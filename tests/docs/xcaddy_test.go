package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestXcaddy runs the commands of xcaddy.md that build a local checkout. The checkout is this one.
func TestXcaddy(t *testing.T) {
	t.Parallel()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	const page = "xcaddy.md"
	dir := t.TempDir()
	run := func(script string) string {
		t.Helper()
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "TMPDIR="+dir,
			"PATH="+dir+":"+os.Getenv("PATH"),
			// The flags of `make build`, so that each package is compiled once.
			"CGO_ENABLED=1", "XCADDY_GO_BUILD_FLAGS=-ldflags=-w")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}

	install, _, _ := strings.Cut(block(t, page, "## Pinned", "sh"), "\n")
	build := replace(t, block(t, page, "## From a local checkout", "sh"),
		"git clone https://github.com/caddy-apikeys/caddy-apikeys\n", "",
		"./caddy-apikeys", "'"+root+"'") // where `make build` has compiled it
	run(install + "\n" + build)

	command, want, _ := strings.Cut(strings.TrimPrefix(block(t, page, "## Check the build",
		"console"), "$ "), "\n")
	if got := run(command); got != want {
		t.Errorf("%s prints\n%s, want\n%s", command, got, want)
	}
	required, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if version := strings.Fields(run("./caddy version"))[0]; !strings.Contains(string(required),
		"caddyserver/caddy/v2 "+version+"\n") {
		t.Errorf("%s builds Caddy %s, but go.mod requires another version", page, version)
	}
}

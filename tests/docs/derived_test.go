package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestDerivedVectors: the libraries that docs/derived.md names compute the keys in
// docs/derived-vectors.json and verify the tokens there that are valid.
func TestDerivedVectors(t *testing.T) {
	t.Parallel()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"/usr/bin/python3", "testdata/vectors.py"},
		{"node", "testdata/vectors.js"},
	} {
		cmd := exec.Command(command[0], append(command[1:],
			filepath.Join(root, "docs/derived-vectors.json"))...)
		cmd.Env = append(os.Environ(), "NODE_PATH=/usr/share/nodejs")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", command, err, out)
		}
	}
}

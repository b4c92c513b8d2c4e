package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestNodeAblations checks that the tests of limits and usage in keystore/node detect that a part of
// the mechanism is missing. They need no processes, so the ablations run in the tests themselves.
// TestUsageAblations in keystore/sqldb leaves out parts of the database.
func TestNodeAblations(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"":                     "TestRateOfFleet|TestUsedUpBurstStaysUsedUp|TestQuotaIsNeverExceeded|TestUsageAddsUp",
		"float-without-room":   "TestRateOfFleet",
		"spend-before-booking": "TestRateOfFleet",
		"no-merge":             "TestUsedUpBurstStaysUsedUp",
		"share-not-carried":    "TestUsedUpBurstStaysUsedUp",
		"grant-twice":          "TestQuotaIsNeverExceeded",
		"node-clock-bucket":    "TestUsageAddsUp",
		"rebuilt-batch":        "TestUsageAddsUp",
	}
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "node.test")
	if err := goWithFaults(root, dir, program, "./keystore/node", "test", "-c",
		"-vet=off"); err != nil {
		t.Fatal(err)
	}
	for ablation, test := range tests {
		t.Run(ablation, func(t *testing.T) {
			faults := t.TempDir()
			if err := os.WriteFile(filepath.Join(faults, "ablate"), []byte(ablation), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, "-test.run", "^("+test+")")
			cmd.Env = append(os.Environ(), "APIKEYS_FAULTS="+faults)
			out, err := cmd.CombinedOutput()
			switch {
			case ablation == "" && err != nil:
				t.Errorf("without an ablation: %v\n%s", err, out)
			case ablation != "" && !strings.Contains(string(out), "--- FAIL: "+test):
				t.Errorf("%s passes: %v\n%s", test, err, out)
			}
		})
	}
}

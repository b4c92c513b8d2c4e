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
		"": "TestRateOfFleet|TestRateWithFailingStore|TestUsedUpBurstStaysUsedUp|" +
			"TestQuotaIsNeverExceeded|TestUsageAddsUp",
		"limits-not-shared":    "TestRateOfFleet|TestRateWithFailingStore",
		"float-without-room":   "TestRateOfFleet|TestRateWithFailingStore",
		"spend-before-booking": "TestRateOfFleet|TestRateWithFailingStore",
		"no-merge":             "TestUsedUpBurstStaysUsedUp|TestRateWithFailingStore",
		"share-not-carried":    "TestUsedUpBurstStaysUsedUp|TestRateWithFailingStore",
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
			if ablation == "" {
				if err != nil {
					t.Errorf("without an ablation: %v\n%s", err, out)
				}
				return
			}
			for name := range strings.SplitSeq(test, "|") {
				if !strings.Contains(string(out), "--- FAIL: "+name) {
					t.Errorf("%s passes: %v\n%s", name, err, out)
				}
			}
		})
	}
}

package suspend

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestChild stops a process twice, continues it, and stops it again.
func TestChild(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := cmd.Process
	stop := func() {
		t.Helper()
		if err := Child(p); err != nil {
			t.Fatal(err)
		}
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid) + "/stat")
		if err != nil || !strings.Contains(string(stat), ") T ") {
			t.Errorf("%s %v", stat, err)
		}
	}
	stop()
	stop()
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := p.Kill(); err != nil { // also ends a stopped process
		t.Fatal(err)
	}
	cmd.Wait()
	if err := Child(p); err == nil {
		t.Error("stopped a process that has ended")
	}
}

// TestChildEnds checks that Child does not wait for a process that ends instead of stopping.
func TestChildEnds(t *testing.T) {
	for range 50 {
		cmd := exec.Command("true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		Child(cmd.Process) // either stops it or finds that it has ended
		cmd.Process.Kill()
		cmd.Wait()
	}
}

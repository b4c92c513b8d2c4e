package faults

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) {
	gate.DetectRaces()
	flag.Parse()
	flag.Set("test.parallel", "6") // scenarios mostly wait
	path, err := caddyWithFaults()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	withFaults = path
	gate.Main(m, postgres.Stop, func() {
		if os.Getenv("CADDY_WITH_FAULTS") == "" {
			os.RemoveAll(filepath.Dir(path))
		}
	})
}

// withFaults is the path of the Caddy with fault points that the scenarios run. TestChaos runs the
// one under test, with the race detector.
var withFaults string

// caddyWithFaults returns the path that CADDY_WITH_FAULTS names, or builds a Caddy with fault
// points from this checkout.
func caddyWithFaults() (string, error) {
	if path := os.Getenv("CADDY_WITH_FAULTS"); path != "" {
		return filepath.Abs(path)
	}
	root, err := gate.Root()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "faults-caddy-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "caddy")
	if err := goWithFaults(root, dir, path, "./cmd/caddy", "build"); err != nil {
		os.RemoveAll(dir)
		return "", err
	}
	return path, nil
}

// goWithFaults builds a program of the root module with fault points. It writes the changed files
// to dir. command is the go command with its own flags.
func goWithFaults(root, dir, program, pkg string, command ...string) error {
	build := append([]string{"go"}, command...)
	for _, command := range [][]string{
		{"scripts/faults", dir},
		append(build, "-tags", "faults", "-overlay", filepath.Join(dir, "overlay.json"),
			"-o", program, pkg),
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s with fault points: %w\n%s", pkg, err, out)
		}
	}
	return nil
}

// postgres is the server for scenarios that do not break the server itself. Each fleet has its own
// schema there.
var postgres postgrestest.Shared

// postgresWithClock starts a server for one test, which can set its clock.
func postgresWithClock(t testing.TB, settings ...string) *postgrestest.Server {
	t.Helper()
	s, err := postgrestest.StartWithClock(settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

package gate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Main runs a package's tests and removes the Caddy that they ran. Each package that uses Start
// has:
//
//	func TestMain(m *testing.M) { gate.Main(m) }
//
// What else a package has running is ended by the functions given. The go command does not see that
// such tests depend on the product: run them with -count=1, or a cached pass hides a change.
func Main(m *testing.M, end ...func()) {
	// Programs with the race detector otherwise sleep for a second when they exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	code := m.Run()
	for _, end := range end {
		end()
	}
	if built != "" {
		os.RemoveAll(filepath.Dir(built))
	}
	os.Exit(code)
}

// Binary returns the path of the Caddy under test. CADDY_UNDER_TEST names it, so that the packages
// of a run share one. Otherwise Binary builds it from this checkout, with the race detector.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	binary = sync.OnceValues(build)
	built  string // what Main removes
)

func build() (string, error) {
	if path := os.Getenv("CADDY_UNDER_TEST"); path != "" {
		return filepath.Abs(path)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "gate-caddy-")
	if err != nil {
		return "", err
	}
	built = filepath.Join(dir, "caddy")
	cmd := exec.Command("go", "build", "-race", "-ldflags=-w", "-o", built, "./cmd/caddy")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
	}
	return built, nil
}

// Root is the directory of the checkout that the tests run in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "cmd", "caddy", "main.go")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no cmd/caddy/main.go above the tests' directory")
}

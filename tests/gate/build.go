package gate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Main runs the tests of a package, calls the end functions, and removes the Caddy that it built.
// Each package that uses Start has:
//
//	func TestMain(m *testing.M) { gate.Main(m) }
//
// The go command does not see that such tests depend on the product. Run them with -count=1, or a
// cached result hides a change.
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

// DetectRaces makes the tests of a package run the Caddy that CADDY_WITH_RACE names, instead of one
// without the race detector. One package is enough for `make test`: the one that loads several nodes
// with everything at once. Nightly, all packages run the Caddy with the race detector. Call it before
// Main.
func DetectRaces() {
	if path := os.Getenv("CADDY_WITH_RACE"); path != "" {
		os.Setenv("CADDY_UNDER_TEST", path)
	}
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

// Client returns the path of the Caddy for commands that only call a running Caddy or read a
// configuration. CADDY_CLIENT names it, such as one without the race detector. The default is the
// Caddy under test.
func Client(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("CADDY_CLIENT"); path != "" {
		path, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	return Binary(t)
}

var (
	binary = sync.OnceValues(build)
	built  string // the Caddy that Main removes
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

// Root returns the directory of the checkout that the tests run in.
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
	return "", fmt.Errorf("no directory above the tests has cmd/caddy/main.go")
}

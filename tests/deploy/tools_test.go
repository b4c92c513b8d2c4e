// Package deploy tests the files in deploy/ with Caddy, Prometheus, PostgreSQL, Redis, systemd and
// the library of `docker compose`.
package deploy

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m) }

// tool runs a program in dir, which must succeed, and returns its output.
func tool(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %v: %v (`make deps` installs it)\n%s", name, args, err, out)
	}
	return string(out)
}

// TestValidate runs `caddy validate`, which needs no running server, for the Caddyfiles here and in
// the objects that the Helm chart creates.
func TestValidate(t *testing.T) {
	t.Parallel()
	made := secrets(t)
	for _, name := range []string{"Caddyfile", "Caddyfile.balancer", "package/Caddyfile",
		"helm/ci/sqlite.yaml", "helm/ci/postgres.yaml"} {
		caddyfile := text(t, file(t, name))
		if filepath.Ext(name) == ".yaml" {
			caddyfile = inConfigMap(caddyfile)
		}
		home := t.TempDir()
		config := filepath.Join(home, "Caddyfile")
		if err := os.WriteFile(config, []byte(strings.ReplaceAll(caddyfile, "/run/secrets",
			made)), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(gate.Client(t), "validate", "--config", config)
		cmd.Env = []string{"HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CONFIG_HOME=" + home,
			"GORACE=atexit_sleep_ms=0", "UPSTREAM=api:8000",
			"DATABASE=postgres://apikeys:{file." + made +
				"/database_password}@postgres:5432/apikeys?search_path=gate",
			"CACHE=redis://apikeys:{file." + made + "/redis_password}@redis:6379"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// inConfigMap returns the Caddyfile in the ConfigMap among the objects.
func inConfigMap(objects string) string {
	var caddyfile strings.Builder
	_, data, _ := strings.Cut(objects, "\n  Caddyfile: |\n")
	for line := range strings.Lines(data) {
		content, found := strings.CutPrefix(line, "    ")
		if !found && line != "\n" {
			break
		}
		caddyfile.WriteString(content)
	}
	return caddyfile.String()
}

// TestProbes checks that an outage of the database neither takes a pod out of its Service nor
// restarts it: only the probe of a starting pod looks at its health.
func TestProbes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sqlite", "postgres"} {
		objects := text(t, file(t, "helm/ci/"+name+".yaml"))
		for probe, path := range map[string]string{"startup": "/health", "readiness": "/alive",
			"liveness": "/alive"} {
			_, after, _ := strings.Cut(objects, " "+probe+"Probe:\n")
			if line, _, _ := strings.Cut(after, "\n"); !strings.Contains(line, path+",") {
				t.Errorf("%s: the %s probe does not use %s: %s", name, probe, path, line)
			}
		}
		if health := strings.Contains(inConfigMap(objects), "handle /alive"); !health {
			t.Errorf("%s: the Caddyfile does not serve /alive", name)
		}
	}
}

func TestPromtool(t *testing.T) {
	t.Parallel()
	dir := file(t, "prometheus")
	tool(t, dir, "promtool", "check", "config", "prometheus.yml")
	tool(t, dir, "promtool", "check", "rules", "alerts.yml")
	tool(t, dir, "promtool", "test", "rules", "alerts_test.yml")
	tests := text(t, filepath.Join(dir, "alerts_test.yml"))
	for line := range strings.Lines(text(t, filepath.Join(dir, "alerts.yml"))) {
		if _, alert, found := strings.Cut(strings.TrimSpace(line), "- alert: "); found &&
			strings.Count(tests, alert) < 2 {
			t.Errorf("alerts_test.yml does not test when %s fires and when it does not", alert)
		}
	}
}

// TestRunOnTakenPort checks that `make run` names a port of Caddyfile.example that another program
// listens on.
func TestRunOnTakenPort(t *testing.T) {
	t.Parallel()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, taken, _ := net.SplitHostPort(other.Addr().String())
	dir := t.TempDir()
	script := filepath.Join(dir, "scripts", "run")
	if err := os.Mkdir(filepath.Dir(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(script, []byte(text(t, filepath.Join(root, "scripts", "run"))),
		0o600); err != nil {
		t.Fatal(err)
	}
	example := text(t, filepath.Join(root, "Caddyfile.example"))
	port := regexp.MustCompile(`:(2019|8080|8081)\b`)
	for _, line := range []string{"\n\tadmin localhost:2019\n", "\nhttp://localhost:8080 {\n",
		"\nhttp://:8081 {\n"} {
		if !strings.Contains(example, line) {
			t.Fatalf("Caddyfile.example has no line %q", line)
		}
		mine := strings.Replace(example, line, port.ReplaceAllString(line, ":"+taken), 1)
		if err := os.WriteFile(filepath.Join(dir, "Caddyfile.example"),
			[]byte(port.ReplaceAllString(mine, ":1")), 0o600); err != nil { // where nothing listens
			t.Fatal(err)
		}
		cmd := exec.Command("bash", script)
		out, _ := cmd.CombinedOutput()
		want := "Port " + taken + " is in use. Stop the program that uses it, which may be another " +
			"make run, or change the port in Caddyfile.example.\n"
		if code := cmd.ProcessState.ExitCode(); code != 1 || string(out) != want {
			t.Errorf("%q: exit %d: %s", line, code, out)
		}
	}
}

// TestSystemdUnit verifies the unit. systemd requires that the program exists, so the test replaces
// it with the Caddy under test.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	const unit, program = "caddy-apikeys.service", "/usr/bin/caddy-apikeys"
	dir := t.TempDir()
	written := text(t, file(t, unit))
	if strings.Count(written, "="+program+" ") != 2 {
		t.Fatalf("the unit does not run and reload %s", program)
	}
	if err := os.WriteFile(filepath.Join(dir, unit),
		[]byte(strings.ReplaceAll(written, "="+program+" ", "="+gate.Binary(t)+" ")),
		0o600); err != nil {
		t.Fatal(err)
	}
	// An unknown key only causes a message.
	if said := tool(t, dir, "systemd-analyze", "verify", "--man=no",
		"./"+unit); strings.Contains(said, unit) {
		t.Error(said)
	}
	// The threshold is in tenths, from 0 (safest) to 10 (no hardening).
	tool(t, dir, "systemd-analyze", "security", "--offline=true", "--threshold=20", "./"+unit)
}

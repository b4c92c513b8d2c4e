// Package gate runs Caddy with this plugin in front of an upstream that records the requests it
// receives:
//
//	g := gate.Start(t, gate.Config{APIKey: "public /health"})
//	k := g.Mint(t, gate.JSON{"name": "CI", "access": "read_only"})
//	r := g.Get(t, "/v1/items/1", k.Token)
//	if r.Status != 200 || len(r.Reached) != 1 { t.Errorf("with a key: %v", r) }
//
// A gate writes to one temporary directory and listens on 127.0.0.1. When the test ends, the
// harness searches everything that the gate wrote, its metrics and its configuration for every
// token that the package has seen, and removes the gate. Only the client and the one response that
// shows a token may contain it.
package gate

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
)

// Gate is one Caddy process, or a stopped one that can be started again on the same data. Its
// methods fail the test when the harness itself fails. The caller judges the responses of the
// product.
type Gate struct {
	Upstream *Upstream

	URL    string // http://127.0.0.1:port, HTTP/1.1
	TLSURL string // https://127.0.0.1:port, HTTP/1.1 and HTTP/2
	Admin  string // the admin endpoint, as for `--address`
	Dir    string // the directory of everything that Caddy writes
	Data   string // Caddy's data directory, which has apikeys.db

	config    Config
	env       []string
	proc      *process
	started   bool          // whether Caddy has served before
	startTook time.Duration // duration of the last start
}

// Start runs Caddy, which it builds if necessary, and returns when Caddy serves.
func Start(t testing.TB, c Config) *Gate {
	t.Helper()
	// The path of a Unix socket has room for 108 bytes, which t.TempDir may exceed.
	dir, err := os.MkdirTemp("", "gate-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &Gate{Dir: dir, config: c, Upstream: NewUpstream(t)}
	home := dir
	if c.DataOf != nil {
		home = c.DataOf.Dir
	}
	g.Data = filepath.Join(home, "data", "caddy")
	if c.DataOf == nil && !strings.Contains(c.Text(), "database ") {
		provideDatabase(t, g.Data)
	}
	writeCertificate(t, dir)
	t.Cleanup(func() { g.finish(t) })

	for try := 0; ; try++ { // another program may take a port before Caddy does
		g.listenOn(home, freeport.For(t), freeport.For(t), freeport.For(t))
		err := g.start()
		if err == nil {
			g.awaitDatabase(t)
			g.started = true
			return g
		}
		if try == 4 || !strings.Contains(g.Output(), "address already in use") {
			t.Fatalf("%v\n%s", err, redact(g.Output()))
		}
	}
}

func (g *Gate) listenOn(home string, plain, tls, admin int) {
	g.URL = fmt.Sprintf("http://127.0.0.1:%d", plain)
	g.TLSURL = fmt.Sprintf("https://127.0.0.1:%d", tls)
	g.Admin = fmt.Sprintf("127.0.0.1:%d", admin)
	if g.config.AdminSocket {
		g.Admin = "unix/" + filepath.Join(g.Dir, "admin.sock")
	}
	g.env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		// Without this, the race detector sleeps for a second when a process exits.
		"GORACE=atexit_sleep_ms=0",
		"GOGC=" + os.Getenv("GOGC"), // empty means the default
		"HOME=" + g.Dir,
		"XDG_DATA_HOME=" + filepath.Join(home, "data"),
		"XDG_CONFIG_HOME=" + filepath.Join(g.Dir, "config"),
		"GATE_DIR=" + g.Dir,
		"GATE_ADMIN=" + g.Admin,
		"GATE_HTTP=" + strconv.Itoa(plain),
		"GATE_HTTPS=" + strconv.Itoa(tls),
		"GATE_UPSTREAM=" + g.Upstream.Addr,
	}, g.config.Env...)
}

// Start runs a stopped or killed gate again, with the same configuration, data and ports.
func (g *Gate) Start(t testing.TB) {
	t.Helper()
	if err := g.start(); err != nil {
		t.Fatalf("%v\n%s", err, redact(g.Output()))
	}
	g.awaitDatabase(t)
}

// Stop stops Caddy with SIGTERM, as a service manager does.
func (g *Gate) Stop(t testing.TB) {
	t.Helper()
	if err := g.proc.stop(); err != nil {
		t.Errorf("%v\n%s", err, redact(g.Output()))
	}
}

// Kill kills Caddy with SIGKILL.
func (g *Gate) Kill() { g.proc.kill() }

// Restart is Stop and Start.
func (g *Gate) Restart(t testing.TB) {
	t.Helper()
	g.Stop(t)
	g.Start(t)
}

// Pid returns Caddy's process id.
func (g *Gate) Pid() int { return g.proc.cmd.Process.Pid }

// Reload runs `caddy reload` with another configuration. If it succeeds, later starts use that
// configuration too.
func (g *Gate) Reload(t testing.TB, c Config) Result {
	t.Helper()
	r := g.Caddy(t, "", "reload", "--adapter", "caddyfile", "--config", g.writeConfig(t, c),
		"--address", g.Admin)
	if r.Exit == 0 {
		g.config = c
	}
	return r
}

// Adapt runs `caddy adapt` with a configuration.
func (g *Gate) Adapt(t testing.TB, c Config) Result {
	t.Helper()
	return g.Caddy(t, "", "adapt", "--adapter", "caddyfile", "--config", g.writeConfig(t, c))
}

func (g *Gate) writeConfig(t testing.TB, c Config) string {
	t.Helper()
	path := filepath.Join(g.Dir, "next.Caddyfile")
	if err := os.WriteFile(path, []byte(c.Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Output returns what Caddy has written to stdout and stderr in all its runs.
func (g *Gate) Output() string { return read(filepath.Join(g.Dir, "output.log")) }

// AccessLog returns the access log of the sites, one JSON object per line. Caddy writes it after
// the response; wait with Until.
func (g *Gate) AccessLog() string { return read(filepath.Join(g.Dir, "access.log")) }

func read(path string) string {
	text, _ := os.ReadFile(path) // a missing file is empty
	return string(text)
}

// untilPatience limits the wait for a condition. It is long, because other programs may use the
// machine.
const untilPatience = time.Minute

// Until polls a condition for up to a minute. Use it only for conditions without an event.
func Until(t testing.TB, what string, true func() bool) {
	t.Helper()
	pause := 5 * time.Millisecond
	for end := time.Now().Add(untilPatience); !true(); time.Sleep(pause) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", untilPatience, what)
		}
		pause = min(pause*5/4, 100*time.Millisecond) // each try takes CPU time
	}
}

// finish searches for tokens, stops Caddy and searches its output for races and panics.
func (g *Gate) finish(t testing.TB) {
	if g.proc == nil {
		return
	}
	var told map[string]string
	if g.proc.running() {
		told = map[string]string{
			"the metrics":       string(g.admin(t, "GET", "/metrics", nil).Body),
			"the configuration": string(g.admin(t, "GET", "/config/", nil).Body),
		}
		g.Stop(t)
	} else if g.proc.unexpected() {
		t.Errorf("Caddy exited by itself\n%s", redact(g.Output()))
	}
	for name, text := range told {
		reportLeaks(t, name, text)
	}
	for _, dir := range []string{g.Dir, g.Data} {
		reportLeaksIn(t, dir)
	}
	output := withoutKnownRace(g.Output())
	for _, sign := range []string{"WARNING: DATA RACE", "panic: ", "panic serving",
		"fatal error: "} {
		if _, after, found := strings.Cut(output, sign); found {
			t.Errorf("Caddy's output: %s%s", sign, redact(after))
		}
	}
}

// withoutKnownRace removes a race of Caddy 2.11.9 from its output. When an upstream answers before
// it has read the whole body, the access log reads the body's length while the transport still
// counts it.
func withoutKnownRace(output string) string {
	const line = "==================\n" // before and after each report
	reports := strings.Split(output, line)
	for i, report := range reports {
		if strings.Contains(report, "caddyhttp.(*Server).logRequest()") &&
			strings.Contains(report, "caddyhttp.(*lengthReader).Read()") {
			reports[i] = ""
		}
	}
	return strings.Join(reports, line)
}

// Package gate runs the real Caddy with this plugin, before an upstream that records what reaches
// it:
//
//	g := gate.Start(t, gate.Config{APIKey: "public /health"})
//	k := g.Mint(t, gate.JSON{"name": "CI", "access": "read_only"})
//	r := g.Get(t, "/v1/items/1", k.Token)
//	if r.Status != 200 || len(r.Reached) != 1 { t.Errorf("with a key: %v", r) }
//
// Everything a gate writes is in one temporary directory, everything it listens on is 127.0.0.1,
// and when the test ends, however it ends, nothing is left. Before that, all it wrote and all it
// tells is searched for every token the package has seen: a token exists in the client and in the
// one answer that shows it.
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

// Gate is one Caddy process, or one that was stopped and may be started again on the same data. Its
// methods fail the test when the harness itself cannot go on; what the product answers is for the
// caller to judge.
type Gate struct {
	Upstream *Upstream

	URL    string // http://127.0.0.1:port, HTTP/1.1
	TLSURL string // https://127.0.0.1:port, HTTP/1.1 and HTTP/2
	Admin  string // the admin endpoint as `--address` takes it
	Dir    string // all that Caddy writes
	Data   string // Caddy's data directory; apikeys.db is in it

	config    Config
	env       []string
	proc      *process
	started   bool          // before
	startTook time.Duration // the last time
}

// Start builds Caddy if need be, runs it and returns when it serves.
func Start(t testing.TB, c Config) *Gate {
	t.Helper()
	// not t.TempDir: a unix socket's path has room for 108 bytes
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

	for try := 0; ; try++ { // another program may take a port between our look and Caddy's bind
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
		// the race detector else waits for a second at the end of each process, every command's too
		"GORACE=atexit_sleep_ms=0",
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

// Start runs a stopped or killed gate again, same configuration, same data, same ports.
func (g *Gate) Start(t testing.TB) {
	t.Helper()
	if err := g.start(); err != nil {
		t.Fatalf("%v\n%s", err, redact(g.Output()))
	}
	g.awaitDatabase(t)
}

// Stop ends Caddy the way a service manager does.
func (g *Gate) Stop(t testing.TB) {
	t.Helper()
	if err := g.proc.stop(); err != nil {
		t.Errorf("%v\n%s", err, redact(g.Output()))
	}
}

// Kill is kill -9.
func (g *Gate) Kill() { g.proc.kill() }

// Restart is Stop and Start.
func (g *Gate) Restart(t testing.TB) {
	t.Helper()
	g.Stop(t)
	g.Start(t)
}

// Pid is Caddy's process id, for tests that send signals of their own.
func (g *Gate) Pid() int { return g.proc.cmd.Process.Pid }

// Reload gives the running Caddy another configuration, through `caddy reload`. Later starts use it
// too.
func (g *Gate) Reload(t testing.TB, c Config) Result {
	t.Helper()
	r := g.Caddy(t, "", "reload", "--adapter", "caddyfile", "--config", g.writeConfig(t, c),
		"--address", g.Admin)
	if r.Exit == 0 {
		g.config = c
	}
	return r
}

// Adapt is the JSON that Caddy makes of a configuration, or its complaint.
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

// Output is all that Caddy has written to stdout and stderr, over all its starts.
func (g *Gate) Output() string { return read(filepath.Join(g.Dir, "output.log")) }

// AccessLog is the sites' access log, one JSON object a line. Caddy writes it after the answer: see
// Until.
func (g *Gate) AccessLog() string { return read(filepath.Join(g.Dir, "access.log")) }

func read(path string) string {
	text, _ := os.ReadFile(path) // not there yet is empty
	return string(text)
}

// Until waits for what nobody announces. Whatever has an event should be waited for by it.
func Until(t testing.TB, what string, true func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 20 s still not: %s", what)
		}
	}
}

// finish looks for tokens and for signs of a fault, and ends Caddy.
func (g *Gate) finish(t testing.TB) {
	if g.proc == nil {
		return
	}
	var told map[string]string
	if g.proc.running() {
		told = map[string]string{
			"the metrics":               string(g.admin(t, "GET", "/metrics", nil).Body),
			"the configuration it runs": string(g.admin(t, "GET", "/config/", nil).Body),
		}
		g.Stop(t)
	} else if g.proc.unexpected() {
		t.Errorf("Caddy ended by itself\n%s", redact(g.Output()))
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

// withoutKnownRace takes out the race that Caddy 2.11.9 has by itself: when an upstream answers
// before it has read the whole body, the access log reads the body's length while the transport
// still counts it.
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

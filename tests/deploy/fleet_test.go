package deploy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/redistest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// A fleet runs the deployment of compose.yaml as processes, with the same Caddyfiles, postgres.sql,
// redis.conf, secrets and Prometheus. Each container has its own loopback address, so that all
// gates can have the same ports.
type fleet struct {
	dir      string
	postgres *postgrestest.Server
	gates    [3]*node
	balancer *node
	client   *http.Client // with an address of its own
}

const clientAddress = "127.0.0.9"

// A node is a Caddy with one of the Caddyfiles.
type node struct {
	host, port, internal, admin string
	log                         string
	notices                     *net.UnixConn // its notifications to the service manager
	cmd                         *exec.Cmd
	ended                       chan struct{}
}

// file returns the path of a file in deploy/.
func file(t testing.TB, name string) string {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "deploy", name)
}

func text(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// secrets runs make-secrets and returns the directory.
func secrets(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "secrets")
	if out, err := exec.Command(file(t, "make-secrets"), dir).CombinedOutput(); err != nil {
		t.Fatalf("make-secrets: %v\n%s", err, out)
	}
	return dir
}

func startFleet(t *testing.T) *fleet {
	t.Helper()
	// The path of a Unix socket has room for 108 bytes, which t.TempDir may exceed.
	dir, err := os.MkdirTemp("", "fleet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fleet{dir: dir, postgres: postgrestest.StartFor(t)}
	secrets := secrets(t)

	host, port, _ := net.SplitHostPort(f.postgres.Address())
	psql := exec.Command("psql", "--no-psqlrc", "--no-password", "-v", "ON_ERROR_STOP=1", "-f",
		file(t, "postgres.sql"))
	psql.Env = append(os.Environ(), "PGHOST="+host, "PGPORT="+port, "PGUSER=postgres",
		"PGPASSWORD="+postgrestest.Password,
		"DATABASE_PASSWORD_FILE="+filepath.Join(secrets, "database_password"))
	if out, err := psql.CombinedOutput(); err != nil {
		t.Fatalf("postgres.sql: %v\n%s", err, out)
	}
	redis := redistest.Start(t, text(t, file(t, "redis.conf")),
		"aclfile "+filepath.Join(secrets, "redis.acl"))

	hosts := []string{"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"}
	port, internal := fmt.Sprint(freeport.For(t, hosts...)), fmt.Sprint(freeport.For(t, hosts...))
	newNode := func(i int) *node {
		// Caddy's admin endpoint does not accept 127.0.0.2 as host.
		admin := fmt.Sprintf("127.0.0.1:%d", freeport.For(t))
		return &node{host: hosts[i], port: port, internal: internal, admin: admin,
			log: filepath.Join(dir, hosts[i]+".log")}
	}
	upstream := gate.NewUpstream(t)
	var targets []string
	for i := range f.gates {
		n := newNode(i)
		f.gates[i] = n
		targets = append(targets, net.JoinHostPort(n.host, n.port))
		n.start(t, dir, "Caddyfile", "PORT="+n.port, "UPSTREAM="+upstream.Addr, "LEASE=60s",
			"DATABASE=postgres://apikeys:{file."+secrets+"/database_password}@"+
				f.postgres.Address()+"/apikeys?search_path=gate",
			"CACHE=redis://apikeys:{file."+secrets+"/redis_password}@"+redis.Addr())
	}
	f.balancer = newNode(3)
	f.balancer.start(t, dir, "Caddyfile.balancer", "SITE=http://:"+f.balancer.port,
		"GATES="+strings.Join(targets, " "))
	for _, n := range append(f.gates[:], f.balancer) { // compose starts them at once too
		n.ready(t)
	}

	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientAddress)}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	f.client = &http.Client{Transport: transport}
	return f
}

// environ returns the environment of a Caddy: only the variables that the Caddyfile uses.
func (n *node) environ(dir string, more ...string) []string {
	home := filepath.Join(dir, n.host)
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_DATA_HOME=" + home,
		"XDG_CONFIG_HOME=" + home,
		"GORACE=atexit_sleep_ms=0", // otherwise the race detector sleeps a second at exit
		"BIND=" + n.host, "ADMIN=" + n.admin, "INTERNAL_PORT=" + n.internal}, more...)
}

// start runs a Caddyfile until the end of the test.
func (n *node) start(t *testing.T, dir, caddyfile string, env ...string) {
	t.Helper()
	socket := filepath.Join(dir, n.host+".sock")
	var err error
	if n.notices, err = net.ListenUnixgram("unixgram",
		&net.UnixAddr{Name: socket, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.notices.Close() })
	log, err := os.Create(n.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.Command(gate.Binary(t), "run", "--config", file(t, caddyfile))
	n.cmd.Env = append(n.environ(dir, env...), "NOTIFY_SOCKET="+socket)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.ended = make(chan struct{})
	go func() {
		n.cmd.Wait()
		close(n.ended)
	}()
	t.Cleanup(n.kill)
}

// ready waits for the notification that Caddy is ready, as systemd does.
func (n *node) ready(t *testing.T) {
	t.Helper()
	n.notices.SetReadDeadline(time.Now().Add(60 * time.Second))
	for notice := make([]byte, 1024); ; {
		size, err := n.notices.Read(notice)
		if err != nil {
			t.Fatalf("%s is not ready: %v\n%s", n.host, err, gate.Redact(text(t, n.log)))
		}
		if strings.Contains(string(notice[:size]), "READY=1") {
			return
		}
	}
}

func (n *node) kill() {
	n.cmd.Process.Kill()
	<-n.ended
}

// stop stops Caddy as a service manager does, within the time limit of compose and systemd.
func (n *node) stop(t *testing.T) {
	t.Helper()
	n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.ended:
		if !n.cmd.ProcessState.Success() {
			t.Errorf("%s: %v after SIGTERM", n.host, n.cmd.ProcessState)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("%s is still running 30 s after SIGTERM", n.host)
	}
}

// apikeys runs the command line as `docker compose exec gateN caddy apikeys …` does.
func (f *fleet) apikeys(t *testing.T, n *node, args ...string) (stdout string) {
	t.Helper()
	cmd := exec.Command(gate.Client(t),
		append(append([]string{"apikeys"}, args...), "--address", n.admin)...)
	cmd.Env = n.environ(f.dir)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	gate.WatchTokensIn(string(out))
	if err != nil {
		t.Fatalf("caddy apikeys %v: %v\n%s", args, err, gate.Redact(said.String()))
	}
	return strings.TrimSpace(string(out))
}

// mint creates a read-only key.
func (f *fleet) mint(t *testing.T, n *node, more ...string) (id string, token gate.Token) {
	t.Helper()
	token = gate.Token(f.apikeys(t, n,
		append([]string{"keys", "mint", "--name", "test", "--access", "read_only"}, more...)...))
	_, body, _ := strings.Cut(string(token), "_")
	return body[:12], token // a token begins with the id
}

// ask sends a GET to the balancer.
func (f *fleet) ask(t *testing.T, token gate.Token) gate.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return gate.Ask(ctx, f.client, f.url(), token)
}

// url returns a URL behind the balancer.
func (f *fleet) url() string {
	return "http://" + net.JoinHostPort(f.balancer.host, f.balancer.port) + "/v1/things"
}

// inside sends a request to a port that only the balancer and Prometheus use.
func inside(t *testing.T, method, address, path string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(content)
}

func (n *node) inside(t *testing.T, method, path string) (status int, body string) {
	t.Helper()
	return inside(t, method, net.JoinHostPort(n.host, n.internal), path)
}

const many = 40 // enough requests for each of three gates to get some

// TestFleet runs the deployment of compose.yaml and breaks it.
func TestFleet(t *testing.T) {
	t.Parallel()
	f := startFleet(t)

	id, token := f.mint(t, f.gates[0])
	all := func(what string, status int, code string, token gate.Token) {
		t.Helper()
		for range many {
			if got := f.ask(t, token); got.Status != status || got.Code() != code {
				t.Fatalf("%s: want %d %s, got %v", what, status, code, got)
			}
		}
	}
	all("minted through one gate, used through the public port", 200, "", token)
	_, live := f.mint(t, f.gates[1], "--allow-ip", clientAddress)
	all("a key for the client's address", 200, "", live)
	_, balancers := f.mint(t, f.gates[2], "--allow-ip", "127.0.0.1")
	all("a key for the balancer's address", 403, "address_not_allowed", balancers)
	spoofed, err := http.NewRequestWithContext(t.Context(), "GET", f.url(), nil)
	if err != nil {
		t.Fatal(err)
	}
	spoofed.Header.Set("Authorization", "Bearer "+string(balancers))
	spoofed.Header.Set("X-Forwarded-For", "127.0.0.1")
	answer, err := f.client.Do(spoofed)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != 403 {
		t.Errorf("a client that claims the balancer's address: %s", answer.Status)
	}

	if got, _ := inside(t, "GET", net.JoinHostPort(f.balancer.host, f.balancer.port),
		"/apikeys/v1/health"); got != 401 {
		t.Errorf("the public port serves the management API: %d", got)
	}
	for _, n := range f.gates {
		for path, want := range map[string]int{"/health": 200, "/metrics": 200,
			"/apikeys/v1/keys": 404, "/health/../apikeys/v1/keys": 404, "/config/": 404} {
			if got, _ := n.inside(t, "GET", path); got != want {
				t.Errorf("%s on the inner port of %s: %d", path, n.host, got)
			}
		}
		if got, _ := n.inside(t, "POST", "/health"); got != 404 {
			t.Errorf("POST /health on the inner port of %s: %d", n.host, got)
		}
		gate.Until(t, n.host+" serves requests of the public port", func() bool {
			f.ask(t, live)
			_, metrics := n.inside(t, "GET", "/metrics")
			return strings.Contains(metrics,
				`caddy_apikeys_requests_total{namespace="default",outcome="ok"}`)
		})
	}

	p := f.prometheus(t)
	f.apikeys(t, f.gates[1], "keys", "revoke", id, "--yes")
	all("revoked through another gate", 401, "key_revoked", token)
	p.checkQueries(t, f, func() { f.ask(t, live); f.ask(t, token) })
	// An alert may be pending until Prometheus has all metrics.
	gate.Until(t, "there are no alerts in a healthy fleet", func() bool {
		return len(p.query(t, "ALERTS")) == 0
	})

	f.gates[2].kill()
	all("after kill -9 of one gate", 200, "", live)

	// Without the database no gate is healthy. They continue to serve cached keys.
	if err := f.postgres.Halt(); err != nil {
		t.Fatal(err)
	}
	gate.Until(t, "the balancer finds no healthy gate", func() bool {
		all("a known key while the database is unavailable", 200, "", live)
		log := text(t, f.balancer.log)
		return strings.Contains(log, `"status_code":503,"host":"`+f.gates[0].host) &&
			strings.Contains(log, `"status_code":503,"host":"`+f.gates[1].host)
	})
	all("a cached key after the balancer has noticed", 200, "", live)
	all("a revoked key then", 401, "key_revoked", token)
	all("no key then", 401, "invalid_key", "ak_nothing")
	gate.Until(t, "the alert about the database is pending", func() bool {
		return len(p.query(t, `ALERTS{alertname="ApiKeysDatabaseErrors"}`)) > 0
	})
	if err := f.postgres.Run(); err != nil {
		t.Fatal(err)
	}
	for _, n := range f.gates[:2] {
		gate.Until(t, fmt.Sprintf("%s is healthy again", n.host), func() bool {
			status, _ := n.inside(t, "GET", "/health")
			return status == 200
		})
	}
	_, later := f.mint(t, f.gates[0])
	all("minted when the database is back", 200, "", later)

	for _, n := range []*node{f.balancer, f.gates[0], f.gates[1]} {
		n.stop(t)
	}
	gate.SearchForTokens(t, f.dir)
	for _, n := range append(f.gates[:], f.balancer) {
		for _, sign := range []string{"DATA RACE", "panic: ", "panic serving"} {
			if _, after, found := strings.Cut(text(t, n.log), sign); found {
				t.Errorf("%s: %s%s", n.host, sign, gate.Redact(after))
			}
		}
	}
}

package gate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has exited and cmd.ProcessState is set
	asked atomic.Bool   // whether the test has stopped the process
}

// start runs `caddy run` and returns when Caddy serves. Like `caddy start`, it passes an address to
// Caddy, which connects to it once it serves.
func (g *Gate) start() error {
	config := filepath.Join(g.Dir, "Caddyfile")
	if err := os.WriteFile(config, []byte(g.config.Text()), 0o600); err != nil {
		return err
	}
	output, err := os.OpenFile(filepath.Join(g.Dir, "output.log"),
		os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	ready, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ready.Close()

	path := g.config.Binary
	if path == "" {
		if path, err = binary(); err != nil {
			return err
		}
	}
	cmd := exec.Command(path, "run", "--adapter", "caddyfile", "--config", config, "--pingback",
		ready.Addr().String())
	cmd.Dir, cmd.Env = g.Dir, g.env
	cmd.Stdin = bytes.NewBufferString("ready")
	cmd.Stdout, cmd.Stderr = output, output
	// If the test binary panics or times out, no Cleanup runs.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	g.proc = p
	go func() {
		cmd.Wait()
		close(p.ended)
	}()

	serving := make(chan struct{})
	go func() {
		if conn, err := ready.Accept(); err == nil {
			io.Copy(io.Discard, conn)
			conn.Close()
			close(serving)
		}
	}()
	select {
	case <-serving:
		g.startTook = time.Since(begun)
		return nil
	case <-p.ended:
		p.asked.Store(true)
		return fmt.Errorf("Caddy did not start: %v", cmd.ProcessState)
	case <-time.After(60 * time.Second):
		p.kill()
		return errors.New("Caddy did not start within 60 s")
	}
}

// awaitDatabase waits up to 20 s for a database that a busy machine opens too late: a start of
// Caddy waits only 5 s for it. It does not fail, because the test may have locked the database.
// After the first start it does not wait for PostgreSQL, which the test may have broken.
func (g *Gate) awaitDatabase(t testing.TB) {
	t.Helper()
	if g.startTook < 5*time.Second || g.started && strings.Contains(g.config.Text(), "postgres") {
		return
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if !g.proc.running() || g.Call(t, "GET", "/health", nil).Status == 200 {
			return
		}
	}
}

func (p *process) stop() error {
	p.asked.Store(true)
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return nil
	case <-time.After(30 * time.Second):
		p.kill()
		return errors.New("Caddy did not stop within 30 s of SIGTERM")
	}
}

func (p *process) kill() {
	p.asked.Store(true)
	p.cmd.Process.Kill()
	<-p.ended
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

func (p *process) unexpected() bool { return !p.running() && !p.asked.Load() }

// Result is the result of a command.
type Result struct {
	Stdout, Stderr string
	Exit           int
}

// String formats the result for a failure message, without tokens.
func (r Result) String() string {
	return redact(fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.Exit, r.Stdout, r.Stderr))
}

// Caddy runs a command of Caddy in the gate's environment.
func (g *Gate) Caddy(t testing.TB, stdin string, args ...string) Result {
	t.Helper()
	cmd := exec.Command(Client(t), args...)
	cmd.Dir, cmd.Env = g.Dir, g.env
	cmd.Stdin = bytes.NewBufferString(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("running caddy %v: %v", args, err)
	}
	watchAll(stdout.String())
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// APIKeys runs `caddy apikeys ARGS… --address ADDRESS` against the gate.
func (g *Gate) APIKeys(t testing.TB, stdin string, args ...string) Result {
	t.Helper()
	return g.Caddy(t, stdin, append(append([]string{"apikeys"}, args...), "--address", g.Admin)...)
}

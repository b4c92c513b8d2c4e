//go:build unix

// Package redistest starts real Redis servers for tests. Start reading at [Start].
package redistest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/suspend"
)

// A Server is a redis-server on 127.0.0.1 that stores nothing on disk. It stops at the end of the
// test or of this process.
type Server struct {
	// Config is the configuration. {port} is replaced by the port.
	Config string
	// Args are additional arguments of the program.
	Args []string
	// Ready is the text of the log line that reports readiness. Default is the text of a server on
	// a TCP port.
	Ready string

	t      testing.TB
	dir    string
	port   int
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
}

// New returns a server that has not been started.
func New(t testing.TB, config ...string) *Server {
	t.Helper()
	return &Server{t: t, dir: t.TempDir(), Config: strings.Join(config, "\n"),
		Ready: "Ready to accept connections"}
}

// Start starts a server with additional lines of configuration.
func Start(t testing.TB, config ...string) *Server {
	t.Helper()
	s := New(t, append([]string{"port {port}"}, config...)...)
	s.Run()
	return s
}

// Port returns the port of the server, which does not change.
func (s *Server) Port() int { return s.port }

// Addr returns HOST:PORT.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// Dir returns the directory of the server.
func (s *Server) Dir() string { return s.dir }

// Run starts the server and waits until it is ready. After Kill it uses the same port again. The
// test fails if redis-server is not installed.
func (s *Server) Run() {
	s.t.Helper()
	moving := s.port == 0
	for range 5 { // another program may take the port first
		if moving {
			s.port = freeport.For(s.t)
		}
		log, ok := s.try()
		if ok {
			return
		}
		if !strings.Contains(log, "in use") {
			s.t.Fatalf("starting redis-server:\n%s", log)
		}
	}
	s.t.Fatalf("starting redis-server: port %d is in use", s.port)
}

func (s *Server) try() (log string, ok bool) {
	s.t.Helper()
	file := filepath.Join(s.dir, "redis.conf") // Sentinel writes to it
	text := "bind 127.0.0.1\nsave \"\"\nappendonly no\ndir " + s.dir + "\n" +
		strings.ReplaceAll(s.Config, "{port}", fmt.Sprint(s.port)) + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("redis-server", append([]string{file}, s.Args...)...)
	cmd.SysProcAttr = new(syscall.SysProcAttr)
	endWithParent(cmd.SysProcAttr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("starting redis-server, which must be installed: %v", err)
	}
	ready, exited := make(chan struct{}), make(chan struct{})
	s.cmd, s.exited = cmd, exited
	s.t.Cleanup(func() { end(cmd, exited) })
	var seen strings.Builder // the log until the server is ready or has ended
	go func() {
		defer close(exited)
		up := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if !up {
				fmt.Fprintln(&seen, lines.Text())
				if up = strings.Contains(lines.Text(), s.Ready); up {
					close(ready)
				}
			}
		}
		_ = cmd.Wait()
	}()
	select {
	case <-ready:
		return "", true
	case <-exited:
		return seen.String(), false
	case <-time.After(20 * time.Second):
		s.t.Fatal("starting redis-server: not ready after 20 s")
		return "", false
	}
}

// Kill ends the server like kill -9. Run starts it again.
func (s *Server) Kill() { end(s.cmd, s.exited) }

func end(cmd *exec.Cmd, exited chan struct{}) {
	select {
	case <-exited:
	default:
		_ = cmd.Process.Kill() // also ends a stopped process
		<-exited
	}
}

// Stop makes the server hang: the kernel accepts connections, and the server never answers.
func (s *Server) Stop() {
	s.t.Helper()
	if err := suspend.Child(s.cmd.Process); err != nil {
		s.t.Fatal(err)
	}
}

// Continue undoes Stop.
func (s *Server) Continue() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		s.t.Fatal(err)
	}
}

package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/suspend"
)

// Try is Call for goroutines, and for a gate that may be stopped: it never fails the test. Without
// a response, Err is set and Status is 0.
func (g *Gate) Try(ctx context.Context, method, path string, body JSON) Response {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return Response{Err: err}
		}
		content = bytes.NewReader(text)
	}
	host := g.Admin
	if g.config.AdminSocket {
		host = "localhost"
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+host+"/apikeys/v1"+path, content)
	if err != nil {
		return Response{Err: err}
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := (&http.Transport{DialContext: g.dialAdmin, DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return Response{Err: err}
	}
	defer answer.Body.Close()
	got := Response{Status: answer.StatusCode, Header: answer.Header}
	got.Body, got.Err = io.ReadAll(answer.Body)
	watchAll(string(got.Body))
	if got.Err != nil {
		got.Status = 0 // part of a response does not count
	}
	return got
}

// Key returns the key and token of a successful Try of POST /keys or of a rotation.
func (r Response) Key() (k Key, ok bool) {
	if r.Status != 200 && r.Status != 201 && r.Status != 202 {
		return Key{}, false
	}
	answer := r.JSON()
	object, _ := answer["key"].(JSON)
	id, _ := object["id"].(string)
	token, _ := answer["token"].(string)
	return Key{ID: id, Token: Token(token), JSON: object}, id != "" && token != ""
}

// Complete reports whether the response to a change says that every node has applied it.
func (r Response) Complete() bool {
	propagation, _ := r.JSON()["propagation"].(JSON)
	return r.Status == 200 && propagation["complete"] == true
}

// Ask sends a GET with a token through client. It never fails the test: without a response, Err is
// set and Status is 0.
func Ask(ctx context.Context, client *http.Client, url string, token Token) Response {
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return Response{Err: err}
	}
	r.Header.Set("Authorization", "Bearer "+string(token))
	answer, err := client.Do(r)
	if err != nil {
		return Response{Err: err}
	}
	defer answer.Body.Close()
	got := Response{Status: answer.StatusCode, Header: answer.Header}
	got.Body, got.Err = io.ReadAll(answer.Body)
	return got
}

// Config returns the gate's configuration.
func (g *Gate) Config() Config { return g.config }

// Pause stops Caddy with SIGSTOP until Resume or the end of the test. All threads have stopped when it
// returns.
func (g *Gate) Pause(t testing.TB) {
	t.Helper()
	if err := suspend.Child(g.proc.cmd.Process); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Resume)
}

// Resume continues a paused Caddy.
func (g *Gate) Resume() { g.proc.cmd.Process.Signal(syscall.SIGCONT) }

// StartFails runs Caddy again where it must refuse to start, and returns its output.
func (g *Gate) StartFails(t testing.TB) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(t), "run", "--adapter", "caddyfile", "--config",
		filepath.Join(g.Dir, "Caddyfile"))
	cmd.Dir, cmd.Env = g.Dir, g.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	result := Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil || !errors.As(err, new(*exec.ExitError)) {
		t.Fatalf("Caddy should have refused to start: %v\n%v", err, result)
	}
	return result
}

// AdaptRunning is Adapt through the /adapt endpoint of the running Caddy, which is much faster than
// a new process.
func (g *Gate) AdaptRunning(t testing.TB, caddyfile string) Response {
	t.Helper()
	return g.admin(t, "POST", "/adapt", caddyfile, "Content-Type: text/caddyfile")
}

// Validate runs `caddy validate` with a configuration.
func (g *Gate) Validate(t testing.TB, c Config) Result {
	t.Helper()
	return g.Caddy(t, "", "validate", "--adapter", "caddyfile", "--config", g.writeConfig(t, c))
}

// Env returns the environment of commands that use this gate.
func (g *Gate) Env() []string { return g.env }

// Redact removes tokens from text for a test's output.
func Redact(text string) string { return redact(text) }

// WatchTokensIn watches every string in text that has the form of a token.
func WatchTokensIn(text string) { watchAll(text) }

// SearchForTokens fails the test if a file below dir contains a watched token. The files of gates
// are searched anyway.
func SearchForTokens(t testing.TB, dir string) {
	t.Helper()
	reportLeaksIn(t, dir)
}

// Package scenarios runs testdata/*.txtar: commands as a user types them, against a running Caddy, and what they must answer.
//
// In them, `caddy` is the Caddy under test. Beside what testscript knows:
//
//	token NAME              keeps what the last command wrote to standard output in the file NAME; it must be one token and nothing else
//	get PATH NAME STATUS [CODE]
//	                        sends GET with the token in the file NAME, or with none if that is -, and wants this answer; post likewise
//	capture VAR REGEXP      sets $VAR to the first group in what the last command wrote
//	shell LINE              runs a line of the shell
//
// While the script runs, so does a Caddy, with what the script's file `site` holds as its site or a plain `api_key`, and its
// admin endpoint on a unix socket if there is a file `admin-socket`. $CADDY_ADMIN, where the commands look by themselves, is its
// address. At the end, all that Caddy wrote and tells is searched for the tokens that the script has seen.
package scenarios

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m) }

type (
	gateKey struct{}
	testKey struct{}
)

func TestScenarios(t *testing.T) {
	bin := t.TempDir()
	if err := os.Symlink(gate.Binary(t), filepath.Join(bin, "caddy")); err != nil {
		t.Fatal(err)
	}
	testscript.RunT(redacting{t}, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			t := env.T().(redacting).T
			var config gate.Config
			if text, err := os.ReadFile(filepath.Join(env.WorkDir, "site")); err == nil {
				config.Site = string(text)
			}
			_, err := os.Stat(filepath.Join(env.WorkDir, "admin-socket"))
			config.AdminSocket = err == nil
			g := gate.Start(t, config)
			env.Values[gateKey{}], env.Values[testKey{}] = g, t
			for _, assignment := range g.Env() {
				name, value, _ := strings.Cut(assignment, "=")
				env.Setenv(name, value)
			}
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			env.Setenv("CADDY_ADMIN", g.Admin)
			env.Setenv("URL", g.URL)
			env.Defer(func() { watchFiles(t, env.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"token": token, "capture": capture, "shell": shell,
			"get": send("GET"), "post": send("POST"),
		},
	})
}

// redacting shows no token when a script fails.
type redacting struct{ *testing.T }

func (t redacting) Log(args ...any) { t.T.Log(gate.Redact(fmt.Sprint(args...))) }
func (t redacting) Fatal(args ...any) {
	t.T.Helper()
	t.T.Fatal(gate.Redact(fmt.Sprint(args...)))
}
func (t redacting) Verbose() bool { return testing.Verbose() }
func (t redacting) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(redacting{t}) })
}

// watchFiles makes the tokens in a script's files part of what the gate's own files are searched for.
func watchFiles(t *testing.T, dir string) {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		gate.WatchTokensIn(string(text))
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

var oneToken = regexp.MustCompile(`^[a-z][a-z0-9_]*_[0-9A-Za-z]{58}\n$`)

func token(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: token NAME")
	}
	text := ts.ReadFile("stdout")
	if !oneToken.MatchString(text) {
		ts.Fatalf("standard output is not one token and a newline")
	}
	if strings.Contains(ts.ReadFile("stderr"), strings.TrimSpace(text)) {
		ts.Fatalf("the token stands on standard error too")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture VAR REGEXP")
	}
	found := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout") + ts.ReadFile("stderr"))
	if len(found) < 2 {
		ts.Fatalf("the last command did not write %s", args[1])
	}
	ts.Setenv(args[0], found[1])
}

func shell(ts *testscript.TestScript, neg bool, args []string) {
	path, err := exec.LookPath("sh")
	ts.Check(err)
	if err := ts.Exec(path, "-c", strings.Join(args, " ")); (err != nil) != neg {
		ts.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
}

func send(method string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 3 || len(args) > 4 {
			ts.Fatalf("usage: %s PATH NAME STATUS [CODE]", strings.ToLower(method))
		}
		r := gate.Request{Method: method, Target: args[0]}
		if args[1] != "-" {
			r.Header = []string{"Authorization: Bearer " + strings.TrimSpace(ts.ReadFile(args[1]))}
		}
		want := strings.Join(args[2:], " ")
		g := ts.Value(gateKey{}).(*gate.Gate)
		got := g.Do(ts.Value(testKey{}).(*testing.T), r)
		if is := strings.TrimSpace(strconv.Itoa(got.Status) + " " + got.Code()); is != want {
			ts.Fatalf("%s %s with %s: want %s, got %v", method, args[0], args[1], want, got)
		}
	}
}

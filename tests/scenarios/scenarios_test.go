// Package scenarios runs testdata/*.txtar: commands as a user types them, against a running Caddy,
// and what they must answer.
//
// In them, `caddy` is the Caddy under test. Beside what testscript knows:
//
//	token NAME              keeps what the last command wrote to standard output in the file NAME; it must be one token and nothing else
//	get TARGET NAME STATUS [CODE] [BODY]
//	                        sends GET with the token in the file NAME, or with none if that is -, and wants this answer, whose body is then the
//	                        standard output; post, put, patch and delete likewise. TARGET is a path of api.example.com, or a URL, BODY is
//	                        @FILE, and NAME may say where the token goes: `X-Api-Key:NAME`, or basic:NAME for a file with user:password
//	until get ...           repeats a request until the answer is this one
//	as NAME COMMAND         runs `caddy apikeys COMMAND` through keys.example.com, with the token in the file NAME.token
//	capture VAR REGEXP      sets $VAR to the first group in what the last command wrote
//	shell LINE              runs a line of the shell
//
// While the script runs, so does a Caddy: with the Caddyfile of the page that the script's file
// `recipe` names, and the file `api` as the site of the API behind it; or with what the file `site`
// holds as its site; or with a plain `api_key`. Its admin endpoint is on a unix socket if there is
// a file `admin-socket`. $CADDY_ADMIN, where the commands look by themselves, is its address. At
// the end, all that Caddy wrote and tells is searched for the tokens that the script has seen.
package scenarios

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	if err := os.Symlink(gate.Client(t), filepath.Join(bin, "caddy")); err != nil {
		t.Fatal(err)
	}
	testscript.RunT(redacting{t}, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			t := env.T().(redacting).T
			config, err := configOf(env.WorkDir)
			if err != nil {
				return err
			}
			g := gate.Start(t, config)
			env.Values[gateKey{}], env.Values[testKey{}] = g, t
			for _, assignment := range g.Env() {
				name, value, _ := strings.Cut(assignment, "=")
				env.Setenv(name, value)
			}
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			env.Setenv("CADDY_ADMIN", g.Admin)
			env.Setenv("KEYS", g.URL)
			env.Defer(func() { watchFiles(t, env.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"token": token, "capture": capture, "assign": assign, "shell": shell, "as": asCommand,
			"until": until,
			"get":   send("GET"), "post": send("POST"), "put": send("PUT"), "patch": send("PATCH"),
			"delete": send("DELETE"),
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

// watchFiles makes the tokens in a script's files part of what the gate's own files are searched
// for.
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

// assign sets a variable to what a command of the shell writes to standard output.
func assign(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: assign VAR COMMAND")
	}
	shell(ts, false, args[1:])
	value := strings.TrimSpace(ts.ReadFile("stdout"))
	if value == "" || value == "null" {
		ts.Fatalf("%s: no output", args[1])
	}
	ts.Setenv(args[0], value)
}

func shell(ts *testscript.TestScript, neg bool, args []string) {
	path, err := exec.LookPath("sh")
	ts.Check(err)
	if err := ts.Exec(path, "-c", strings.Join(args, " ")); (err != nil) != neg {
		ts.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
}

// configOf is the configuration that the files of a script ask for.
func configOf(dir string) (config gate.Config, err error) {
	files := map[string]string{}
	for _, name := range []string{"recipe", "api", "site", "admin-socket"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			files[name] = string(text)
		}
	}
	if page := strings.TrimSpace(files["recipe"]); page != "" {
		r, err := gate.ReadRecipe(page)
		if err != nil {
			return config, err
		}
		return r.Config(dir, files["api"])
	}
	config.Site = files["site"]
	_, config.AdminSocket = files["admin-socket"]
	return config, nil
}

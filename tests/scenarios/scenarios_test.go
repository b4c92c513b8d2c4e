// Package scenarios runs testdata/*.txtar: commands that a user types against a running Caddy, with
// their expected output.
//
// In addition to the commands of testscript, the scripts use:
//
//	token NAME           saves the standard output of the last command, which must be exactly
//	                     one token, in the file NAME
//	get TARGET NAME STATUS [CODE] [@FILE]
//	                     sends GET with the token in the file NAME, or without one if NAME is -,
//	                     and checks the response. Its body becomes the standard output. TARGET
//	                     is a path of api.example.com or a URL, and FILE has the body of the
//	                     request. NAME may be X-Api-Key:NAME to send the token in that header,
//	                     or basic:NAME for a file with user:password. post, put, patch and
//	                     delete work alike.
//	until get …          repeats a get until it succeeds
//	as NAME COMMAND      runs `caddy apikeys COMMAND` through keys.example.com, with the token in
//	                     the file NAME.token
//	capture VAR REGEXP   sets $VAR to the first group in the output of the last command
//	assign VAR COMMAND   sets $VAR to the output of a shell command
//	shell LINE           runs a shell command
//
// A Caddy runs during the script. The script's file `recipe` names a page whose Caddyfile Caddy
// runs, and the file `api` is then the site of the API behind it. Without `recipe`, the file `site`
// is the site, or a plain `api_key`. With a file `admin-socket`, the admin endpoint is on a Unix
// socket. $CADDY_ADMIN is the address of the admin endpoint. At the end, the harness searches
// everything that Caddy wrote for the tokens of the script.
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

func TestMain(m *testing.M) {
	gate.DetectRaces()
	gate.Main(m)
}

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

// redacting removes tokens from the output of a script that fails.
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

// watchFiles adds the tokens in a script's files to those that the harness searches for.
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
		ts.Fatalf("standard error also contains the token")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture VAR REGEXP")
	}
	output := ts.ReadFile("stdout") + ts.ReadFile("stderr")
	found := regexp.MustCompile(args[1]).FindStringSubmatch(output)
	if len(found) < 2 {
		ts.Fatalf("the output of the last command does not match %s", args[1])
	}
	ts.Setenv(args[0], found[1])
}

// assign sets a variable to the standard output of a shell command.
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

// configOf returns the configuration for the files of a script.
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

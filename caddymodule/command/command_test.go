package command

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// cliToken is in answers and on standard input. It must not appear anywhere else, unless a test
// expects it.
const cliToken = "ak_4fYQ0hTz81LkabcdefghijklmnopqrstuvwxyzABCDEFGH012345"

const cliID = "4fYQ0hTz81Lk"

// cliCommand returns `caddy apikeys` below a root command like Caddy's.
func cliCommand() *cobra.Command {
	root := &cobra.Command{Use: "caddy", SilenceUsage: true}
	cmd := &cobra.Command{}
	caddycmd.Commands()["apikeys"].CobraFunc(cmd)
	root.AddCommand(cmd)
	return root
}

// cliRun is the result of one run of the command.
type cliRun struct {
	out, err string
	status   int
}

func runCLI(stdin string, args ...string) cliRun {
	var out, errs bytes.Buffer
	status := runCLITo(&out, &errs, stdin, args...)
	return cliRun{out.String(), errs.String(), status}
}

func runCLITo(out, errs io.Writer, stdin string, args ...string) int {
	root := cliCommand()
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(out)
	root.SetErr(errs)
	root.SetArgs(append([]string{"apikeys"}, args...))
	switch err := root.Execute(); {
	case err == nil:
		return 0
	case err.Error() == "exiting with status 3":
		return 3
	default:
		return 1
	}
}

// A cliServer is a fake of the REST interface that records the requests.
type cliServer struct {
	address string
	mu      sync.Mutex
	calls   []cliCall
}

type cliCall struct {
	line, body string
	header     http.Header
}

// cliAnswer is the answer to one request. The last answer of a list is repeated.
type cliAnswer struct {
	status int // 0 breaks the connection
	body   any // a string is sent unchanged
}

func problem(status int, code, detail string, fields ...api.FieldError) cliAnswer {
	return cliAnswer{status, api.Problem{Title: http.StatusText(status), Status: status, Code: code,
		Detail: detail, Errors: fields}}
}

// serveCLI starts a server with answers by method and path. Other requests get 404, as from Caddy's
// admin endpoint.
func serveCLI(t *testing.T, answers map[string][]cliAnswer) *cliServer {
	t.Helper()
	s := new(cliServer)
	server := httptest.NewServer(s.handler(answers))
	t.Cleanup(server.Close)
	s.address = server.Listener.Addr().String()
	return s
}

func (s *cliServer) handler(answers map[string][]cliAnswer) http.Handler {
	served := make(map[string]int)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls = append(s.calls, cliCall{r.Method + " " + r.URL.RequestURI(), string(body),
			r.Header})
		name := r.Method + " " + strings.TrimPrefix(r.URL.Path, api.Prefix)
		list, ok := answers[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		a := list[min(served[name], len(list)-1)]
		served[name]++
		w.Header().Set("Content-Type", api.JSON)
		if _, isProblem := a.body.(api.Problem); isProblem {
			w.Header().Set("Content-Type", api.Problems)
		}
		if a.status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(a.status)
		if text, ok := a.body.(string); ok {
			_, _ = io.WriteString(w, text)
			return
		}
		_ = json.NewEncoder(w).Encode(a.body)
	})
}

// requests returns the requests so far.
func (s *cliServer) requests() []cliCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// run runs the command against s.
func (s *cliServer) run(stdin string, args ...string) cliRun {
	return runCLI(stdin, append(args, "--address", s.address)...)
}

// noToken fails the test if one of the texts contains the token.
func noToken(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(text, cliToken) {
			t.Error("the output contains the token")
		}
	}
}

// want checks the status and standard output, and that standard error contains errs.
func (r cliRun) want(t *testing.T, status int, out string, errs ...string) {
	t.Helper()
	if r.status != status || r.out != out {
		t.Errorf("status %d and output %q, want %d and %q; standard error: %s", r.status, r.out,
			status, out, r.err)
	}
	for _, text := range errs {
		if !strings.Contains(r.err, text) {
			t.Errorf("standard error lacks %q: %s", text, r.err)
		}
	}
}

// TestCommandMistyped checks that errors say what is missing or misspelt, and do not repeat the
// arguments: one may be a token.
func TestCommandMistyped(t *testing.T) {
	for words, want := range map[string]string{
		"keys revoke":   "give the ID of one key: caddy apikeys keys revoke ID",
		"keys edit a b": "give the ID of one key: caddy apikeys keys edit ID",
		"namespaces create": "give the ID of one namespace: caddy apikeys namespaces " +
			"create ID",
		"keys mnit":      "did you mean edit or mint?",
		"namspaces list": "did you mean namespaces?",
		"keys " +
			cliToken: "must be one of delete, edit, import, list, mint, revoke, rotate, show",
		"roles edit acme/b/c": "a role must be NAMESPACE/NAME",
		"roles create acme/b": "give --permission",
		"members create":      "give --name",
		"audit list --from x": "must be a time",
		"members " +
			cliToken: "must be one of create, delete, disable, edit, enable, list, show, token",
		"keys mint":                   "give --name",
		"keys show " + cliToken:       "12 letters and digits",
		"members disable " + cliToken: "rotate it",
	} {
		r := runCLI("", strings.Fields(words)...)
		r.want(t, 1, "", want)
		noToken(t, r.err)
	}
}

func TestCommandAddress(t *testing.T) {
	self := map[string][]cliAnswer{"GET /namespaces/acme": {{200, api.Namespace{ID: "acme"}}}}
	show := []string{"namespaces", "show", "acme"}
	s := serveCLI(t, self)
	dir := t.TempDir()
	t.Chdir(dir)

	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	unix := &httptest.Server{Listener: l, Config: &http.Server{Handler: s.handler(self)}}
	unix.Start()
	t.Cleanup(unix.Close)

	write := func(name, text string) string {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	t.Setenv("CLI_TEST_PLACE", s.address)
	for name, flags := range map[string][]string{
		"tcp":             {"--address", s.address},
		"tcp/ prefix":     {"--address", "tcp/" + s.address},
		"unix":            {"--address", "unix/" + socket},
		"unix with colon": {"--address", "unix:" + socket},
		"Caddyfile":       {"--config", write("Caddyfile.other", "{\n\tadmin "+s.address+"\n}\n")},
		"unix Caddyfile": {"--config",
			write("x.caddyfile", "{\n\tadmin \"unix/"+socket+"|0220\"\n}\n")},
		"adapter": {"--config", write("config", "{\n\tadmin "+s.address+"\n}\n"), "--adapter",
			"caddyfile"},
		"invalid Caddyfile": {"--config", write("Caddyfile.bad", "{\n\tnonsense {\n\t\tadmin x\n\t}\n"+
			"\tadmin {$CLI_TEST_PLACE} {\n\t\torigins a\n\t}\n}\nimport none\n:80 {\n\tnonsense {\n}\n")},
		"default of a variable": {"--config", write("Caddyfile.default",
			"{\n\tadmin {$CLI_TEST_NONE:"+s.address+"}\n}\n} }")},
		"JSON":        {"--config", write("c.json", `{"admin":{"listen":"`+s.address+`"}}`)},
		"placeholder": {"--config", write("p.json", `{"admin":{"listen":"{env.CLI_TEST_PLACE}"}}`)},
	} {
		t.Run(name, func(t *testing.T) {
			if r := runCLI("", append(show, flags...)...); r.status != 0 ||
				!strings.Contains(r.out, "acme") {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("Caddyfile in the working directory", func(t *testing.T) {
		write("Caddyfile", "{\n\tadmin "+s.address+"\n}\n")
		if r := runCLI("", show...); r.status != 0 || r.err != "" {
			t.Errorf("%+v", r)
		}
	})
	for name, row := range map[string]struct {
		flags []string
		want  string
	}{
		"admin off in a Caddyfile": {[]string{"--config",
			write("off.caddyfile", "{\n\tadmin off\n}\n:80 {\n\tnonsense\n}\n")}, "give --server"},
		"admin off": {[]string{"--config", write("off.json", `{"admin":{"disabled":true}}`)},
			"give --server"},
		"missing config": {[]string{"--config", "none.json"}, "none.json"},
		"only --adapter": {[]string{"--adapter", "caddyfile"}, "--adapter requires --config"},
		"unknown adapter": {[]string{"--config", "c.json", "--adapter", "toml9"},
			`unknown config adapter "toml9"`},
		"range": {[]string{"--address", "localhost:1-9"}, "cannot be connected to"},
		"fd":    {[]string{"--address", "fd/3"}, "cannot be connected to"},
		"--server and --address": {[]string{"--server", "https://x", "--address", s.address},
			"--server replaces --address"},
	} {
		t.Run(name, func(t *testing.T) {
			runCLI("", append(show, row.flags...)...).want(t, 1, "",
				row.want)
		})
	}
}

func TestCommandUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	runCLI("", "keys", "list", "--address", address).want(t, 1, "",
		"cannot reach Caddy's admin endpoint at "+address, "refused", "Is Caddy running there?")
	runCLI("", "keys", "list", "--address", "unix/"+filepath.Join(t.TempDir(), "none")).want(t, 1,
		"", "no such file")
	runCLI(cliToken, "keys", "list", "--server", "http://"+address).want(t, 1, "",
		"cannot reach http://"+address)

	// A Caddy without the plugin.
	serveCLI(t, nil).run("", "keys", "list").want(t, 1, "", "does not manage API keys", "list-modules")
	// A Caddy whose configuration does not use the plugin.
	s := serveCLI(t, map[string][]cliAnswer{"GET /keys": {problem(503, "unavailable",
		"No key store is running.")}})
	s.run("", "keys", "list").want(t, 1, "", "Error: No key store is running.")
	// A connection that breaks.
	s = serveCLI(t, map[string][]cliAnswer{"GET /keys": {{0, nil}}})
	s.run("", "keys", "list").want(t, 1, "", "EOF")
}

func TestCommandServer(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{
		"GET /namespaces/acme": {{200, api.Namespace{ID: "acme"}}},
		"GET /namespaces/x":    {problem(401, "invalid_key", "")},
	})
	url := "http://" + s.address
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(cliToken+"\r\nmore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]cliRun{
		"standard input": runCLI(cliToken+"\n", "namespaces", "show", "acme", "--server", url),
		"file": runCLI("", "namespaces", "show", "acme", "--server", url, "--token-file",
			file),
	} {
		if r.status != 0 {
			t.Errorf("%s: %+v", name, r)
		}
		noToken(t, r.out, r.err)
	}
	for _, call := range s.requests() {
		if call.header.Get("Authorization") != "Bearer "+cliToken {
			t.Errorf("Authorization is %d bytes", len(call.header.Get("Authorization")))
		}
	}
	runCLI(cliToken, "namespaces", "show", "x", "--server", url).want(t, 1, "",
		"does not accept the token")

	for name, row := range map[string]struct {
		stdin, server, want string
	}{
		"unencrypted": {cliToken, "http://keys.example.com", "unencrypted"},
		"empty":       {"\n" + cliToken, url, "is empty: it must be a token"},
		"not a token": {"two " + cliToken + "\n", url, "is not a token"},
		"binary":      {"\x00\x01" + cliToken, url, "is not a token"},
		"endless":     {strings.Repeat(cliToken, 200), url, "is not a token"},
		"no URL":      {cliToken, s.address, "the server's address"},
	} {
		t.Run(name, func(t *testing.T) {
			r := runCLI(row.stdin, "namespaces", "show", "acme", "--server", row.server)
			r.want(t, 1, "", row.want)
			noToken(t, r.out, r.err)
		})
	}
	runCLI("", "keys", "import", "--server", url).want(t, 1, "", "give --token-file")
	runCLI("", "verify", "--server", url).want(t, 1, "",
		"--token-file must have the token for the server")
}

// TestCommandHelp checks that every command has a help text, and that the examples parse.
func TestCommandHelp(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || !cmd.HasSubCommands() && (cmd.Example == "" || cmd.RunE == nil) {
			t.Errorf("%s lacks help", cmd.CommandPath())
		}
		for _, text := range []string{cmd.Short, cmd.Long} {
			for line := range strings.Lines(text) {
				if len(line) > 82 {
					t.Errorf("%s: wider than a terminal: %s", cmd.CommandPath(), line)
				}
			}
		}
		example := strings.ReplaceAll(cmd.Example, "\\\n", " ")
		for line := range strings.Lines(example) {
			_, line, ok := strings.Cut(line, "caddy apikeys ")
			if !ok {
				t.Errorf("%s: an example of another program: %s", cmd.CommandPath(), line)
			}
			words := shellWords(line)
			found, rest, err := cliCommand().Find(append([]string{"apikeys"}, words...))
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil {
				err = found.ValidateArgs(found.Flags().Args())
			}
			if err != nil || cmd.RunE != nil && !cmd.HasSubCommands() &&
				found.CommandPath() != cmd.CommandPath() {
				t.Errorf("%s: example %q is for %s: %v", cmd.CommandPath(), line,
					found.CommandPath(), err)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	root, _, err := cliCommand().Find([]string{"apikeys"})
	if err != nil {
		t.Fatal(err)
	}
	root.Short = caddycmd.Commands()["apikeys"].Short
	root.Long = caddycmd.Commands()["apikeys"].Long
	walk(root)
}

// shellWords splits an example up to its first redirection, pipe or comment.
func shellWords(line string) []string {
	var words []string
	for i, part := range strings.Split(strings.TrimRight(line, ")\n"), `"`) {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		for _, word := range strings.Fields(part) {
			if strings.ContainsAny(word[:1], "<>|#") {
				return words
			}
			words = append(words, word)
		}
	}
	return words
}

func TestCommandMisspelt(t *testing.T) {
	for _, args := range [][]string{{"nonsense"}, {"keys", "mnit"}, {"keys", "mint", "--nonsense"},
		{"keys", "revoke"}, {"keys", "show", "a", "b"}, {"verify", cliToken}} {
		if r := runCLI("", args...); r.status != 1 || r.out != "" || r.err == "" {
			t.Errorf("%v: %+v", args, r)
		}
	}
	for _, args := range [][]string{{}, {"keys"}, {"namespaces"}, {"keys", "mint", "--help"}} {
		if r := runCLI("", args...); r.status != 0 || !strings.Contains(r.out, "Usage:") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

// TestEmptyFlags gives every flag of every command an empty value, as a script with an unset
// variable does, and every list an empty element. Nothing may be sent.
func TestEmptyFlags(t *testing.T) {
	s := serveCLI(t, nil)
	var visit func(cmd *cobra.Command, path []string)
	tried := 0
	visit = func(cmd *cobra.Command, path []string) {
		for _, c := range cmd.Commands() {
			visit(c, append(slices.Clone(path), c.Name()))
		}
		if !cmd.Runnable() {
			return
		}
		check := func(f *pflag.Flag) {
			values := []string{"", " "}
			switch kind := f.Value.Type(); {
			case f.Name == "help" || kind == "bool":
				return
			case kind == "stringSlice":
				values = append(values, "10.0.0.0/8,", ",")
			}
			if _, may := f.Annotations["empty"]; may {
				return
			}
			for _, value := range values {
				tried++
				r := runCLI("", append(slices.Clone(path), "--address", s.address, "--"+f.Name,
					value)...)
				if r.status != 1 || r.out != "" || !strings.Contains(r.err, "--"+f.Name) {
					t.Errorf("%v --%s %q: status %d, %s", path, f.Name, value, r.status, r.err)
				}
			}
		}
		cmd.Flags().VisitAll(check)
		cmd.InheritedFlags().VisitAll(check)
	}
	for _, c := range cliCommand().Commands() {
		visit(c, nil)
	}
	if len(s.requests()) > 0 || tried < 100 {
		t.Errorf("%d values tried; requests: %v", tried, s.requests())
	}
}

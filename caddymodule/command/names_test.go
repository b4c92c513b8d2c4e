package command

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// serveNames serves keys with several names.
func serveNames(t *testing.T) *cliServer {
	t.Helper()
	now := time.Now()
	keys := api.Keys{Items: []api.Key{
		{ID: "4fYQ0hTz81Lk", Name: "CI", Namespace: "acme", RevokedAt: &now},
		{ID: "4fYQaaaaaaaa", Name: "CI", Namespace: "acme"},
		{ID: "7wNFzaWcHmDA", Name: "twin", Namespace: "acme"},
		{ID: "7wNGzaWcHmDA", Name: "twin", Namespace: "acme"},
		{ID: "9abcdefghijk", Name: "old", Namespace: "acme", RevokedAt: &now},
	}}
	answers := map[string][]cliAnswer{"GET /keys": {{200, keys}},
		"GET /members": {{200, api.Members{Items: []api.Member{ada}}}},
		"POST /verify": {{200, api.Verdict{Outcome: "rotated", Key: &keys.Items[1]}},
			{200, api.Verdict{Outcome: "unknown"}}},
		"GET /members/" + cliMember: {{200, ada}},
		"GET /namespaces": {{200, api.Namespaces{
			Items: []api.Namespace{{ID: "acme", Name: "Acme Inc."}}}}}}
	for _, k := range keys.Items {
		answers["GET /keys/"+k.ID] = []cliAnswer{{200, k}}
		answers["POST /keys/"+k.ID+"/revoke"] = []cliAnswer{{200,
			api.KeyChanged{Key: k, Propagation: complete}}}
	}
	return serveCLI(t, answers)
}

func TestCommandNames(t *testing.T) {
	s := serveNames(t)
	for word, want := range map[string]string{
		"CI": "4fYQaaaaaaaa", "4fYQa": "4fYQaaaaaaaa", "4fYQ0": "4fYQ0hTz81Lk",
		"7wNG": "7wNGzaWcHmDA", "old": "9abcdefghijk", "4fYQ0hTz81Lk": "4fYQ0hTz81Lk",
	} {
		s.run("", "keys", "get", word, "-o", "id").want(t, 0, want+"\n")
	}
	s.run("", "key", "show", "twin").want(t, 1, "",
		"several keys match", "7wNFzaWcHmDA (twin), 7wNGzaWcHmDA (twin)")
	s.run("", "keys", "show", "4fYQ").want(t, 1, "", "several keys match")
	s.run("", "keys", "show", "7wN").want(t, 1, "", "key not found: none has this name",
		"12 letters and digits")
	s.run("", "members", "show", ada.Name, "-o", "id").want(t, 0, cliMember+"\n")
	s.run("", "members", "show", cliMember[:6], "-o", "id").want(t, 0, cliMember+"\n")
	s.run("", "keys", "revoke", "CI", "7wNF", "--yes", "-o", "id").want(t, 0,
		"4fYQaaaaaaaa\n7wNFzaWcHmDA\n", "Revoked key 4fYQaaaaaaaa (CI)")
	var doc struct{ Items []api.KeyChanged }
	r := s.run("", "keys", "revoke", "--yes", "--json", "CI", "old")
	if json.Unmarshal([]byte(r.out), &doc) != nil || len(doc.Items) != 2 {
		t.Errorf("%+v", r)
	}
}

// TestCommandLeakedToken checks that a token on standard input stands for its key, and goes nowhere
// but into the body of the verification.
func TestCommandLeakedToken(t *testing.T) {
	s := serveNames(t)
	r := s.run(cliToken+"\n", "keys", "revoke", "-", "--yes")
	r.want(t, 0, "", "Revoked key 4fYQaaaaaaaa")
	noToken(t, r.err)
	for _, call := range s.requests() {
		noToken(t, call.line)
	}
	s.run(cliToken+"\n", "keys", "show", "-").want(t, 1, "", "no key that you may read has this token")
	s.run("", "keys", "show", "-").want(t, 1, "", "is empty")
}

// TestCommandExitStatus checks the statuses of the manual, and the errors of --json.
func TestCommandExitStatus(t *testing.T) {
	for name, row := range map[string]struct {
		answer cliAnswer
		want   int
	}{
		"not found":    {problem(404, "not_found", "No."), exitNotFound},
		"no plugin":    {cliAnswer{404, "404 page not found"}, exitUnavailable},
		"denied":       {problem(403, "insufficient_permission", "No."), exitDenied},
		"wrong token":  {problem(401, "invalid_key", "No."), exitDenied},
		"changed":      {problem(412, "version_mismatch", "No."), exitConflict},
		"exists":       {problem(409, "exists", "No."), exitConflict},
		"busy":         {problem(429, "busy", "No."), exitUnavailable},
		"database":     {problem(503, "unavailable", "No."), exitUnavailable},
		"invalid":      {problem(422, "invalid_fields", "No."), exitFailed},
		"broken":       {cliAnswer{0, nil}, exitUnavailable},
		"not a number": {problem(400, "syntax", "No."), exitFailed},
	} {
		s := serveCLI(t, map[string][]cliAnswer{"GET /keys/" + cliID: {row.answer}})
		r := s.run("", "keys", "show", cliID, "--json")
		var failed failure
		if err := json.Unmarshal([]byte(r.err), &failed); err != nil || r.out != "" ||
			failed.ExitStatus != row.want || failed.Error == "" {
			t.Errorf("%s: %v, want %d: %+v", name, err, row.want, r)
		}
		if row.answer.status > 400 && row.answer.body != "404 page not found" &&
			(failed.Problem == nil || failed.Problem.Status != row.answer.status) {
			t.Errorf("%s: no problem document: %s", name, r.err)
		}
	}
	r := runCLI("", "keys", "list", "--address", "127.0.0.1:1", "-o", "json")
	if !strings.Contains(r.err, `"exit_status":6`) {
		t.Errorf("unreachable: %+v", r)
	}
	// Root may open every socket, so the error is made up.
	if got := exitStatus(&net.OpError{Op: "dial", Net: "unix",
		Err: os.NewSyscallError("connect", syscall.EACCES)}); got != exitDenied {
		t.Errorf("a socket that may not be opened: %d", got)
	}
	for _, words := range []string{"keys mnit", "keys show", "keys list --nonsense", "keys mint",
		"keys list --limit 0", "keys edit x --active --inactive", "keys mint --name x --out /none/x"} {
		if r := runCLI("", append([]string{"--json"}, strings.Fields(words)...)...); !strings.HasPrefix(
			r.err, `{"error":"`) || !strings.HasSuffix(r.err, `"exit_status":1}`+"\n") {
			t.Errorf("%s: %s", words, r.err)
		}
	}
}

// TestCommandFlagsAnywhere puts flags before the subcommands that they belong to.
func TestCommandFlagsAnywhere(t *testing.T) {
	for _, words := range []string{"--yes keys revoke " + cliID, "keys -y revoke " + cliID,
		"keys --yes revoke " + cliID, "--reason x --yes keys revoke " + cliID,
		"--json keys revoke --yes " + cliID, "keys revoke " + cliID + " --yes"} {
		s := serveNames(t)
		if r := runCLI("", append([]string{"--address", s.address},
			strings.Fields(words)...)...); r.status != 0 || len(s.requests()) != 1 {
			t.Errorf("%s: %+v", words, r)
		}
	}
}

func TestCommandSuggestions(t *testing.T) {
	for words, want := range map[string]string{
		"keys lst": "did you mean list", "keys revok": "did you mean revoke",
		"kyes list": "did you mean keys", "keys sho": "did you mean show",
		"keys gets": "did you mean show",
	} {
		runCLI("", strings.Fields(words)...).want(t, 1, "", want)
	}
}

func TestCommandContexts(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Chdir(t.TempDir())
	s := serveNames(t)
	if err := os.WriteFile("token", []byte(cliToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "http://" + s.address
	runCLI("", "contexts", "list").want(t, 0, "", "No results.")
	runCLI("", "contexts", "set", "prod").want(t, 1, "", "give --server or --address")
	runCLI("", "contexts", "set", "prod", "--server", url, "--token-file", "token").want(t, 0, "")
	runCLI("", "contexts", "set", "here", "--address", s.address).want(t, 0, "")
	r := runCLI("", "contexts", "ls")
	if !strings.Contains(r.out, "prod *") || !strings.Contains(r.out, "here") {
		t.Errorf("%+v", r)
	}
	show := []string{"keys", "show", "CI", "-o", "id"}
	const id = "4fYQaaaaaaaa\n"
	lastSent := func() string {
		calls := s.requests()
		return calls[len(calls)-1].header.Get("Authorization")
	}
	runCLI("", show...).want(t, 0, id)
	if lastSent() != "Bearer "+cliToken {
		t.Error("the current context has not sent its token")
	}
	runCLI("", append(show, "--context", "here")...).want(t, 0, id)
	if lastSent() != "" {
		t.Error("the context here has sent a token")
	}
	t.Run("environment", func(t *testing.T) {
		t.Setenv("APIKEYS_CONTEXT", "gone")
		runCLI("", show...).want(t, 1, "", "context not found: must be one of here, prod")
		t.Setenv("APIKEYS_SERVER", url)
		t.Setenv("APIKEYS_TOKEN_FILE", "token")
		runCLI("", show...).want(t, 0, id)
		runCLI("", append(show, "--address", s.address)...).want(t, 0, id)
		if lastSent() != "" {
			t.Error("--address has sent a token")
		}
	})
	runCLI("", append(show, "--context", "here", "--address", "x")...).want(t, 1, "",
		"give no other flag")
	runCLI("", "contexts", "use", "here").want(t, 0, "")
	runCLI("", show...).want(t, 0, id)
	runCLI("", "contexts", "rm", "here").want(t, 0, "")
	runCLI("", "contexts", "use", "here").want(t, 1, "", "must be one of prod")
	if path, err := clientConfigPath(); err != nil {
		t.Error(err)
	} else if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", err, info)
	}
}

func TestCommandTokenFile(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{"POST /keys": {{201,
		api.Minted{Key: cliKey, Token: cliToken}}}})
	file := filepath.Join(t.TempDir(), "token")
	mint := []string{"keys", "create", "--name", "x", "--access", "read_only"}
	r := s.run("", append(mint, "-o", "id", "--out", file)...)
	r.want(t, 0, cliID+"\n", "The token is in "+file)
	noToken(t, r.err)
	body, err := os.ReadFile(file)
	if info, statErr := os.Stat(file); err != nil || string(body) != cliToken+"\n" || statErr != nil ||
		info.Mode().Perm() != 0o600 {
		t.Errorf("%v %q", err, body)
	}
	s.run("", append(mint, "--out", file)...).want(t, 1, "", "--out: open "+file+": file exists")
	if again, err := os.ReadFile(file); err != nil || string(again) != string(body) {
		t.Errorf("%v %q", err, again)
	}
	s.run("", append(mint, "--out", os.DevNull)...).want(t, 0, "")
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode().IsRegular() {
		t.Fatal("the device has been replaced", err)
	}
	s.run("", append(mint, "--out", filepath.Dir(file))...).want(t, 1, "", "is a directory")
	s.run("", append(mint, "-o", "id")...).want(t, 1, "", "give --out FILE")
	s.run("", append(mint, "--out", file, "--json")...).want(t, 1, "", "not both")
	s.run("", append(mint, "--out", "/none/such/token")...).want(t, 1, "", "no such file")
	if len(s.requests()) != 2 {
		t.Errorf("%d requests", len(s.requests()))
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	for word, want := range map[string]string{
		"2027-01-01": "2027-01-01T00:00:00Z", "2027-01-01T02:00:00+02:00": "2027-01-01T00:00:00Z",
		"1y": "2027-02-03T04:05:06Z", "90d": "2026-05-04T04:05:06Z", "24h": "2026-02-04T04:05:06Z",
		"2027": "", "y": "", "-1y": "", "9999y": "", "soon": "",
	} {
		at, ok := parseTime(word, now, 1)
		if got := timeText(at); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %s %v", word, got, ok)
		}
	}
	if at, ok := parseTime("1y", now, -1); !ok || timeText(at) != "2025-02-03T04:05:06Z" {
		t.Error(at, ok)
	}
}

func TestFit(t *testing.T) {
	rows := func() [][]string {
		return [][]string{{"ID", "NAME", "NAMESPACE", "EXPIRES"},
			{"4fYQ0hTz81Lk", "A key with a long näme", "acme", "2027-01-01T00:00:00Z"}}
	}
	for width, want := range map[int]string{
		100: "4fYQ0hTz81Lk|A key with a long näme|acme|2027-01-01T00:00:00Z",
		60:  "4fYQ0hTz81Lk|A key with a long näme|acme|2027-01-01",
		50:  "4fYQ0hTz81Lk|A key with a…|acme|2027-01-01",
		5:   "4fYQ0hTz81Lk|A key…|acme|2027-…",
	} {
		table := rows()
		fit(table, width)
		if got := strings.Join(table[1], "|"); got != want {
			t.Errorf("%d: %s, want %s", width, got, want)
		}
	}
}

// TestCommandCompletion checks what the shell proposes.
func TestCommandCompletion(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	s := serveNames(t)
	for words, want := range map[string]string{
		"keys list --status ":                                "revoked",
		"keys mint --access ":                                "read_only\tmay read",
		"keys show --address " + s.address + " 7w":           "7wNFzaWcHmDA\ttwin",
		"keys mint --address " + s.address + " --owner ":     cliMember,
		"audit list --address " + s.address + " --actor ":    cliMember,
		"audit list --address " + s.address + " --to ":       ":0\n", // a time
		"keys list --output ":                                "wide",
		"usage --step ":                                      "month",
		"keys mint --address " + s.address + " --namespace ": "acme\tAcme Inc.",
	} {
		root := cliCommand()
		var out strings.Builder
		root.SetOut(&out)
		list := strings.Split(words, " ")
		root.SetArgs(append([]string{cobra.ShellCompRequestCmd, "apikeys"}, list...))
		if err := root.Execute(); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v %s", words, err, out.String())
		}
	}
	// It must not wait for a token on the terminal.
	root := cliCommand()
	var out strings.Builder
	root.SetOut(&out)
	root.SetArgs([]string{cobra.ShellCompRequestCmd, "apikeys", "keys", "show", "--server",
		"http://" + s.address, ""})
	if err := root.Execute(); err != nil || strings.Contains(out.String(), cliID) {
		t.Errorf("%v %s", err, out.String())
	}
}

// TestCompletionOffersAllValues checks that the shell proposes every value that the REST interface
// allows.
func TestCompletionOffersAllValues(t *testing.T) {
	for flag, request := range map[string]struct {
		body  any
		field string
	}{
		"members/kind": {api.MemberRequest{}, "Kind"},
		"edit-policy":  {api.NamespaceRequest{}, "EditPolicy"},
		"on-leak":      {api.NamespaceRequest{}, "OnLeak"},
	} {
		field, _ := reflect.TypeOf(request.body).FieldByName(request.field)
		var values []string
		for _, proposal := range fixedValues[flag] {
			value, _, _ := strings.Cut(proposal, "\t")
			values = append(values, value)
		}
		if got, want := strings.Join(values, ","), field.Tag.Get("enum"); want == "" || got != want {
			t.Errorf("--%s proposes %s, want %s", flag, got, want)
		}
	}
}

// atLineStart is markup of a manual page. Intended lists are indented.
var atLineStart = regexp.MustCompile(`(?m)^([-+#>]|\d+[.)]) .*`)

// TestManualPages checks that no sign of the help is lost in the manual pages, where it could be
// markup.
func TestManualPages(t *testing.T) {
	dir := t.TempDir()
	args := os.Args
	t.Cleanup(func() { os.Args = args })
	os.Args = []string{"caddy", "manpage"}
	root := cliCommand()
	os.Args = args
	if err := doc.GenManTree(root, &doc.GenManHeader{Title: "Caddy", Section: "8"}, dir); err != nil {
		t.Fatal(err)
	}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "help" { // which cobra adds
			return
		}
		page, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".8"))
		if err != nil {
			t.Fatal(err)
		}
		help := cmd.Long + cmd.Example + cmd.LocalFlags().FlagUsages() + cmd.InheritedFlags().FlagUsages()
		help = strings.ReplaceAll(help, `\*`, "*")
		for _, sign := range []string{"*", "_", "<"} {
			if have, want := strings.Count(string(page), sign), strings.Count(help, sign); have < want {
				t.Errorf("%s: %d of %d %q are left", cmd.CommandPath(), have, want, sign)
			}
		}
		if line := atLineStart.FindString(help); line != "" {
			t.Errorf("%s: markup in a manual page: %s", cmd.CommandPath(), line)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	for _, cmd := range root.Commands() {
		walk(cmd)
	}
}

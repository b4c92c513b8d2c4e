package caddymodule

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/command"
)

const guardsFile = "testdata/guards.txt"

// TestGuards compares the dangers of each Caddyfile in testdata/guards.txt, each with its line.
func TestGuards(t *testing.T) {
	const endOfCaddyfile, endOfCase = "----------\n", "==========\n"
	update := flag.Lookup("update").Value.String() == "true"
	text, err := os.ReadFile(guardsFile)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for want := range strings.SplitSeq(string(text), endOfCase) {
		input, _, _ := strings.Cut(want, endOfCaddyfile)
		if string(caddyfile.Format([]byte(input))) != input {
			t.Errorf("this Caddyfile is not formatted:\n%s", input)
		}
		got := input + endOfCaddyfile + guarded(t, input)
		if got != want && !update {
			t.Errorf("got\n%s\nwant (-update rewrites this)\n%s", got, want)
		}
		all = append(all, got)
	}
	if update {
		if err := os.WriteFile(guardsFile, []byte(strings.Join(all, endOfCase)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// guarded returns the dangers of a Caddyfile.
func guarded(t *testing.T, input string) string {
	t.Helper()
	found, err := guardRunning(nil, command.ConfigFile{Name: "Caddyfile", Body: []byte(input),
		Adapter: "caddyfile"})
	if err != nil {
		t.Fatalf("%s\n%v", input, err)
	}
	var out strings.Builder
	for _, d := range found {
		if d.Problem != "" {
			fmt.Fprintf(&out, "%s: %s: %s\n\t%s\n", d.Where, d.Check, d.Problem, d.Advice)
		}
	}
	return out.String()
}

const openSite = "a.test {\n\troute {\n\t\treverse_proxy localhost:9000\n\t\tapi_key\n\t}\n}\n"

// TestGuardsOfJSON checks that dangers of a configuration in JSON have a path, and those of a
// running configuration the line of its Caddyfile, even if that has other lines.
func TestGuardsOfJSON(t *testing.T) {
	file := command.ConfigFile{Name: "Caddyfile", Body: []byte(openSite), Adapter: "caddyfile"}
	config, err := file.JSON()
	if err != nil {
		t.Fatal(err)
	}
	where := func(file command.ConfigFile) string {
		found, err := guardRunning(config, file)
		if err != nil || len(found) == 0 {
			t.Fatal(found, err)
		}
		return found[0].Where
	}
	file.Body = []byte("# moved\n\n" + openSite)
	if got := where(file); got != "Caddyfile:5" {
		t.Errorf("running: %s", got)
	}
	const path = "apps/http/servers/srv0/routes/0/handle/0/routes/0/handle/0/routes/0/handle/0"
	for _, other := range []command.ConfigFile{{}, {Name: "c.json", Body: config},
		{Name: "Caddyfile", Body: []byte("a.test {\n\tnonsense\n}\n"), Adapter: "caddyfile"}} {
		if got := where(other); got != path {
			t.Errorf("%s: %s", other.Name, got)
		}
	}
}

// TestGuardsOfStart checks that the dangers are logged at the start, with their lines.
func TestGuardsOfStart(t *testing.T) {
	g := newInstance(t)
	text := ruleOptions + "http://a.test {\nimport common\nroute {\nreverse_proxy localhost:9\n" +
		"api_key\n}\n}\nhttp://b.test {\nimport common\nhandle {\napi_key {\npublic /apikeys/*\n}\n" +
		"reverse_proxy localhost:8\n}\nhandle /x {\nreverse_proxy localhost:8\n}\n}\n"
	g.loadCaddyfile(text)
	app := runningApp()
	var logged bytes.Buffer
	app.logger = slog.New(slog.NewTextHandler(&logged, nil))
	app.warnOfDangers(command.ConfigFile{Name: "/etc/caddy/Caddyfile", Body: []byte(text),
		Adapter: "caddyfile"})
	for _, want := range []string{"check=order", "check=upstreams", "check=admin_path", "at=Caddyfile:"} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("lacks %s: %s", want, &logged)
		}
	}
	logged.Reset()
	app.warnOfDangers(command.ConfigFile{})
	if !strings.Contains(logged.String(), "doctor --config FILE") {
		t.Errorf("without a file: %s", &logged)
	}
}

// startWith writes a Caddyfile and lets it seem that Caddy was started with it.
func startWith(t *testing.T, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := os.Args
	t.Cleanup(func() { os.Args = args })
	os.Args = []string{"caddy", "run", "--config", file}
}

// TestLineOfLogs checks that the warning about logs that show keys names their line.
func TestLineOfLogs(t *testing.T) {
	g := newInstance(t)
	const text = "{\n\tapi_keys {\n\t\tdatabase sqlite DIR/keys.db\n\t}\n\tauto_https off\n" +
		"\tlog {\n\t\toutput file DIR/caddy.log\n\t}\n}\n" +
		"http://a.test {\n\tbind unix/DIR/site\n\tapi_key {\n\t\tfrom header X-Secret\n\t}\n}\n"
	startWith(t, text)
	g.loadCaddyfile(text)
	var warning string
	for line := range strings.Lines(readFile(t, g.path("caddy.log"))) {
		if strings.Contains(line, "API keys may be written into the logs") {
			warning = line
		}
	}
	if !strings.Contains(warning, `"at":"Caddyfile:6"`) {
		t.Errorf("the warning has no line: %s", warning)
	}
}

func TestStartedWith(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"Caddyfile", "other", "c.json"} {
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for args, want := range map[string]string{
		"run": "Caddyfile caddyfile", "run --config other --adapter caddyfile": "other caddyfile",
		"run -c c.json": "c.json ", "run --config=c.json": "c.json ", "run --resume": " ",
		"run --config none": " ", "reload": " ", "": " ",
	} {
		file := startedWith(append([]string{"caddy"}, strings.Fields(args)...))
		if got := file.Name + " " + file.Adapter; got != want {
			t.Errorf("%s: %q", args, got)
		}
	}
}

// TestNumberedCopies checks that the copy with numbers of every Caddyfile in testdata is adapted, and
// to the same configuration apart from the numbers.
func TestNumberedCopies(t *testing.T) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	copies := 0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for one := range strings.SplitSeq(string(text), "==========\n") {
			input, _, _ := strings.Cut(one, "----------\n")
			file := command.ConfigFile{Name: "Caddyfile", Body: []byte(input), Adapter: "caddyfile"}
			config, err := file.JSON()
			if err != nil {
				continue // one of the invalid ones
			}
			read, err := parseCaddyfile(file)
			if err != nil {
				t.Fatal(err)
			}
			copied, err := read.adapt(file)
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, input)
				continue
			}
			before, err1 := inspect(config)
			after, err2 := inspect(copied)
			if err1 != nil || err2 != nil || before.Handlers != after.Handlers ||
				before.AdminSites != after.AdminSites {
				t.Errorf("%s: %v, %v: %+v, %+v\n%s", name, err1, err2, before, after, input)
			}
			original, _, err1 := guardConfig(config)
			numbered, _, err2 := guardConfig(copied)
			for _, d := range numbered {
				if read.where(d) == "" {
					t.Errorf("%s: no line of %s\n%s", name, d.problem, input)
				}
			}
			if err1 != nil || err2 != nil || len(original) != len(numbered) {
				t.Errorf("%s: %v, %v: %d dangers, %d with numbers\n%s", name, err1, err2, len(original),
					len(numbered), input)
			}
			copies++
		}
	}
	if copies < 20 {
		t.Errorf("only %d Caddyfiles", copies)
	}
}

// FuzzGuardRunning checks that no configuration makes doctor panic.
func FuzzGuardRunning(f *testing.F) {
	f.Add([]byte(`{"apps":{"http":{"servers":{"a":null,"b":{"named_routes":{"c":null},"routes":[null,`+
		`{"handle":[null,{"handler":"subroute","routes":null},{"handler":"invoke","name":"c"},`+
		`{"handler":"reverse_proxy","upstreams":[null],"headers":{"request":null}},`+
		`{"handler":"api_key","preflight":{"origins":["::"]}}],"match":[null,{"path":null,`+
		`"not":[null,{"x":1}]}]}]}}}}}`), []byte(openSite))
	f.Add([]byte(`{"apps":{"http":{"servers":{"a":{"routes":[{"match":[{"header_regexp":{"a":null}}],`+
		`"handle":[{"handler":"headers","request":{"replace":{"a":null,"*":[{}]}}},{"handler":"x"},`+
		`{"handler":"vars","a":{}},{"handler":"map","destinations":[""],"mappings":[{}]},`+
		`{"handler":"authentication","providers":{"http_basic":null,"x":{}}},`+
		`{"handler":"reverse_proxy","rewrite":{"method":"GET"},"handle_response":[{"routes":[null]}]},`+
		`{"handler":"api_keys_admin","trust_user":"{http.request.header.A}"}]}]}}}}}`), []byte("a"))
	f.Add([]byte(`{"apps":{"http":{"servers":{"a":{"named_routes":{"b":{"handle":[`+
		`{"handler":"reverse_proxy","rewrite":{"method":"GET"},"handle_response":[{"routes":[`+
		`{"handle":[{"handler":"invoke","name":"b"}]}]}]}]}},`+
		`"routes":[{"handle":[{"handler":"invoke","name":"b"}]}]}}}}}`), []byte("a"))
	f.Fuzz(func(_ *testing.T, config, file []byte) {
		_, _ = guardRunning(config, command.ConfigFile{Name: "Caddyfile", Body: file,
			Adapter: "caddyfile"})
	})
}

// TestGuardLines checks the lines that other checks of doctor report.
func TestGuardLines(t *testing.T) {
	for text, want := range map[string]string{
		"a.test {\n\tapi_key\n}\n":                                                         "logs Caddyfile:1",
		"{\n\tlog {\n\t\tformat api_keys\n\t}\n}\na.test {\n\tlog\n}\n":                    "logs Caddyfile:7",
		"{\n\tlog {\n\t\tformat json\n\t}\n}\na.test {\n\tapi_key\n}\n":                    "logs Caddyfile:2",
		"{\n\tapi_keys {\n\t\ttoken_prefix a\n\t}\n\tlog {\n\t\tformat api_keys\n\t}\n}\n": "prefixes Caddyfile:3",
	} {
		var got []string
		for _, d := range linesOf(command.ConfigFile{Name: filepath.Join("etc", "Caddyfile"),
			Body: []byte(text), Adapter: "caddyfile"}) {
			got = append(got, d.Check+" "+d.Where)
		}
		if !slices.Contains(got, want) {
			t.Errorf("%s\n%q, want %q", text, got, want)
		}
	}
}

package docs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// commands are the pages whose commands the test runs in one shell, in order, after setup. It
// compares their output with that in the `console` blocks.
var commands = []struct {
	page, setup string
}{
	{"README.md", ""},
	{"docs/getting-started.md", ""},
	{"docs/api_keys_admin.md", `
		caddy apikeys namespaces create acme
		caddy apikeys namespaces create acme-eu --parent acme
		echo '{"name": "CI", "access": "read_only", "token": "0123456789abcdef"}' > keys.ndjson`},
	{"docs/limits.md", `caddy apikeys namespaces create acme`},
	{"docs/usage.md", ""},
	{"docs/recipes/teams.md", ""},
	{"docs/lifetimes.md", `caddy apikeys namespaces create acme`},
	{"docs/leaks.md", `caddy apikeys namespaces create acme`},
	{"docs/authority.md", `caddy apikeys namespaces create acme`},
	{"docs/derived.md", `
		export PATH=/usr/bin:$PATH NODE_PATH=/usr/share/nodejs
		caddy apikeys keys mint --name key --access read_write | tr '\n' '\r' > key.token`},
	{"docs/recipes/ai-agent.md", ""},
	{"docs/api_keys.md", `cd "$XDG_DATA_HOME/caddy"`},
	{"docs/leaked-key.md", `caddy apikeys keys mint --name leaked --access read_only > token`},
	{"docs/upgrade.md", ""},
	{"docs/uninstall.md", `
		printf '#!/bin/sh\nexec "$BINARY" "$@" --address "$GATE_ADMIN"\n' > caddy
		chmod +x caddy
		export PATH=$PWD:$PATH
		caddy apikeys keys mint --name one --access read_only
		caddy apikeys keys mint --name two --access read_only`},
	{"docs/logging.md", `
		TOKEN=$(caddy apikeys keys mint --name log --access read_only)
		curl -s -H "X-API-Key: $TOKEN" http://localhost:8080/
		cd "$GATE_DIR"`},
}

// elsewhere are the pages whose commands another test runs, or no test can run, with the reason.
var elsewhere = map[string]string{
	"docs/events.md":                        "TestSIEM, and TestExpiryMail in caddymodule",
	"docs/migrating.md":                     "tests/scenarios, with exports of the other systems",
	"docs/operations.md":                    "TestRestoreCommands; the table of nodes is an example",
	"docs/recipes/administration-portal.md": "tests/scenarios",
	"docs/recipes/back-office.md":           "tests/scenarios",
	"docs/recipes/developer-portal.md":      "tests/scenarios",
	"docs/recipes/finance-cloud.md":         "tests/scenarios",
	"docs/recipes/organizations.md":         "tests/scenarios",
	"docs/debian.md":                        "scripts/debian-test, in a Debian that boots",
	"docs/versions.md":                      "scripts/release-test",
	"docs/recipes/ollama.md":                "needs Ollama and a model",
	"deploy/README.md":                      "tests/deploy",
	"CONTRIBUTING.md":                       "it builds and tests this checkout",
	"docs/api_key.md":                       "no command",
	"xcaddy.md": "TestXcaddy; the pinned build fetches the published " +
		"module",
}

// A fileBlock is a program that commands run. Its first line is a comment with its name.
var fileBlock = regexp.MustCompile("(?ms)^```(?:python|js|bash)\n(?:#|//) (\\S+)\n(.*?)^```")

// A commandBlock may be in an item of a list, and is indented then.
var commandBlock = regexp.MustCompile("(?ms)^( *)```(sh|console)\n(.*?)^ *```")

// TestCommands runs the commands of the pages against a Caddy with Caddyfile.example.
func TestCommands(t *testing.T) {
	for _, c := range commands {
		t.Run(filepath.Base(c.page), func(t *testing.T) {
			t.Parallel()
			s := newShell(t)
			for line := range strings.Lines(c.setup) {
				if line = strings.TrimSpace(line); line != "" {
					if output, exit := s.run(t, line); exit != "0" {
						t.Fatalf("%s: exit %s\n%s", line, exit, output)
					}
				}
			}
			for _, file := range fileBlock.FindAllStringSubmatch(pages(t)[c.page], -1) {
				s.run(t, "cat > "+file[1]+" <<'END OF FILE'\n"+file[2]+"END OF FILE")
			}
			for _, block := range commandBlock.FindAllStringSubmatch(pages(t)[c.page], -1) {
				text := strings.ReplaceAll("\n"+block[3], "\n"+block[1], "\n")[1:]
				if notHere(text) {
					continue
				}
				if block[2] == "console" {
					s.console(t, text)
				} else if output, exit := s.run(t, text); exit != "0" {
					t.Errorf("exit %s:\n%s%s", exit, text, output)
				}
			}
		})
	}
}

// notHere reports blocks that build the program or run the tests.
func notHere(block string) bool {
	return strings.Contains(block, "make run") || strings.HasPrefix(block, "make ") ||
		strings.HasPrefix(block, "xcaddy build")
}

// TestEveryCommandHasATest checks that each page with commands is in one of the lists above.
func TestEveryCommandHasATest(t *testing.T) {
	run := map[string]bool{}
	for _, c := range commands {
		run[c.page] = true
	}
	for name, text := range pages(t) {
		if has := commandBlock.MatchString(text); has && !run[name] && elsewhere[name] == "" {
			t.Errorf("no test runs the commands of %s", name)
		}
	}
}

// A shell is a bash on a machine that serves Caddyfile.example.
type shell struct {
	in  io.Writer
	out *bufio.Reader

	gate *gate.Gate
	ids  map[string]string // ids on the page to ids of this run
}

const prompt = "\x1eexit "

func newShell(t *testing.T) *shell {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile(filepath.Join(root, "Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	// Only the addresses differ, so that tests can run in parallel.
	text := strings.NewReplacer(
		"admin localhost:2019", "admin {$GATE_ADMIN}",
		"http://localhost:8080 {", "http://localhost:{$GATE_HTTP}, http://127.0.0.1:{$GATE_HTTP} {",
		"127.0.0.1:8081", "unix/{$GATE_DIR}/api.sock",
		"http://:8081 {\n\tbind 127.0.0.1", "http:// {\n\tbind unix/{$GATE_DIR}/api.sock",
		"\tlog {\n\t\tformat api_keys\n\t}\n\n\t# Every request needs",
		"\tlog {\n\t\toutput file {$GATE_DIR}/access.log\n\t\tformat api_keys\n\t}\n\n\t# Every "+
			"request needs",
	).Replace(string(example))
	g := gate.Start(t, gate.Config{Caddyfile: text})

	cmd := exec.Command("bash", "--norc")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "BINARY="+gate.Client(t), "GATE_ADMIN="+g.Admin,
		"GATE_DIR="+g.Dir,
		"HOME="+g.Dir, "XDG_DATA_HOME="+filepath.Dir(g.Data))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	s := &shell{in: in, out: bufio.NewReader(out), gate: g, ids: map[string]string{}}
	s.run(t, `caddy() {
		case "$*" in *--server*) "$BINARY" "$@";; *) "$BINARY" "$@" --address "$GATE_ADMIN";; esac
	}`)
	return s
}

// run runs a command with the ids and addresses of this run. It returns standard output and
// standard error together.
func (s *shell) run(t *testing.T, command string) (output, exit string) {
	t.Helper()
	for page, here := range s.ids {
		command = strings.ReplaceAll(command, page, here)
	}
	command = strings.NewReplacer(".run/caddy", "caddy",
		"https://keys.example.com", s.gate.URL, "http://localhost:8080", s.gate.URL,
		"http://localhost:2019", "http://"+s.gate.Admin,
		"/backup/", s.gate.Dir+"/", "curl ", "curl --no-progress-meter ",
	).Replace(command)
	fmt.Fprintf(s.in, "{ %s\n} </dev/null\nprintf '%s%%s\\n' $?\n", command, prompt)
	for {
		line, err := s.out.ReadString('\n')
		if before, after, ended := strings.Cut(line, prompt); ended {
			gate.WatchTokensIn(output + before)
			return output + before, strings.TrimSpace(after)
		}
		if output += line; err != nil {
			t.Fatalf("%s: %v\n%s", command, err, gate.Redact(output))
		}
	}
}

// console runs the `$ command` lines of a block and compares the output that follows each. Commands
// without output on the page may print anything.
func (s *shell) console(t *testing.T, block string) {
	t.Helper()
	for _, step := range strings.Split("\n"+block, "\n$ ")[1:] {
		lines := strings.SplitAfter(step, "\n")
		n := 1
		for n < len(lines) && (strings.HasSuffix(lines[n-1], "\\\n") ||
			strings.HasPrefix(lines[n], "    ")) {
			n++
		}
		command, want := strings.Join(lines[:n], ""), strings.TrimSpace(strings.Join(lines[n:], ""))
		got, exit := s.run(t, command)
		got = strings.ReplaceAll(strings.TrimSpace(got), "\r", "")
		if exit != "0" {
			t.Errorf("$ %s: exit %s\n%s", command, exit, gate.Redact(got))
		}
		if want != "" {
			s.compare(t, command, want, got)
		}
	}
}

var (
	id       = `(?:m_)?[0-9A-Za-z]{12}`
	variable = regexp.MustCompile(strings.Join([]string{
		`…`, // omitted on the page
		`\b` + id + `\b|ak_[0-9A-Za-z]{8}`,
		`\d{4}-\d\d-\d\dT[0-9:.]+Z|\w{3}, \d\d \w{3} \d{4} [0-9:]+ GMT`,
		`\b\d+\.\d+s`,                  // a duration
		`revision"?:? ?\d+|"ms":\d+`,   // depends on earlier changes and on the machine
		`\(devel\)|v\d+\.\d+\.\d+`,     // versions
		`localhost:2019`,               // the admin endpoint
		`Content-Length: \d+`, ` {2,}`, // the width of columns depends on their content
	}, "|"))
	isID = regexp.MustCompile(`^(?:` + id + `)$`)
)

// compare checks that the output has each line, in any order, since header fields have none. Values
// that differ between runs match any value of the same form. compare also learns the ids.
func (s *shell) compare(t *testing.T, command, want, got string) {
	t.Helper()
	for line := range strings.Lines(want) {
		line = strings.TrimRight(line, "\n ")
		var pattern strings.Builder
		var ids []string
		last := 0
		for _, at := range variable.FindAllStringIndex(line, -1) {
			pattern.WriteString(regexp.QuoteMeta(line[last:at[0]]))
			found := line[at[0]:at[1]]
			last = at[1]
			switch {
			case isID.MatchString(found) && strings.ContainsAny(found, "0123456789"):
				if here := s.ids[found]; here != "" {
					pattern.WriteString(regexp.QuoteMeta(here))
				} else {
					pattern.WriteString("(" + id + ")")
					ids = append(ids, found)
				}
			case isID.MatchString(found): // a word
				pattern.WriteString(regexp.QuoteMeta(found))
			case strings.HasPrefix(found, "  "):
				pattern.WriteString(` +`)
			default:
				pattern.WriteString(`.*`)
			}
		}
		pattern.WriteString(regexp.QuoteMeta(line[last:]))
		found := regexp.MustCompile(`(?m)^` + pattern.String() + `\s*$`).FindStringSubmatch(got)
		if found == nil {
			t.Errorf("$ %s\nprints no line\n%s\nbut\n%s", command, line, gate.Redact(got))
			continue
		}
		for i, onPage := range ids {
			s.ids[onPage] = found[i+1]
		}
	}
}

package scenarios

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/tools/txtar"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// A recipe is a page of docs/ that a script goes through: the first Caddyfile on it is the one the script's Caddy runs, its OpenAPI document is
// openapi.yaml, and what it has the reader type must be in the script.
type recipe struct{ caddyfile, document, commands string }

var (
	caddyfileBlock = regexp.MustCompile("(?s)```caddyfile\n(.*?)```")
	documentBlock  = regexp.MustCompile("(?s)```yaml\n(openapi:.*?)```")
	shellBlock     = regexp.MustCompile("(?s)```sh\n(.*?)```")
)

func readRecipe(page string) (recipe, error) {
	root, err := gate.Root()
	if err != nil {
		return recipe{}, err
	}
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return recipe{}, err
	}
	first := func(block *regexp.Regexp) string {
		if found := block.FindSubmatch(text); found != nil {
			return string(found[1])
		}
		return ""
	}
	r := recipe{caddyfile: first(caddyfileBlock), document: first(documentBlock)}
	for _, block := range shellBlock.FindAllSubmatch(text, -1) {
		r.commands += string(block[1])
	}
	if r.caddyfile == "" || r.commands == "" {
		return r, fmt.Errorf("%s has no Caddyfile, or no commands", page)
	}
	return r, nil
}

var (
	sites     = regexp.MustCompile(`(?m)^(api|keys)\.example\.com \{\n`)
	addresses = map[string]string{
		"api":  "http://api.example.com:{$GATE_HTTP}",
		"keys": "http://:{$GATE_HTTP}", // whatever its name: the commands cannot resolve keys.example.com
	}
)

// config runs the recipe's Caddyfile as it stands, but for where it listens and where the API behind is. Its sites share a port, and api is a site that
// answers for localhost:9000, empty for the gate's upstream.
func (r recipe) config(dir, api string) (gate.Config, error) {
	text := strings.Replace(r.caddyfile, "{\n", "{\n\tadmin {$GATE_ADMIN}\n\tgrace_period 2s\n", 1)
	text = sites.ReplaceAllStringFunc(text, func(line string) string {
		name, _, _ := strings.Cut(line, ".")
		return addresses[name] + " {\n\tbind 127.0.0.1\n"
	})
	behind := "{$GATE_UPSTREAM}"
	if api != "" {
		behind = "unix/{$GATE_DIR}/api.sock"
		text += "\nhttp:// {\n\tbind " + behind + "\n" + api + "}\n"
	}
	text = strings.ReplaceAll(text, "localhost:9000", behind)
	if r.document != "" {
		file := filepath.Join(dir, "openapi.yaml")
		if err := os.WriteFile(file, []byte(r.document), 0o600); err != nil {
			return gate.Config{}, err
		}
		text = strings.ReplaceAll(text, "./openapi.yaml", file)
	}
	return gate.Config{Caddyfile: text}, nil
}

var (
	continued  = regexp.MustCompile(`\s*\\\n\s*`)
	comment    = regexp.MustCompile(`(?m)\s+#.*$`)
	redirected = regexp.MustCompile(`(?m)\s*[<>] *\S+$`)
	asMember   = regexp.MustCompile(`(?m)^as (\S+) (.*)$`)
)

// untried are the commands of the recipe that the script does not have, letter by letter: where they write to and read from does not count.
func (r recipe) untried(script string) (missing []string) {
	script = strings.ReplaceAll(script, "! ", "")
	script = asMember.ReplaceAllString(script, "exec caddy apikeys $2 --server $$KEYS --token-file $1.token")
	tried := strings.Split(script, "\n")
	commands := continued.ReplaceAllString(r.commands, " ")
	commands = redirected.ReplaceAllString(comment.ReplaceAllString(commands, ""), "")
	for command := range strings.Lines(commands) {
		command = strings.TrimSpace(command)
		if strings.HasPrefix(command, "caddy apikeys ") && !slices.Contains(tried, "exec "+command) {
			missing = append(missing, command)
		}
	}
	return missing
}

func TestRecipesAreTried(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, name := range scripts {
		script, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range script.Files {
			if file.Name != "recipe" {
				continue
			}
			tried++
			page := strings.TrimSpace(string(file.Data))
			r, err := readRecipe(page)
			if err != nil {
				t.Error(err)
			}
			for _, command := range r.untried(string(script.Comment)) {
				t.Errorf("%s says what %s does not try: %s", page, name, command)
			}
		}
	}
	if tried == 0 {
		t.Error("no script goes through a page")
	}
}

// asCommand runs `caddy apikeys` through the site for managing keys, with the token in the file NAME.token.
func asCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: as NAME COMMAND")
	}
	command := append(append([]string{"apikeys"}, args[1:]...), "--server", ts.Getenv("KEYS"), "--token-file", ts.MkAbs(args[0]+".token"))
	if err := ts.Exec("caddy", command...); (err != nil) != neg {
		ts.Fatalf("as %s: %v", strings.Join(args, " "), err)
	}
}

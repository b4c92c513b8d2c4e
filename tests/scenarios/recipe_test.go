package scenarios

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/tools/txtar"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

var (
	continued  = regexp.MustCompile(`\s*\\\n\s*`)
	comment    = regexp.MustCompile(`(?m)\s+#.*$`)
	redirected = regexp.MustCompile(`(?m)\s*[<>] *\S+$`)
	assignment = regexp.MustCompile(`^([A-Z0-9]+)=\$\((.*)\)$`)
	asMember   = regexp.MustCompile(`(?m)^as (\S+) (.*)$`)
)

// uncovered returns the commands of the recipe that the script does not run, either literally
// (except for redirections) or with their whole chapter.
func uncovered(r gate.Recipe, script string) (missing []string) {
	script = strings.ReplaceAll(script, "! ", "")
	script = asMember.ReplaceAllString(script,
		"exec caddy apikeys $2 --server $$KEYS --token-file $1.token")
	tried := strings.Split(script, "\n")
	for file, commands := range r.Commands {
		if slices.Contains(tried, "exec sh -eu "+file) {
			continue
		}
		commands = continued.ReplaceAllString(commands, " ")
		commands = redirected.ReplaceAllString(comment.ReplaceAllString(commands, ""), "")
		for command := range strings.Lines(commands) {
			command = strings.TrimSpace(command)
			if set := assignment.FindStringSubmatch(command); set != nil {
				quoted := strings.ReplaceAll(set[2], "'", "''")
				if !slices.Contains(tried, "assign "+set[1]+" '"+quoted+"'") {
					missing = append(missing, command)
				}
			} else if strings.HasPrefix(command, "caddy apikeys ") &&
				!slices.Contains(tried, "exec "+command) {
				missing = append(missing, command)
			}
		}
	}
	return missing
}

func TestScriptsCoverRecipes(t *testing.T) {
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
			r, err := gate.ReadRecipe(page)
			if err != nil {
				t.Error(err)
			}
			for _, command := range uncovered(r, string(script.Comment)) {
				t.Errorf("%s has a command that %s does not run: %s", page, name, command)
			}
		}
	}
	if tried == 0 {
		t.Error("no script follows a page")
	}
}

// asCommand runs `caddy apikeys` through the site for managing keys, with the token in the file
// NAME.token.
func asCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: as NAME COMMAND")
	}
	command := append(append([]string{"apikeys"}, args[1:]...), "--server", ts.Getenv("KEYS"),
		"--token-file", ts.MkAbs(args[0]+".token"))
	if err := ts.Exec("caddy", command...); (err != nil) != neg {
		ts.Fatalf("as %s: %v", strings.Join(args, " "), err)
	}
}

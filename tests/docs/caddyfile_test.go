package docs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

var (
	caddyfile = regexp.MustCompile("(?s)```caddyfile\n(.*?)```")
	openAPI   = regexp.MustCompile("(?s)```yaml\n(openapi:.*?)```")
	jsonBlock = regexp.MustCompile("(?s)```json\n(\\{\n\t\"(?:logging|apps)\".*?)```")
)

// TestCaddyfiles checks that every Caddyfile on a page is formatted, loads without a warning, and
// keeps keys out of the access log of each site that receives them.
func TestCaddyfiles(t *testing.T) {
	checked := 0
	for name, text := range pages(t) {
		for _, block := range caddyfile.FindAllStringSubmatch(text, -1) {
			checked++
			dir := t.TempDir()
			write(t, dir, "Caddyfile", block[1])
			if document := openAPI.FindStringSubmatch(text); document != nil {
				write(t, dir, "openapi.yaml", document[1])
			}
			if formatted, err := caddy(t, dir, "fmt", "Caddyfile"); err != nil ||
				formatted != block[1] {
				t.Errorf("%s: not as `caddy fmt` formats it: %v\n%s", name, err, formatted)
			}
			wantNoWarning(t, name, dir, "Caddyfile", block[1])
			adapted, err := caddy(t, dir, "adapt", "--config", "Caddyfile")
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, adapted)
				continue
			}
			for _, problem := range loggingProblems(t, adapted) {
				t.Errorf("%s: %s\n%s", name, problem, block[1])
			}
		}
	}
	if checked == 0 {
		t.Error("there is no Caddyfile on any page")
	}
}

// caddy runs a command of Caddy in a directory and returns all it writes.
func caddy(t *testing.T, dir string, args ...string) (output string, err error) {
	t.Helper()
	cmd := exec.Command(gate.Binary(t), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir,
		"APIKEYS_PASSWORD=x", "APIKEYS_CACHE_PASSWORD=x") // an empty placeholder is an error
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// wantNoWarning checks that a configuration of a page, which is in a file of dir, is valid and
// loads without a warning.
func wantNoWarning(t *testing.T, page, dir, file, config string) {
	t.Helper()
	output, err := caddy(t, dir, "validate", "--config", file)
	if err != nil || strings.Contains(output, `"level":"warn"`) {
		t.Errorf("%s: %v\n%s\n%s", page, err, config, output)
	}
}

// loggingProblems says how a configuration could write keys to a log, now or with the access log of
// a site turned on.
func loggingProblems(t *testing.T, adapted string) (problems []string) {
	t.Helper()
	var config struct {
		Logging struct {
			Logs map[string]struct {
				Encoder struct{ Format string }
				Exclude []string
			}
		}
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes json.RawMessage
					Logs   any
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(adapted), &config); err != nil {
		t.Fatal(err)
	}
	keys := false
	for name, server := range config.Apps.HTTP.Servers {
		if !strings.Contains(string(server.Routes), `"handler":"api_key`) {
			continue
		}
		keys = true
		if server.Logs == nil {
			problems = append(problems, name+" has no access log with `format api_keys`")
		}
	}
	for name, log := range config.Logging.Logs {
		if keys && log.Encoder.Format != "api_keys" {
			problems = append(problems, "log "+name+" has another format than api_keys")
		}
	}
	if keys && config.Logging.Logs["default"].Encoder.Format == "" {
		problems = append(problems, "the default log has another format than api_keys")
	}
	return problems
}

// TestJSONConfiguration checks that every JSON configuration on a page loads without a warning.
func TestJSONConfiguration(t *testing.T) {
	checked := 0
	for name, text := range pages(t) {
		for _, block := range jsonBlock.FindAllStringSubmatch(text, -1) {
			checked++
			dir := t.TempDir()
			write(t, dir, "caddy.json", block[1])
			wantNoWarning(t, name, dir, "caddy.json", block[1])
		}
	}
	if checked == 0 {
		t.Error("there is no JSON configuration on any page")
	}
}

// TestExampleHasEveryOption compares Caddyfile.example with the options that the pages list.
func TestExampleHasEveryOption(t *testing.T) {
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile(filepath.Join(root, "Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	texts := pages(t)
	option := regexp.MustCompile("(?m)^\\| `([a-z_]+)[^`]*` \\|")
	for _, page := range []string{"docs/api_key.md", "docs/api_keys.md"} {
		_, section, ok := strings.Cut(texts[page], "\n## Options\n")
		if !ok {
			t.Errorf("%s has no section of options", page)
		}
		section, _, _ = strings.Cut(section, "\n##")
		found := option.FindAllStringSubmatch(section, -1)
		if len(found) < 7 {
			t.Errorf("%s lists only %d options", page, len(found))
		}
		for _, match := range found {
			line := regexp.MustCompile(`(?m)^\t+(# )?` + match[1] + `( |$)`)
			if !line.Match(example) {
				t.Errorf("Caddyfile.example does not have %s, which %s lists", match[1], page)
			}
		}
	}
}

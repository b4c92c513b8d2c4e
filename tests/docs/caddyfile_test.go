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
	t.Parallel()
	g := gate.Start(t, gate.Config{Env: environment})
	checked := 0
	for name, text := range pages(t) {
		for _, block := range caddyfile.FindAllStringSubmatch(text, -1) {
			checked++
			dir := t.TempDir()
			write(t, dir, "Caddyfile", block[1])
			if document := openAPI.FindStringSubmatch(text); document != nil {
				write(t, dir, "openapi.yaml", document[1])
				write(t, g.Dir, "openapi.yaml", document[1])
			}
			wantNoWarning(t, name, dir, "Caddyfile", block[1])
			adapted := g.AdaptRunning(t, block[1])
			config, err := json.Marshal(adapted.JSON()["result"])
			if adapted.Status != 200 || err != nil {
				t.Errorf("%s: %v", name, adapted)
				continue
			}
			for _, problem := range loggingProblems(t, config) {
				t.Errorf("%s: %s\n%s", name, problem, block[1])
			}
		}
	}
	if checked == 0 {
		t.Error("no page has a Caddyfile")
	}
}

// environment has the variables that the pages use, since Caddy rejects an empty placeholder.
var environment = []string{"APIKEYS_PASSWORD=x", "APIKEYS_CACHE_PASSWORD=x",
	"WEBHOOK_SECRET=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}

// wantNoWarning checks that the configuration of a page, which is in a file of dir, is valid and
// loads without a warning, such as one about its format.
func wantNoWarning(t *testing.T, page, dir, file, config string) {
	t.Helper()
	cmd := exec.Command(gate.Client(t), "validate", "--config", file)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Env = append(cmd.Env, environment...)
	output, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(output), `"level":"warn"`) {
		t.Errorf("%s: %v\n%s\n%s", page, err, config, output)
	}
}

// loggingProblems returns how a configuration could write keys to a log, now or once the access log
// of a site is turned on.
func loggingProblems(t *testing.T, adapted []byte) (problems []string) {
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
	if err := json.Unmarshal(adapted, &config); err != nil {
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
	t.Parallel()
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
		t.Error("no page has a JSON configuration")
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

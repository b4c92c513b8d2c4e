package gate

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A Recipe is a page of docs/ that a test follows. The test runs the first Caddyfile of the page,
// with the OpenAPI document of the page as openapi.yaml.
type Recipe struct {
	// Commands has the shell commands of each chapter by a file name made from its title: kong.sh.
	Commands map[string]string

	caddyfile, document string
}

var (
	caddyfileBlock = regexp.MustCompile("(?s)```caddyfile\n(.*?)```")
	documentBlock  = regexp.MustCompile("(?s)```yaml\n(openapi:.*?)```")
	shellBlock     = regexp.MustCompile("(?s)```sh\n(.*?)```")
	chapters       = regexp.MustCompile(`(?m)^##+ `)
)

// ReadRecipe reads a page, given its path in the checkout.
func ReadRecipe(page string) (Recipe, error) {
	root, err := Root()
	if err != nil {
		return Recipe{}, err
	}
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return Recipe{}, err
	}
	first := func(block *regexp.Regexp) string {
		if found := block.FindSubmatch(text); found != nil {
			return string(found[1])
		}
		return ""
	}
	r := Recipe{caddyfile: first(caddyfileBlock), document: first(documentBlock),
		Commands: map[string]string{}}
	for _, chapter := range chapters.Split(string(text), -1) {
		title, body, _ := strings.Cut(chapter, "\n")
		file := strings.ReplaceAll(strings.ToLower(title), " ", "-") + ".sh"
		for _, block := range shellBlock.FindAllStringSubmatch(body, -1) {
			r.Commands[file] += block[1]
		}
	}
	if r.caddyfile == "" || len(r.Commands) == 0 {
		return r, fmt.Errorf("%s must have a Caddyfile and commands", page)
	}
	return r, nil
}

var (
	recipeSites     = regexp.MustCompile(`(?m)^(api|keys)\.example\.com \{\n`)
	recipeAddresses = map[string]string{
		"api": "http://api.example.com:{$GATE_HTTP}",
		// for every host name, because the commands cannot resolve keys.example.com
		"keys": "http://:{$GATE_HTTP}",
	}
)

// Config writes the recipe's commands and document to dir, and returns a configuration with the
// recipe's Caddyfile. Only the addresses differ: the sites share a port, and the site api answers
// for localhost:9000. If api is empty, the gate's upstream does.
func (r Recipe) Config(dir, api string) (Config, error) {
	text := strings.Replace(r.caddyfile, "{\n", "{\n\tadmin {$GATE_ADMIN}\n\tgrace_period 2s\n", 1)
	text = recipeSites.ReplaceAllStringFunc(text, func(line string) string {
		name, _, _ := strings.Cut(line, ".")
		return recipeAddresses[name] + " {\n\tbind 127.0.0.1\n"
	})
	behind := "{$GATE_UPSTREAM}"
	if api != "" {
		behind = "unix/{$GATE_DIR}/api.sock"
		text += "\nhttp:// {\n\tbind " + behind + "\n" + api + "}\n"
	}
	text = strings.ReplaceAll(text, "localhost:9000", behind)
	text = strings.ReplaceAll(text, "./openapi.yaml", filepath.Join(dir, "openapi.yaml"))
	files := maps.Clone(r.Commands)
	files["openapi.yaml"] = r.document
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return Config{}, err
		}
	}
	return Config{Caddyfile: text}, nil
}

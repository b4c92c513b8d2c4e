package apikeys_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/caddy-apikeys/caddy-apikeys"

// forTests is the package with the test helpers. It may import any package.
const forTests = module + "/keystore/keystoretest"

type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// TestImportsFollowThePicture compares the picture in docs/architecture.md with what the packages
// import. Each arrow of the picture must be an import, and each import must follow arrows.
func TestImportsFollowThePicture(t *testing.T) {
	arrows := readPicture(t)
	allowed := make(map[string]map[string]bool)
	var reach func(from, at string)
	reach = func(from, at string) {
		for _, next := range arrows[at] {
			if !allowed[from][next] {
				allowed[from][next] = true
				reach(from, next)
			}
		}
	}
	for from := range arrows {
		allowed[from] = make(map[string]bool)
		reach(from, from)
	}
	for path, p := range listPackages(t) {
		from, ours := nameOf(path)
		if !ours || strings.HasPrefix(path, forTests) {
			continue
		}
		if _, drawn := arrows[from]; !drawn {
			t.Errorf("package %s is missing in the picture", from)
			continue
		}
		imports := make(map[string]bool)
		for _, imported := range p.Imports {
			switch to, ours := nameOf(imported); {
			case ours && strings.HasPrefix(imported, forTests):
				t.Errorf("package %s imports %s, which is for tests", from, to)
			case ours && !allowed[from][to]:
				t.Errorf("package %s imports %s, against the arrows of the picture", from, to)
			case ours:
				imports[to] = true
			}
		}
		for _, to := range arrows[from] {
			if !imports[to] {
				t.Errorf("the picture has an arrow from %s to %s, which is not imported", from, to)
			}
		}
	}
}

// TestForeignImports: the domain depends on the standard library alone, and only the adapter knows
// Caddy.
func TestForeignImports(t *testing.T) {
	packages := listPackages(t)
	for path, p := range packages {
		name, ours := nameOf(path)
		if !ours {
			continue
		}
		domain := name == "keystore" || name == "keystore/node" || name == "keystore/manage"
		adapter := name == "." || strings.HasPrefix(name, "caddymodule") ||
			strings.HasPrefix(name, "cmd")
		for _, dep := range p.Deps {
			_, own := nameOf(dep)
			if domain && !own && !packages[dep].Standard {
				t.Errorf("%s depends on %s, outside of the standard library", name, dep)
			}
			if !adapter && strings.HasPrefix(dep, "github.com/caddyserver/caddy") {
				t.Errorf("%s depends on %s: only caddymodule knows Caddy", name, dep)
			}
		}
	}
}

// TestWalksNameTheCode: each file that docs/architecture.md links to exists, and declares the names
// that follow its link up to the next one.
func TestWalksNameTheCode(t *testing.T) {
	page, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(\.\./([^)#]+)\)`)
	name := regexp.MustCompile("`([A-Za-z]+)`")
	for line := range strings.Lines(string(page)) {
		links := link.FindAllStringSubmatchIndex(line, -1)
		for i, m := range links {
			path, end := line[m[2]:m[3]], len(line)
			if i+1 < len(links) {
				end = links[i+1][0]
			}
			if info, err := os.Stat(path); err != nil || info.IsDir() {
				if err != nil {
					t.Error(err)
				}
				continue
			}
			source, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			for _, n := range name.FindAllStringSubmatch(line[m[1]:end], -1) {
				declared := regexp.MustCompile(`(?m)^(func |type )(\([^)]*\) )?` + n[1] + `\b`)
				if strings.HasSuffix(path, ".go") && !declared.Match(source) {
					t.Errorf("%s declares no %s", path, n[1])
				}
			}
		}
	}
}

// TestContributingNamesTests: each test that CONTRIBUTING.md says to run exists.
func TestContributingNamesTests(t *testing.T) {
	page, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile("(cd tests && [^`]*)?go test[^`]* " +
		"-(?:run|fuzz|bench) '([^']+[^$'])\\$?'[^`']* \\./([^ `]*)`")
	found := command.FindAllStringSubmatch(string(page), -1)
	if len(found) == 0 {
		t.Fatal("CONTRIBUTING.md names no test")
	}
	for _, m := range found {
		folder := m[3]
		if m[1] != "" {
			folder = "tests/" + folder
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(m[2], "^"), "/")
		files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		declared := regexp.MustCompile(`(?m)^func ` + name)
		if !slices.ContainsFunc(files, func(file string) bool {
			source, err := os.ReadFile(file)
			return err == nil && declared.Match(source)
		}) {
			t.Errorf("%s has no test %s", folder, name)
		}
	}
}

// nameOf returns the folder of a package, "." for the module's own, and whether it is in the
// module.
func nameOf(path string) (name string, ours bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

// readPicture returns the arrows of the Mermaid picture in docs/architecture.md, by the folder that
// each begins at. A box without an outgoing arrow has an empty list.
func readPicture(t *testing.T) map[string][]string {
	page, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, picture, _ := strings.Cut(string(page), "```mermaid\n")
	picture, _, _ = strings.Cut(picture, "```")
	box := regexp.MustCompile(`^\s*(\w+)\["([^"]+)"\]$`)
	arrow := regexp.MustCompile(`^\s*(\w+) --> (\w+(?: & \w+)*)$`)
	folders := make(map[string]string)
	arrows := make(map[string][]string)
	for line := range strings.Lines(picture) {
		line = strings.TrimRight(line, "\n")
		if m := box.FindStringSubmatch(line); m != nil {
			folders[m[1]] = m[2]
			arrows[m[2]] = nil
		}
		if m := arrow.FindStringSubmatch(line); m != nil {
			for to := range strings.SplitSeq(m[2], " & ") {
				if folders[m[1]] == "" || folders[to] == "" {
					t.Fatalf("an arrow leads to a box that is not drawn above it: %s", line)
				}
				arrows[folders[m[1]]] = append(arrows[folders[m[1]]], folders[to])
			}
		}
	}
	if len(arrows) == 0 {
		t.Fatal("docs/architecture.md has no picture in Mermaid")
	}
	return arrows
}

// listPackages returns all packages of the module and what they depend on, by import path.
func listPackages(t *testing.T) map[string]goPackage {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"-json=ImportPath,Standard,Imports,Deps", "./...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	packages := make(map[string]goPackage)
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("decoding the output of go list: %v", err)
		}
		packages[p.ImportPath] = p
	}
}

package apikeys_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/caddy-apikeys/caddy-apikeys"

// forTests is where what tests share may build on each other.
const forTests = module + "/keystore/keystoretest"

// floors are the parts of the house, the lowest first. Imports go downwards only, or stay inside
// one of them.
var floors = []string{"keystore", "admin", "caddymodule", "", "cmd"}

// rooms are the packages inside caddymodule, with what each may import of this module and whether
// it may import Caddy.
var rooms = map[string][]string{
	"caddymodule/command": {"caddy", "admin/api", "admin/client", "keystore",
		"caddymodule/internal/ascii", "caddymodule/redact"},
	"caddymodule/redact": {"caddy", "keystore", "caddymodule/internal/ascii"},
	"caddymodule/route": {"admin/api", "keystore", "caddymodule/internal/ascii",
		"caddymodule/redact", "caddymodule/route/openapi"},
	"caddymodule/route/openapi":  {},
	"caddymodule/jsonlist":       {"caddymodule/internal/ascii"},
	"caddymodule/internal/ascii": {},
}

type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

func TestImportsPointOneWay(t *testing.T) {
	packages := listPackages(t)
	for _, floor := range []string{"keystore", "admin", "caddymodule", ""} {
		if packages[strings.TrimSuffix(module+"/"+floor, "/")].ImportPath == "" {
			t.Errorf("there is no package %q: this test looks at nothing", floor)
		}
	}
	for _, p := range packages {
		if !ours(p.ImportPath) {
			continue
		}
		for _, imported := range p.Imports {
			if ours(imported) && floorOf(t, imported) > floorOf(t, p.ImportPath) {
				t.Errorf("%s imports %s, which is above it", p.ImportPath, imported)
			}
		}
		checkRoom(t, p)
		for _, dep := range p.Deps {
			switch {
			case p.ImportPath == module+"/keystore" && !packages[dep].Standard:
				t.Errorf("%s depends on %s: the domain stands on the standard library alone",
					p.ImportPath, dep)
			case strings.HasPrefix(p.ImportPath, forTests) && strings.HasPrefix(dep, forTests):
			case strings.HasPrefix(p.ImportPath, module+"/keystore/") && ours(dep) && dep != module+
				"/keystore":
				t.Errorf("%s depends on %s: a backend knows only keystore", p.ImportPath, dep)
			case floorOf(t, p.ImportPath) == 1 && strings.HasPrefix(dep, module+"/keystore/"):
				t.Errorf("%s depends on %s: only caddymodule picks the backends", p.ImportPath, dep)
			case floorOf(t, p.ImportPath) < 2 && strings.HasPrefix(dep, "github.com/caddyserver/"):
				t.Errorf("%s depends on %s: only caddymodule knows Caddy", p.ImportPath, dep)
			}
		}
	}
}

// checkRoom checks the direct imports of a package inside caddymodule.
func checkRoom(t *testing.T, p goPackage) {
	name := strings.TrimPrefix(p.ImportPath, module+"/")
	if !strings.HasPrefix(name, "caddymodule/") {
		return
	}
	allowed, known := rooms[name]
	if !known {
		t.Errorf("%s is in no room of caddymodule: give it one in rooms", name)
	}
	for _, imported := range p.Imports {
		switch {
		case ours(imported):
			imported = strings.TrimPrefix(imported, module+"/")
		case strings.HasPrefix(imported, "github.com/caddyserver/"):
			imported = "caddy"
		default:
			continue
		}
		if !slices.Contains(allowed, imported) {
			t.Errorf("%s imports %s: rooms does not allow it", name, imported)
		}
	}
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

func floorOf(t *testing.T, path string) int {
	first, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(path, module), "/"), "/")
	for i, floor := range floors {
		if floor == first {
			return i
		}
	}
	t.Fatalf("%s is on no floor of the house: give it one in floors", path)
	return 0
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
			t.Fatalf("reading what go list says: %v", err)
		}
		packages[p.ImportPath] = p
	}
}

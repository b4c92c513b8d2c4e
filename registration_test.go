package apikeys_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestModulesForCaddyserverCom checks what caddyserver.com needs for the documentation of modules.
// Its tool reads the code: it skips a module whose ID is not a literal, and gives up if a type has
// the method CaddyModule and is not registered.
func TestModulesForCaddyserverCom(t *testing.T) {
	files, err := filepath.Glob("caddymodule/*.go")
	if err != nil {
		t.Fatal(err)
	}
	inside, err := filepath.Glob("caddymodule/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	test := regexp.MustCompile(`_test\.go$`)
	registered, modules := map[string]bool{}, map[string]bool{}
	set := token.NewFileSet()
	for _, name := range append(files, inside...) {
		if test.MatchString(name) {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Name.Name == "CaddyModule" && n.Recv != nil {
					modules[typeName(n.Recv.List[0].Type)] = true
				}
			case *ast.CallExpr:
				if called, ok := n.Fun.(*ast.SelectorExpr); ok &&
					called.Sel.Name == "RegisterModule" && len(n.Args) == 1 {
					registered[typeName(n.Args[0])] = true
				}
			case *ast.KeyValueExpr:
				key, _ := n.Key.(*ast.Ident)
				if _, literal := n.Value.(*ast.BasicLit); key != nil && key.Name == "ID" &&
					!literal && inModuleInfo(file, n) {
					t.Errorf("%s: the ID of a module must be a literal", set.Position(n.Pos()))
				}
			}
			return true
		})
	}
	if len(modules) != 5 {
		t.Errorf("the plugin has 5 modules, found %v", modules)
	}
	for name := range modules {
		if !registered[name] {
			t.Errorf("%s has a method CaddyModule, but is not registered", name)
		}
	}
}

// typeName returns the name of the type of a receiver or of a value: T in *T, T{} and new(T).
func typeName(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return typeName(e.X)
	case *ast.UnaryExpr:
		return typeName(e.X)
	case *ast.CompositeLit:
		return typeName(e.Type)
	case *ast.CallExpr:
		if len(e.Args) == 1 {
			return typeName(e.Args[0])
		}
	}
	return ""
}

// inModuleInfo reports whether a field belongs to a literal caddy.ModuleInfo.
func inModuleInfo(file *ast.File, field *ast.KeyValueExpr) (found bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		if literal, ok := n.(*ast.CompositeLit); ok && literal.Pos() <= field.Pos() &&
			field.End() <= literal.End() {
			name, selector := literal.Type.(*ast.SelectorExpr)
			found = found || selector && name.Sel.Name == "ModuleInfo"
		}
		return true
	})
	return found
}

// TestNoReplace checks that the module can be required: a replace in go.mod applies only to builds
// of this repository, and `go install …@version` refuses it.
func TestNoReplace(t *testing.T) {
	file, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^\s*replace\b`).Match(file) {
		t.Error("go.mod has a replace")
	}
}

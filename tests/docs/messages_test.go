package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestLogMessages compares docs/troubleshooting.md with the messages in the source: the page lists
// every message that the plugin logs, and no message or database error that does not exist.
func TestLogMessages(t *testing.T) {
	logged, literals := sourceTexts(t)
	if len(logged) < 15 {
		t.Errorf("found only %d messages in the source: %q", len(logged), logged)
	}
	listed := firstCells(t, "## Log messages", "\n### ")
	for _, fragments := range listed {
		if !slices.ContainsFunc(logged,
			func(m string) bool { return strings.HasPrefix(m, fragments[0]) }) {
			t.Errorf("no such message is logged: %q", fragments[0])
		}
	}
	for _, message := range logged {
		if !slices.ContainsFunc(listed,
			func(f []string) bool { return strings.HasPrefix(message, f[0]) }) {
			t.Errorf("the page does not list the message %q", message)
		}
	}
	for _, fragments := range append(listed,
		firstCells(t, "### Errors of the database", "\n## ")...) {
		if !slices.ContainsFunc(literals, func(text string) bool {
			for _, f := range fragments {
				if !strings.Contains(text, f) {
					return false
				}
			}
			return true
		}) {
			t.Errorf("no string in the source has %q", fragments)
		}
	}
}

var code = regexp.MustCompile("`([^`]+)`")

// firstCells returns the code fragments in the first cell of each row of a section's table.
func firstCells(t *testing.T, heading, end string) (cells [][]string) {
	t.Helper()
	_, section, _ := strings.Cut(pages(t)["docs/troubleshooting.md"], heading+"\n")
	section, _, _ = strings.Cut(section, end)
	for line := range strings.Lines(section) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		var fragments []string
		for _, match := range code.FindAllStringSubmatch(cell, -1) {
			fragments = append(fragments, match[1])
		}
		if strings.HasPrefix(line, "| ") && fragments != nil {
			cells = append(cells, fragments)
		}
	}
	if len(cells) == 0 {
		t.Fatalf("docs/troubleshooting.md has no table under %q", heading)
	}
	return cells
}

// sourceTexts returns the messages that the plugin logs, and all string expressions in its source.
// Their variable parts are omitted.
func sourceTexts(t *testing.T) (logged, literals []string) {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	constants := map[string]ast.Expr{}
	set := token.NewFileSet()
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") ||
			path == filepath.Join(root, "tests") || entry.Name() == "keystoretest"):
			return fs.SkipDir
		case filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		files = append(files, file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == len(spec.Values) {
				for i, name := range spec.Names {
					constants[name.Name] = spec.Values[i]
				}
			}
			return true
		})
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if isLog(n) {
					logged = append(logged, textOf(n.Args[0], constants, 0))
				}
			case *ast.BinaryExpr, *ast.BasicLit:
				literals = append(literals, textOf(n.(ast.Expr), constants, 0))
			}
			return true
		})
	}
	return logged, literals
}

// isLog reports whether a call logs a message: logger.Warn("…") or ctx.Logger().Error("…").
func isLog(call *ast.CallExpr) bool {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) == 0 || !slices.Contains([]string{"Debug", "Info", "Warn", "Error"},
		method.Sel.Name) {
		return false
	}
	receiver := method.X
	if made, ok := receiver.(*ast.CallExpr); ok {
		receiver = made.Fun
	}
	name := ""
	switch receiver := receiver.(type) {
	case *ast.Ident:
		name = receiver.Name
	case *ast.SelectorExpr:
		name = receiver.Sel.Name
	}
	return strings.EqualFold(name, "logger") || name == "log"
}

// textOf returns the constant parts of a string expression.
func textOf(e ast.Expr, constants map[string]ast.Expr, depth int) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return text
		}
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			return textOf(e.X, constants, depth) + textOf(e.Y, constants, depth)
		}
	case *ast.Ident:
		if value := constants[e.Name]; value != nil && depth < 3 {
			return textOf(value, constants, depth+1)
		}
	}
	return ""
}

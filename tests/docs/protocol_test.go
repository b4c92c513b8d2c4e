package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFailureTable checks that each test and scenario in the failure table of docs/protocol.md
// exists.
func TestFailureTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return fs.SkipDir
		}
		if err == nil && (strings.HasSuffix(path, "_test.go") ||
			strings.HasSuffix(path, "plan.go")) {
			var text []byte
			text, err = os.ReadFile(path)
			code.Write(text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| shown by |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(table, "\n")[1:]
	if len(rows) < 15 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	name := regexp.MustCompile("`([^`]+)`")
	for _, row := range rows {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		shown := cells[len(cells)-1]
		names := name.FindAllStringSubmatch(shown, -1)
		if len(names) == 0 && !strings.Contains(shown, "not tested") {
			t.Errorf("no test is named: %s", row)
		}
		for _, n := range names {
			if !strings.Contains(code.String(), "func "+n[1]+"(") &&
				!strings.Contains(code.String(), `"`+n[1]+`"`) {
				t.Errorf("%s: no test has this name", n[1])
			}
		}
	}
}

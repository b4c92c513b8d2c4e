package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

var (
	// A citation may be wrapped onto the next line of a comment.
	citation = regexp.MustCompile(`docs/([\w-]+\.md),[\s/]+rules? (\d+)`)
	// A rule is an item of a list or a heading: "7. **Revoke.**", "### 10. Visibility".
	rule = regexp.MustCompile(`(?m)^(?:### )?(\d+)\. (?:\*\*)?[A-Z]`)
)

// TestCitedRulesExist checks that each rule that a comment in the code cites is on its page.
func TestCitedRulesExist(t *testing.T) {
	texts := pages(t)
	cited := 0
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range citation.FindAllStringSubmatch(string(text), -1) {
			cited++
			page, number := "docs/"+match[1], match[2]
			if !slices.ContainsFunc(rule.FindAllStringSubmatch(texts[page], -1),
				func(found []string) bool { return found[1] == number }) {
				t.Errorf("%s cites rule %s of %s, which has no such rule", path, number, page)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if cited == 0 {
		t.Error("no comment cites a rule")
	}
}

// TestRulesAreNumbered checks that the pages whose rules are cited number them without gaps.
func TestRulesAreNumbered(t *testing.T) {
	texts := pages(t)
	for page, want := range map[string]string{
		"docs/api_key.md":   "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
		"docs/authority.md": "1 2 3 4 5 6 7 8 9 10 11 12 13 14",
		"docs/protocol.md":  "1 2 3 4 5 6 7 8 9 10 11",
	} {
		var numbers []string
		for _, match := range rule.FindAllStringSubmatch(texts[page], -1) {
			numbers = append(numbers, match[1])
		}
		if got := strings.Join(numbers, " "); got != want {
			t.Errorf("%s has the rules %s, want %s", page, got, want)
		}
	}
}

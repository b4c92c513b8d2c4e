package gate

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// Token is a secret. Printing it, in whatever form, does not show it; string(token) does.
type Token string

// String shows that there is a token and no more.
func (Token) String() string { return "[token]" }

// GoString is String: %#v must not show it either.
func (Token) GoString() string { return "[token]" }

// shape is a token of the product, whatever its prefix (spec 2: id 12, secret 32, tag 8, check 6).
var shape = regexp.MustCompile(`\b[a-z][a-z0-9_]*_[0-9A-Za-z]{58}\b`)

var watched struct {
	sync.Mutex
	tokens map[string]bool
}

// Watch makes a secret that the harness cannot know by itself, such as an imported one, part of the
// search at the end.
func Watch(secrets ...string) {
	watched.Lock()
	defer watched.Unlock()
	if watched.tokens == nil {
		watched.tokens = map[string]bool{}
	}
	for _, s := range secrets {
		watched.tokens[s] = true
	}
}

func watchAll(text string) { Watch(shape.FindAllString(text, -1)...) }

func watchedTokens() []string {
	watched.Lock()
	defer watched.Unlock()
	tokens := make([]string, 0, len(watched.tokens))
	for token := range watched.tokens {
		tokens = append(tokens, token)
	}
	return tokens
}

// redact makes text fit for a test's output. Long texts lose their beginning.
func redact(text string) string {
	const most = 8 << 10
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	for _, token := range watchedTokens() {
		text = strings.ReplaceAll(text, token, "[token]")
	}
	return shape.ReplaceAllString(text, "[token]")
}

func reportLeaks(t testing.TB, where, text string) {
	t.Helper()
	for _, token := range watchedTokens() {
		if before, _, found := strings.Cut(text, token); found {
			line := before[strings.LastIndexByte(before, '\n')+1:]
			t.Errorf("a token stands in clear in %s, after: %s", where, redact(line))
		}
	}
}

// reportLeaksIn looks into every file: logs, the database and its -wal file, Caddy's saved
// configuration.
func reportLeaksIn(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		reportLeaks(t, entry.Name(), string(content))
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Errorf("looking for tokens: %v", err)
	}
}

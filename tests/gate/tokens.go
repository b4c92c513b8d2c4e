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

// Token is a token. Formatting it with package fmt does not show it; string(token) does.
type Token string

// String returns a placeholder for the token.
func (Token) String() string { return "[token]" }

// GoString is String, for %#v.
func (Token) GoString() string { return "[token]" }

// shape matches tokens with any prefix: an id of 12 characters, a secret of 32, a tag of 8 and a
// checksum of 6.
var shape = regexp.MustCompile(`\b[a-z][a-z0-9_]*_[0-9A-Za-z]{58}\b`)

var watched struct {
	sync.Mutex
	tokens map[string]bool
}

// Watch adds secrets to those that the harness searches for. It is for secrets that the harness
// cannot recognize, such as imported ones.
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

// redact removes tokens from text for a test's output. It cuts off the beginning of a long text.
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
			t.Errorf("%s contains a token, after: %s", where, redact(line))
		}
	}
}

// reportLeaksIn searches every file below dir: logs, the database with its -wal file, and the
// configuration that Caddy saved.
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
		t.Errorf("searching for tokens: %v", err)
	}
}

// Package docs tests that the documentation is correct: links, commands, configurations and
// metrics.
package docs

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m) }

// pages returns the Markdown files of the checkout by their path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(root, path)
			found[name] = string(text)
		}
		return nil
	})
	if err != nil || len(found) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	return found
}

var link = regexp.MustCompile(`\]\(([^)\s#]*)(#[^)\s]*)?\)`)

func TestLinks(t *testing.T) {
	texts := pages(t)
	root, _ := gate.Root()
	for name, text := range texts {
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			to, anchor := match[1], strings.TrimPrefix(match[2], "#")
			if strings.Contains(to, "://") {
				continue
			}
			target := name
			if to != "" {
				target = filepath.Join(filepath.Dir(name), to)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, to)
			}
			if anchor != "" && !slices.Contains(anchors(texts[target]), anchor) {
				t.Errorf("%s links to %s, which has no heading #%s", name, target, anchor)
			}
		}
	}
}

var (
	heading   = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// anchors returns the anchors that GitHub creates for the headings of a page.
func anchors(text string) (all []string) {
	for _, match := range heading.FindAllStringSubmatch(text, -1) {
		all = append(all, strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(match[1]),
			""), " ", "-"))
	}
	return all
}

var runbook = regexp.MustCompile(`runbook_url: https://github\.com/` +
	`caddy-apikeys/caddy-apikeys/blob/main/(\S+)#(\S+)`)

// TestRunbooks checks that each alert links to an existing section.
func TestRunbooks(t *testing.T) {
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	alerts, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	texts := pages(t)
	runbooks := runbook.FindAllStringSubmatch(string(alerts), -1)
	for _, match := range runbooks {
		if page, anchor := match[1], match[2]; !slices.Contains(anchors(texts[page]), anchor) {
			t.Errorf("an alert links to %s, which has no heading #%s", page, anchor)
		}
	}
	if n := strings.Count(string(alerts), "- alert: "); n == 0 || len(runbooks) != n {
		t.Errorf("%d alerts link to %d sections", n, len(runbooks))
	}
}

var metric = regexp.MustCompile("(?m)^\\| `(caddy_apikeys_[a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\|")

func TestMetricsPage(t *testing.T) {
	g := gate.Start(t, gate.Config{APIKeys: "webhook http://127.0.0.1:1 {\nsecret " +
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nallow_private\n}\n"})
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		list, _ := g.Call(t, "GET", "/webhooks", nil).JSON()["items"].([]any)
		if len(list) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the webhook is missing")
		}
	}
	key := g.Mint(t, gate.JSON{"name": "metrics", "access": "read_only"})
	g.Get(t, "/", key.Token)
	g.Revoke(t, key.ID)

	answer, err := http.Get("http://" + g.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	registered := map[string]bool{}
	for name := range families {
		if strings.HasPrefix(name, "caddy_apikeys_") {
			registered[name] = true
		}
	}
	for _, row := range metric.FindAllStringSubmatch(pages(t)["docs/metrics.md"], -1) {
		name, kind, labels := row[1], row[2], strings.Trim(strings.ReplaceAll(row[3], "`", ""), " ")
		family := families[name]
		if family == nil {
			t.Errorf("the page lists %s, which the registry lacks", name)
			continue
		}
		delete(registered, name)
		if got := strings.ToLower(family.GetType().String()); got != kind {
			t.Errorf("%s is a %s, the page says %s", name, got, kind)
		}
		var has []string
		for _, pair := range family.GetMetric()[0].GetLabel() {
			has = append(has, pair.GetName())
		}
		slices.Sort(has)
		said := strings.FieldsFunc(labels, func(r rune) bool { return r == ',' || r == ' ' })
		slices.Sort(said)
		if !slices.Equal(has, said) {
			t.Errorf("%s has the labels %v, the page says %v", name, has, said)
		}
	}
	for name := range registered {
		t.Errorf("the registry has %s, which the page lacks", name)
	}
}

package deploy

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// A prometheus runs the repository's configuration and alerts.
type prometheus string // host:port

// prometheus starts Prometheus, which scrapes the gates once a second.
func (f *fleet) prometheus(t *testing.T) prometheus {
	t.Helper()
	dir := t.TempDir()
	var targets []string
	for _, n := range f.gates {
		targets = append(targets, net.JoinHostPort(n.host, n.internal))
	}
	config := text(t, file(t, "prometheus/prometheus.yml"))
	for old, now := range map[string]string{
		"gate1:2020, gate2:2020, gate3:2020": strings.Join(targets, ", "),
		"interval: 5s":                       "interval: 1s",
	} {
		if !strings.Contains(config, old) {
			t.Fatalf("prometheus.yml has no %q", old)
		}
		config = strings.ReplaceAll(config, old, now)
	}
	for name, content := range map[string]string{"prometheus.yml": config,
		"alerts.yml": text(t, file(t, "prometheus/alerts.yml"))} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return prometheus(gate.Prometheus(t, dir))
}

// get calls the API of Prometheus and decodes `data` of the response.
func (p prometheus) get(t *testing.T, path string, data any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := gate.Ask(ctx, http.DefaultClient, "http://"+string(p)+path, "")
	body := struct{ Data any }{data}
	if err := json.Unmarshal(got.Body, &body); err != nil || got.Status != 200 {
		t.Fatalf("%s: %v %v", path, err, got)
	}
}

// query returns the current series of an expression.
func (p prometheus) query(t *testing.T, expression string) (series []map[string]string) {
	t.Helper()
	var data struct {
		Result []struct{ Metric map[string]string }
	}
	p.get(t, "/api/v1/query?"+url.Values{"query": {expression}}.Encode(), &data)
	for _, r := range data.Result {
		series = append(series, r.Metric)
	}
	return series
}

// checkQueries checks the dashboard and the alerts: Prometheus accepts each expression, the gates
// export every metric and label in it, and each query of the dashboard has a result under traffic.
func (p prometheus) checkQueries(t *testing.T, f *fleet, traffic func()) {
	t.Helper()
	dashboard := dashboardQueries(t)
	if len(dashboard) < 15 {
		t.Errorf("the dashboard has only %d queries", len(dashboard))
	}
	for name, expression := range dashboard {
		gate.Until(t, name+" shows something: "+expression, func() bool {
			traffic()
			return len(p.query(t, expression)) > 0
		})
	}

	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Query, Health, LastError string }
		}
	}
	gate.Until(t, "each alert has been evaluated", func() bool {
		p.get(t, "/api/v1/rules", &rules)
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				if r.Health == "unknown" {
					return false
				}
			}
		}
		return true
	})
	words := vocabularyOf(t, f.gates[0])
	for name, expression := range dashboard {
		if unknown := words.unknown(expression); len(unknown) > 0 {
			t.Errorf("%s: gates export no %v: %s", name, unknown, expression)
		}
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			if r.Health != "ok" {
				t.Errorf("%s: %s: %s", r.Name, r.Health, r.LastError)
			}
			if unknown := words.unknown(r.Query); len(unknown) > 0 {
				t.Errorf("%s: gates export no %v: %s", r.Name, unknown, r.Query)
			}
		}
	}
	if n == 0 {
		t.Error("Prometheus has no alerts")
	}
}

// dashboardQueries returns the queries of the dashboard's panels and variables by their titles,
// with the variables replaced as Grafana does.
func dashboardQueries(t *testing.T) map[string]string {
	t.Helper()
	type query struct{ Expr, LegendFormat string }
	var dashboard struct {
		Panels []struct {
			Title      string
			Datasource struct{ UID string }
			Targets    []query
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	if err := json.Unmarshal([]byte(text(t, file(t, "grafana.json"))), &dashboard); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$job", "caddy-apikeys", "$instance", ".*", "$__rate_interval",
		"1m").Replace
	found := map[string]string{}
	for _, panel := range dashboard.Panels {
		if panel.Datasource.UID != "${datasource}" {
			t.Errorf("%s is bound to the data source %s", panel.Title, panel.Datasource.UID)
		}
		for _, q := range panel.Targets {
			name := panel.Title + ", " + q.LegendFormat
			found[name] = fill(q.Expr)
			if strings.Contains(found[name], "$") {
				t.Errorf("%s uses a variable that the dashboard lacks: %s", name, q.Expr)
			}
			legend := regexp.MustCompile(`{{(.*?)}}`)
			for _, label := range legend.FindAllStringSubmatch(q.LegendFormat, -1) {
				if grouped := regexp.MustCompile(`by \(`).MatchString(q.Expr); grouped &&
					!regexp.MustCompile(`by \([^)]*\b`+label[1]+`\b`).MatchString(q.Expr) {
					t.Errorf("%s: the result lacks the label %s: %s", name, label[1], q.Expr)
				}
			}
		}
	}
	values := regexp.MustCompile(`^label_values\((.*), ([a-z_]+)\)$`)
	for _, variable := range dashboard.Templating.List {
		if variable.Type != "query" {
			continue
		}
		parts := values.FindStringSubmatch(variable.Definition)
		if parts == nil {
			t.Errorf("the variable %s is not a label_values query: %s", variable.Name,
				variable.Definition)
			continue
		}
		found["the variable "+variable.Name] = "count by (" + parts[2] + ") (" + fill(parts[1]) +
			")"
	}
	return found
}

// A vocabulary has the metrics that expressions may use, with their labels and label values.
type vocabulary map[string]map[string][]string

// vocabularyOf returns the metrics that a gate exports. It adds all outcomes, since a gate exports
// only those that have occurred.
func vocabularyOf(t *testing.T, n *node) vocabulary {
	t.Helper()
	_, body := n.inside(t, "GET", "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	words := vocabulary{"up": {"job": nil, "instance": nil}}
	for name, family := range families {
		labels := map[string][]string{"job": nil, "instance": nil}
		for _, series := range family.GetMetric() {
			for _, pair := range series.GetLabel() {
				labels[pair.GetName()] = append(labels[pair.GetName()], pair.GetValue())
			}
		}
		if _, there := labels["outcome"]; there {
			for o := range keystore.NumOutcomes {
				labels["outcome"] = append(labels["outcome"], keystore.Outcome(o).String())
			}
		}
		if family.GetType().String() == "HISTOGRAM" {
			labels["le"] = nil
			name += "_bucket"
		}
		words[name] = labels
	}
	return words
}

var (
	quoted   = regexp.MustCompile(`"[^"]*"`)
	duration = regexp.MustCompile(`\b[0-9]+[smh]\b`)
	word     = regexp.MustCompile(`[A-Za-z_:][A-Za-z0-9_:]*`)
	selector = regexp.MustCompile(`([A-Za-z_:][A-Za-z0-9_:]*)\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"`)
	promql   = strings.Fields("by on and or unless group_left offset sum min max count topk rate " +
		"increase changes max_over_time absent scalar vector histogram_quantile")
)

// unknown returns the names in an expression that are neither in PromQL nor in the vocabulary.
func (v vocabulary) unknown(expression string) (unknown []string) {
	labels := map[string]bool{}
	for _, of := range v {
		for label := range of {
			labels[label] = true
		}
	}
	bare := duration.ReplaceAllString(quoted.ReplaceAllString(expression, ""), "")
	for _, w := range word.FindAllString(bare, -1) {
		if _, metric := v[w]; !metric && !labels[w] && !slices.Contains(promql, w) {
			unknown = append(unknown, w)
		}
	}
	for _, s := range selector.FindAllStringSubmatch(expression, -1) {
		for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
			values, there := v[s[1]][m[1]]
			if !there {
				unknown = append(unknown, s[1]+"{"+m[1]+"}")
			}
			for _, value := range strings.Split(m[2], "|") {
				if len(values) > 0 && !slices.Contains(values, value) {
					unknown = append(unknown, m[1]+"="+value)
				}
			}
		}
	}
	return unknown
}

// TestVocabularyFindsMisspellings checks that misspelled names are found.
func TestVocabularyFindsMisspellings(t *testing.T) {
	t.Parallel()
	words := vocabulary{"caddy_apikeys_nodes": {"job": nil, "state": {"active", "fencing"}},
		"up": {"job": nil}}
	for expression, good := range map[string]bool{
		`max by (state) (caddy_apikeys_nodes{job="a", state=~"active|fencing"} offset 1m)`: true,
		`caddy_apikeys_node{job="a"}`:               false,
		`caddy_apikeys_nodes{stat="active"}`:        false,
		`caddy_apikeys_nodes{state=~"active|gone"}`: false,
		`up{state="active"}`:                        false,
		`sum by (stat) (up)`:                        false,
	} {
		if unknown := words.unknown(expression); len(unknown) == 0 != good {
			t.Errorf("%s: unknown %v", expression, unknown)
		}
	}
}

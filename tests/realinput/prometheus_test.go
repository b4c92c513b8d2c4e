// Package realinput runs the gate in front of real programs and large streams.
package realinput

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m) }

// prometheus is Debian's Prometheus with its lifecycle and admin APIs enabled.
type prometheus struct {
	addr string // host:port
	dir  string // the directory of its target files
}

func startPrometheus(t *testing.T) prometheus {
	t.Helper()
	p := prometheus{dir: t.TempDir()}
	config := `
global:
  scrape_interval: 1s
  scrape_timeout: 1s
scrape_configs:
- job_name: admin
  file_sd_configs: [{files: [admin.json]}]
- job_name: site
  authorization: {credentials_file: token}
  file_sd_configs: [{files: [site.json]}]
- job_name: stranger
  file_sd_configs: [{files: [site.json]}]
`
	if err := os.WriteFile(filepath.Join(p.dir, "prometheus.yml"), []byte(config),
		0o600); err != nil {
		t.Fatal(err)
	}
	p.addr = gate.Prometheus(t, p.dir)
	return p
}

// scrape makes one of its jobs scrape a target, given as host:port.
func (p prometheus) scrape(t *testing.T, job, target string) {
	t.Helper()
	text, _ := json.Marshal([]gate.JSON{{"targets": []string{target}}})
	// Renamed, because Prometheus reads the file as soon as it exists.
	aside := filepath.Join(p.dir, job+".aside")
	if err := os.WriteFile(aside, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, filepath.Join(p.dir, job+".json")); err != nil {
		t.Fatal(err)
	}
}

// values returns the values of an instant query's response by one label.
func values(t testing.TB, answer gate.Response, label string) map[string]float64 {
	t.Helper()
	var body struct {
		Status string
		Data   struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal(answer.Body, &body); err != nil || answer.Status != 200 ||
		body.Status != "success" {
		t.Fatalf("not the response to an instant query: %v, %v", answer, err)
	}
	found := map[string]float64{}
	for _, r := range body.Data.Result {
		text, _ := r.Value[1].(string)
		found[r.Metric[label]], _ = strconv.ParseFloat(text, 64)
	}
	return found
}

// query sends an instant query to Prometheus, for a time in Unix seconds.
func (p prometheus) query(t testing.TB, expression, at, label string) map[string]float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	form := url.Values{"query": {expression}, "time": {at}}
	return values(t, gate.Ask(ctx, http.DefaultClient,
		"http://"+p.addr+"/api/v1/query?"+form.Encode(), ""), label)
}

func now() string { return strconv.FormatFloat(float64(time.Now().UnixMilli())/1e3, 'f', 3, 64) }

// statuses are those of the outcomes in this test.
var statuses = map[string]int{"ok": 200, "public": 200, "bad_target": 400, "missing": 401,
	"malformed": 401, "forbidden": 403, "method": 405}

func TestPrometheus(t *testing.T) {
	t.Parallel()
	p := startPrometheus(t)
	g := gate.Start(t, gate.Config{Site: `
		route {
			api_key {
				resource prometheus
				namespace_path /ns/{namespace}/**
				operation prometheus:query read POST /api/v1/query
				operation prometheus:query read POST /ns/*/api/v1/query
				public /-/healthy
			}
			uri path_regexp ^/ns/[^/]+ ""
			reverse_proxy ` + p.addr + `
		}`})
	g.Namespace(t, "acme", nil)
	mint := func(fields gate.JSON) gate.Token {
		t.Helper()
		fields["name"] = "test"
		return g.Mint(t, fields).Token
	}
	reads := mint(gate.JSON{"access": "read_only"})
	writes := mint(gate.JSON{"access": "read_write"})
	queries := mint(gate.JSON{"permissions": []string{"prometheus:query"}})
	other := mint(gate.JSON{"permissions": []string{"orders:read", "orders:write",
		"prometheus:admin"}})
	acme := mint(gate.JSON{"access": "read_only", "namespace": "acme"})

	post := func(target, body string, token gate.Token) gate.Request {
		r := gate.Request{Method: "POST", Target: target, Body: body,
			Header: []string{"content-type: application/x-www-form-urlencoded"}}
		if token != "" {
			r.Header = append(r.Header, "authorization: Bearer "+string(token))
		}
		return r
	}
	get := func(target string, token gate.Token) gate.Request {
		r := post(target, "", token)
		r.Method, r.Header = "GET", r.Header[1:]
		return r
	}
	method := func(method string, r gate.Request) gate.Request {
		r.Method = method
		return r
	}
	const query, answered = "/api/v1/query", "query=vector(42)"
	sent := map[string]float64{}
	for _, row := range []struct {
		request gate.Request
		outcome string
		needed  string
	}{
		{get(query+"?"+answered, reads), "ok", ""},
		{post(query, answered, reads), "ok", ""},
		{get("/api/v1/status/buildinfo", reads), "ok", ""},
		{get("/api/v1/label/__name__/values", reads), "ok", ""},
		// not a declared operation
		{post("/api/v1/query_range", answered+"&start=0&end=1&step=1", reads), "forbidden",
			"prometheus:write"},
		{post("/api/v1/admin/tsdb/snapshot", "", reads), "forbidden", "prometheus:write"},
		{post("/-/reload", "", reads), "forbidden", "prometheus:write"},
		{method("PUT", get("/-/reload", reads)), "forbidden", "prometheus:write"},
		{post(query, answered, queries), "ok", ""},
		{get(query+"?"+answered, queries), "forbidden", "prometheus:read"},
		{post("/api/v1/admin/tsdb/snapshot", "", queries), "forbidden", "prometheus:write"},
		{post(query, answered, other), "forbidden", "prometheus:query"},
		{get(query+"?"+answered, other), "forbidden", "prometheus:read"},
		{post(query, answered, acme), "forbidden", "prometheus:query"},
		{post("/ns/acme"+query, answered, acme), "ok", ""},
		{post("/ns/acme"+query, answered, reads), "forbidden", "prometheus:query"},
		{post(query, answered, ""), "missing", ""},
		{post(query, answered, "ak_nothing"), "malformed", ""},
		{post("/api/v1/admin/../query", answered, reads), "bad_target", ""},
		{method("PURGE", get(query, reads)), "method", ""},
		{get("/-/healthy", ""), "public", ""},
		// Prometheus itself would have made the snapshots and reloads above.
		{post("/api/v1/admin/tsdb/snapshot", "", writes), "ok", ""},
		{post("/-/reload", "", writes), "ok", ""},
	} {
		for _, protocol := range gate.Protocols {
			r := row.request
			r.Protocol = protocol
			what := fmt.Sprint(r.Method, " ", r.Target, " ", r.Body, " over ", protocol)
			got := g.Do(t, r)
			sent[row.outcome]++
			if got.Status != statuses[row.outcome] || row.needed != "" &&
				got.JSON()["needed"] != row.needed {
				t.Errorf("%s: want %s %s, got %v", what, row.outcome, row.needed, got)
			}
			if got.Status == 200 && strings.Contains(what, answered) &&
				values(t, got, "")[""] != 42 {
				t.Errorf("%s: want the value 42, got %v", what, got)
			}
			if got.Status != 200 {
				if made, _ := filepath.Glob(filepath.Join(p.dir, "data", "snapshots",
					"*")); len(made) > 0 {
					t.Fatalf("%s was refused, but created a snapshot", what)
				}
			}
		}
	}

	// Prometheus scrapes the gate's metrics, and a query through the gate returns the counts.
	const requests = `sum by (outcome) (caddy_apikeys_requests_total) > 0`
	p.scrape(t, "admin", g.Admin)
	var at string
	gate.Until(t, "Prometheus has scraped the gate's metrics", func() bool {
		at = now()
		return len(p.query(t, requests, at, "outcome")) > 0
	})
	for _, token := range []gate.Token{reads, queries} {
		got := values(t, g.Do(t, post(query, url.Values{"query": {requests}, "time": {at}}.Encode(),
			token)), "outcome")
		if !maps.Equal(got, sent) {
			t.Errorf("Prometheus counts %v requests by outcome, the test sent %v", got,
				sent)
		}
	}

	// As a client of the gate, Prometheus scrapes itself with a key and is refused without one.
	token := mint(gate.JSON{"permissions": []string{"prometheus:read"}})
	if err := os.WriteFile(filepath.Join(p.dir, "token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	p.scrape(t, "site", strings.TrimPrefix(g.URL, "http://"))
	gate.Until(t, "two targets are up and the one without a key is down",
		func() bool {
			return maps.Equal(p.query(t, "up", now(), "job"),
				map[string]float64{"admin": 1, "site": 1, "stranger": 0})
		})
}

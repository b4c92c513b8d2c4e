package command

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// cliUsage has two buckets, or two groups with two buckets each.
func cliUsage(groups ...string) api.Usage {
	start := time.Date(2026, 11, 28, 23, 0, 0, 0, time.UTC)
	first := api.UsageCounts{Allowed: 12, Denied: map[string]int64{"limited": 3, "forbidden": 1},
		Units: 24, Status: map[string]int64{"2xx": 11, "5xx": 1}, BytesIn: 999, BytesOut: 1_500_000}
	none := api.UsageCounts{Denied: map[string]int64{}, Status: map[string]int64{}}
	u := api.Usage{Total: first, Items: []api.UsageItem{}}
	for _, g := range groups {
		u.Items = append(u.Items, api.UsageItem{Start: start, Key: g, UsageCounts: first},
			api.UsageItem{Start: start.Add(time.Hour), Key: g, UsageCounts: none})
	}
	return u
}

func TestUsageCommand(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{
		"GET /keys/" + cliID + "/usage": {{200, cliUsage("")}},
		"GET /usage":                    {{200, cliUsage(cliID, "")}},
	})
	s.run("", "usage", cliID).want(t, 0, `TIME                  ALLOWED  REFUSED  UNITS  5XX  IN     OUT
2026-11-28T23:00:00Z  12       4        24     1    999 B  1.5 MB
2026-11-29T00:00:00Z  0        0        0      0    0 B    0 B
total                 12       4        24     1    999 B  1.5 MB
`, "Refused: limited 3, forbidden 1.")
	s.run("", "usage", "--top", "5").want(t, 0, `KEY           ALLOWED  REFUSED  UNITS  5XX  IN     OUT
4fYQ0hTz81Lk  12       4        24     1    999 B  1.5 MB
-             12       4        24     1    999 B  1.5 MB
total         12       4        24     1    999 B  1.5 MB
`, "Refused: limited 3, forbidden 1.")
	var doc api.Usage
	if r := s.run("", "usage", cliID, "--json"); r.status != 0 || r.err != "" ||
		json.Unmarshal([]byte(r.out), &doc) != nil || len(doc.Items) != 2 ||
		doc.Total.Denied["limited"] != 3 {
		t.Errorf("--json: %+v", r)
	}
	s = serveCLI(t, map[string][]cliAnswer{"GET /usage": {{200, cliUsage()}, problem(422,
		"invalid_fields", "", api.FieldError{Field: "from", Detail: "must be at most 10000 buckets"})}})
	s.run("", "usage", "--by", "outcome").want(t, 0, "", "No results.")
	s.run("", "usage").want(t, 1, "", "Error: from: must be at most 10000 buckets")
}

// TestUsageCommandAsks checks what the command asks the server for.
func TestUsageCommandAsks(t *testing.T) {
	for _, row := range []struct{ args, want string }{
		{cliID, "/keys/" + cliID + "/usage"},
		{"", "/usage"},
		{"--namespace acme", "/usage?namespace=acme"},
		{"--top 7", "/usage?group_by=key&limit=7"},
		{"--by owner", "/usage?group_by=owner"},
		{"--by owner --top 7 --namespace acme --step minute",
			"/usage?group_by=owner&limit=7&namespace=acme&step=minute"},
		{"--since 30m", "/usage?from&step=minute"},
		{"--since 48h", "/usage?from&step=hour"},
		{"--since 7d", "/usage?from&step=day"},
		{"--since 365d", "/usage?from&step=month"},
		{"--since 365d --until 364d", "/usage?from&step=hour&to"},
		{"--since 365d --step day", "/usage?from&step=day"},
		{"--until 2026-01-01T00:00:00Z", "/usage?to"},
	} {
		s := serveCLI(t, map[string][]cliAnswer{"GET /usage": {{200, cliUsage("a")}},
			"GET /keys/" + cliID + "/usage": {{200, cliUsage("")}}})
		r := s.run("", append([]string{"usage"}, strings.Fields(row.args)...)...)
		if r.status != 0 || len(s.requests()) != 1 {
			t.Fatalf("%s: %+v", row.args, r)
		}
		u, err := url.Parse(strings.TrimPrefix(s.requests()[0].line, "GET "))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		for _, name := range []string{"from", "to"} { // times that depend on now
			if q.Has(name) {
				if _, err := time.Parse(time.RFC3339, q.Get(name)); err != nil {
					t.Error(err)
				}
				q.Set(name, "")
			}
		}
		got := strings.TrimPrefix(u.Path, api.Prefix)
		if len(q) > 0 {
			got += "?" + strings.NewReplacer("from=", "from", "to=", "to").Replace(q.Encode())
		}
		if got != row.want {
			t.Errorf("%q asks for %s, want %s", row.args, got, row.want)
		}
	}
	s := serveCLI(t, nil)
	for args, want := range map[string]string{
		cliID + " --namespace acme": "not both",
		cliID + " --top 5":          "not both",
		cliID + " --by owner":       "not both",
		"--csv --json":              "not both",
		"--top 0":                   "--top 0 must be 1 to 1000",
		"--top 1001":                "--top 1001 must be 1 to 1000",
		"--since yesterday":         "--since \"yesterday\" must be a time",
		"--since 1h --until never":  "--until",
		cliToken:                    "rotate the key",
		cliID + " " + cliID:         "give the ID of one key",
	} {
		s.run("", append([]string{"usage"}, strings.Fields(args)...)...).want(t, 1, "", want)
	}
	if len(s.requests()) > 0 {
		t.Errorf("a wrong command line sent %v", s.requests())
	}
}

func TestUsageCommandCSV(t *testing.T) {
	const text = "start,key\n2026-11-28T23:00:00Z,a\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Accept"))
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(server.Close)
	runCLI("", "usage", "--top", "3", "--csv", "--address", server.Listener.Addr().String()).want(t,
		0, text)
}

func TestSparkline(t *testing.T) {
	rising := make([]int64, 240) // 60 bars of 4
	for i := range rising {
		rising[i] = int64(i / 4)
	}
	for _, row := range []struct {
		values []int64
		want   string
	}{
		{nil, ""},
		{[]int64{0, 0}, "  "},
		{[]int64{1}, "█"},
		{[]int64{0, 1, 2, 3, 4, 5, 6, 7, 8}, " ▁▂▃▄▅▆▇█"},
		{[]int64{1, 1_000_000}, "▁█"},
		{rising, " ▁▁▁▁▁▁▁▂▂▂▂▂▂▂▃▃▃▃▃▃▃▃▄▄▄▄▄▄▄▅▅▅▅▅▅▅▆▆▆▆▆▆▆▆▇▇▇▇▇▇▇████████"},
	} {
		if got := sparkline(row.values); got != row.want {
			t.Errorf("%v: %q, want %q", row.values, got, row.want)
		}
	}
}

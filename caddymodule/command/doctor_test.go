package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

func TestDoctorCommand(t *testing.T) {
	const (
		redacting = `"encoder":{"format":"api_keys"}`
		wrapped   = `"encoder":{"format":"filter","wrap":{"format":"api_keys"}}`
		plain     = `"encoder":{"format":"json"}`
		handler   = `"apps":{"api_keys":{},"http":{"servers":{"s":{"routes":[{"handle":[{"handler":"subroute","routes":[{"handle":[{"handler":"api_key"`
		end       = `}]}]}]}]}}}}`
		header    = handler + end
		bearer    = handler + `,"from":[{"type":"bearer"}]` + end
	)
	logs := func(logs string) string { return `"logging":{"logs":{` + logs + `}},` }
	document := filepath.Join(t.TempDir(), "api.yaml")
	if err := os.WriteFile(document,
		[]byte("openapi: 3.1.0\npaths:\n /a: {get: {}}\n /b?c=d: {get: {}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	healthy := cliAnswer{200, api.Health{Healthy: true, Revision: 7, LeaseRemainingMS: 29000}}
	for name, row := range map[string]struct {
		config string
		health cliAnswer
		status int
		want   []string
		roles  []api.Role
		others []api.OtherPrefix
	}{
		"healthy": {logs(`"default":{`+redacting+`},"log0":{`+wrapped+
			`,"include":["http.log.access.log0"]}`) + header, healthy, 0, []string{
			"is reachable", "✓ a key store is running", "✓ it is healthy: revision 7, 29s",
			"✓ api_key handlers in the configuration: 1",
			"✓ every log of HTTP requests redacts", "exist: default"}, nil, nil},
		"no log configured": {header, healthy, 1,
			[]string{"✗ keys from header X-Api-Key are written in plain text to: default",
				"→ Add `log { format api_keys }`"}, nil, nil},
		"access log without redaction": {logs(`"default":{`+redacting+`},"log0":{`+plain+
			`,"include":["http.log.access.log0"]}`) + header, healthy, 1, []string{"text to: log0"},
			nil, nil},
		"default log without HTTP": {logs(`"default":{"exclude":["http"]}`) + header, healthy, 0,
			[]string{"✓ every log"}, nil, nil},
		"other logs": {logs(`"default":{`+redacting+
			`},"a":{"include":["tls"]},"b":{"writer":{"output":"discard"}}`) + header, healthy, 0,
			[]string{"✓ every log"}, nil, nil},
		"included, then excluded": {logs(`"default":{`+redacting+
			`},"a":{"include":["http.log"],"exclude":["http.log"]}`) + header, healthy, 0,
			[]string{"✓ every log"}, nil, nil},
		"partly excluded": {logs(`"default":{`+redacting+
			`},"a":{"exclude":["http.log.access"]}`) + header, healthy, 1, []string{"text to: a"}, nil,
			nil},
		"redacted by Caddy itself": {bearer, healthy, 0,
			[]string{"✓ keys are accepted only from sources that", "default"}, nil, nil},
		"query": {handler + `,"from":[{"type":"query","name":"key"},{"type":"cookie","name":"c"}]` +
			end, healthy, 1, []string{
			"keys from query key are written"}, nil, nil},
		"no handler": {`"apps":{"api_keys":{}}`, healthy, 1,
			[]string{"✗ api_key handlers in the configuration: 0", "→ Add api_key to a site"}, nil,
			nil},
		"missing namespace": {handler + `,"from":[{"type":"bearer"}],"namespace":"gone"` + end,
			healthy, 1, []string{"do not exist: gone", "namespaces create gone"}, nil, nil},
		"other namespaces": {handler +
			`,"from":[{"type":"bearer"}],"namespace":"{http.request.host}","namespace_path":["/{namespace}"]` + end, healthy, 0, []string{"✓ the configuration names no namespace"}, nil, nil},
		"lease expired": {bearer, cliAnswer{503,
			api.Health{Problem: "the database is locked", Revision: 3}}, 1,
			[]string{"✗ it is not healthy: the database is locked; revision 3, 0s"}, nil, nil},
		"no store": {`"apps":{}`, problem(503, "unavailable",
			"No key store is running: the configuration in force does not use api_keys."), 1,
			[]string{"✗ No key store is running"}, nil, nil},
		"no plugin": {`"apps":{}`, cliAnswer{404, "404 page not found"}, 1,
			[]string{"does not manage API keys", "→ Check that `caddy list-modules`"}, nil, nil},
		"both on one site": {`"apps":{"http":{"servers":{"s":{"listen":[":443"],"routes":[{"match":[{"host":["a"]}],"handle":[{"handler":"subroute","routes":[` +
			`{"handle":[{"handler":"api_key","from":[{"type":"bearer"}],"public":["/health"]}]},{"handle":[{"handler":"api_keys_admin"}]}]}]}]}}}}`, healthy, 1, []string{
			"✗ api_key refuses the requests for api_keys_admin on the same site: :443",
			"→ add `public /apikeys/*` to api_key"}, nil, nil},
		"both on one site, with public": {`"apps":{"http":{"servers":{"s":{"listen":[":443"],"routes":[{"handle":[{"handler":"subroute","routes":[` +
			`{"handle":[{"handler":"api_key","from":[{"type":"bearer"}],"public":["/apikeys/*"]}]},{"handle":[{"handler":"api_keys_admin"}]}]}]}]}}}}`, healthy, 0, []string{
			"✓ no api_key refuses the requests for api_keys_admin"}, nil, nil},
		"both on one site, in separate routes": {`"apps":{"http":{"servers":{"s":{"listen":[":443"],"routes":[` +
			`{"match":[{"path":["/v1/*"]}],"handle":[{"handler":"api_key","from":[{"type":"bearer"}]}]},{"handle":[{"handler":"api_keys_admin"}]}]}}}}`, healthy, 0, []string{
			"✓ no api_key refuses the requests for api_keys_admin"}, nil, nil},
		"operations left out": {handler +
			`,"from":[{"type":"bearer"}],"strict":true,"openapi":[{"skip_unsupported":true,"file":"` +
			document + `"}]` + end, healthy, 0,
			[]string{"✓ skip_unsupported leaves out of OpenAPI documents: GET /b?c=d: " +
				"the path"}, nil, nil},
		"missing document": {handler +
			`,"from":[{"type":"bearer"}],"openapi":[{"skip_unsupported":true,"file":"/no/such/file"}]` + end, healthy, 0, []string{
			"– not checked: which operations are left out: openapi: stat /no/such/file"}, nil, nil},
		"unreadable role": {bearer, healthy, 1,
			[]string{"✗ unreadable rows, which grant nothing: role acme/billing (unknown word)"},
			[]api.Role{{Namespace: "acme", Name: "billing", Unreadable: "unknown word"}}, nil},
		"prefix not accepted": {bearer, healthy, 1, []string{
			"✗ live keys are refused because token_prefix does not accept their prefixes: old (3)",
			"Accept them with `token_prefix ak old`, or refuse them permanently with " +
				"`abandon_prefix old`."},
			nil,
			[]api.OtherPrefix{{Prefix: "gone", Keys: 2, Abandoned: true},
				{Prefix: "old", Keys: 3}}},
		"abandoned prefix": {bearer, healthy, 0,
			[]string{"✓ live keys are refused because the configuration abandons their prefixes: " +
				"gone (2)"},
			nil, []api.OtherPrefix{{Prefix: "gone", Keys: 2, Abandoned: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			next := "more"
			answers := map[string][]cliAnswer{
				"GET /config/": {{200, "{" + row.config + "}"}},
				"GET /health":  {row.health},
				"GET /prefixes": {{200,
					api.TokenPrefixes{Accepted: []string{"ak"}, Others: row.others}}},
				"GET /namespaces/default": {{200, api.Namespace{ID: "default"}}},
				"GET /namespaces/gone": {problem(404, "not_found",
					"The namespace does not exist.")},
				"GET /namespaces": {{200, api.Namespaces{}}},
				"GET /plans":      {{200, api.Plans{}}},
				"GET /nodes":      {{200, api.Nodes{Items: []api.Node{{State: "active"}}}}},
				"GET /members":    {{200, api.Members{}}},
				"GET /roles": {
					{200, api.Roles{Items: []api.Role{{Namespace: "*", Name: "viewer"}},
						NextCursor: &next}}, {200, api.Roles{Items: row.roles}},
				},
			}
			s := serveCLI(t, answers)
			r := s.run("", "doctor")
			if r.status != row.status || r.err != "" {
				t.Errorf("status %d, %s", r.status, r.err)
			}
			for _, text := range row.want {
				if !strings.Contains(r.out, text) {
					t.Errorf("lacks %q:\n%s", text, r.out)
				}
			}
			if strings.Contains(r.out, "✗") != (row.status != 0) {
				t.Errorf("status %d for\n%s", row.status, r.out)
			}
			var doc struct {
				Healthy bool
				Checks  []finding
			}
			if r := s.run("", "doctor", "--json"); json.Unmarshal([]byte(r.out), &doc) != nil ||
				doc.Healthy != (row.status == 0) || len(doc.Checks) < 3 {
				t.Errorf("--json: %s", r.out)
			}
		})
	}
}

func TestDoctorCommandFindsPlans(t *testing.T) {
	config := cliAnswer{200, `{"apps":{"api_keys":{},"http":{"servers":{"s":{"routes":[{"handle":` +
		`[{"handler":"api_key","from":[{"type":"bearer"}]}]}]}}}}}`}
	gold, free, gone := "gold", "free", "gone"
	for name, row := range map[string]struct {
		namespaces []api.Namespace
		plans      cliAnswer
		status     int
		want       string
	}{
		"all exist": {[]api.Namespace{{ID: "acme", DefaultPlan: &gold}, {ID: "b", DefaultPlan: &free}},
			cliAnswer{200, api.Plans{Items: []api.Plan{{Namespace: "acme", Name: "gold"},
				{Namespace: "*", Name: "free"}}}}, 0,
			"✓ all plans are readable, and all default plans exist"},
		"missing": {[]api.Namespace{{ID: "acme", DefaultPlan: &gone}, {ID: "b", DefaultPlan: &gold}},
			cliAnswer{200, api.Plans{Items: []api.Plan{{Namespace: "acme", Name: "gold"}}}}, 1,
			"✗ requests with keys that use these plans get 503, because their limits " +
				"are unknown: namespace acme (its default plan gone does not exist); namespace b (its default plan gold does not exist)\n" +
				"  → Set them again: caddy apikeys plans edit, namespaces edit --default-plan."},
		"unreadable": {nil, cliAnswer{200, api.Plans{Items: []api.Plan{{Namespace: "*",
			Name: "free", Unreadable: "no JSON"}}}}, 1,
			"✗ requests with keys that use these plans get 503, because their limits " +
				"are unknown: plan */free (no JSON)"},
		"refused": {nil, problem(503, "unavailable", "The database is unavailable."), 1,
			"✗ The database is unavailable."},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveCLI(t, map[string][]cliAnswer{
				"GET /config/":            {config},
				"GET /health":             {{200, api.Health{Healthy: true}}},
				"GET /prefixes":           {{200, api.TokenPrefixes{Accepted: []string{"ak"}}}},
				"GET /namespaces/default": {{200, api.Namespace{ID: "default"}}},
				"GET /namespaces":         {{200, api.Namespaces{Items: row.namespaces}}},
				"GET /roles":              {{200, api.Roles{}}},
				"GET /members":            {{200, api.Members{}}},
				"GET /plans":              {row.plans},
				"GET /nodes":              {{200, api.Nodes{}}},
			})
			if r := s.run("", "doctor"); r.status != row.status || !strings.Contains(r.out, row.want) {
				t.Errorf("status %d, lacks %q:\n%s%s", r.status, row.want, r.out, r.err)
			}
		})
	}
}

func TestDoctorCommandFindsRates(t *testing.T) {
	limit := &api.RateLimit{Requests: 1, Per: "1s", Burst: 1}
	nodes := []api.Node{{State: "active"}, {State: "silent"}, {State: "active"}}
	const warning = "! 2 processes without Redis: each admits 1/2 of a rate limit"
	for name, row := range map[string]struct {
		cache string
		ns    api.Namespace
		plan  api.Plan
		nodes []api.Node
		want  string
	}{
		"namespace": {"", api.Namespace{ID: "acme", RateLimit: limit}, api.Plan{}, nodes, warning},
		"plan":      {"", api.Namespace{}, api.Plan{RateLimit: limit}, nodes, warning},
		"no limit":  {"", api.Namespace{}, api.Plan{}, nodes, "✓ no plan and no namespace has"},
		"one": {"", api.Namespace{}, api.Plan{RateLimit: limit}, nodes[:2],
			"✓ only one process"},
		"Redis": {`"cache":{"type":"redis","url":"redis://localhost"}`, api.Namespace{},
			api.Plan{RateLimit: limit}, nodes, "✓ the processes share rate limits in Redis"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveCLI(t, map[string][]cliAnswer{
				"GET /config/": {{200, `{"apps":{"api_keys":{` + row.cache +
					`},"http":{"servers":{"s":{"routes":[{"handle":[{"handler":"api_key",` +
					`"from":[{"type":"bearer"}]}]}]}}}}}`}},
				"GET /health":             {{200, api.Health{Healthy: true}}},
				"GET /prefixes":           {{200, api.TokenPrefixes{Accepted: []string{"ak"}}}},
				"GET /namespaces/default": {{200, api.Namespace{ID: "default"}}},
				"GET /namespaces":         {{200, api.Namespaces{Items: []api.Namespace{row.ns}}}},
				"GET /roles":              {{200, api.Roles{}}},
				"GET /members":            {{200, api.Members{}}},
				"GET /plans":              {{200, api.Plans{Items: []api.Plan{row.plan}}}},
				"GET /nodes":              {{200, api.Nodes{Items: row.nodes}}},
			})
			if r := s.run("", "doctor"); r.status != 0 || !strings.Contains(r.out, row.want) {
				t.Errorf("status %d, lacks %q:\n%s%s", r.status, row.want, r.out, r.err)
			}
		})
	}
}

func TestDoctorCommandUnreachable(t *testing.T) {
	r := runCLI("", "doctor", "--address", "127.0.0.1:1")
	if r.status != 1 || !strings.Contains(r.out,
		"✗ cannot reach Caddy's admin endpoint at 127.0.0.1:1") {
		t.Errorf("%+v", r)
	}
	s := serveCLI(t, map[string][]cliAnswer{
		"GET /health":   {{200, api.Health{Healthy: true}}},
		"GET /prefixes": {{200, api.TokenPrefixes{Accepted: []string{"ak"}}}},
	})
	r = runCLI(cliToken, "doctor", "--server", "http://"+s.address)
	if r.status != 0 || strings.Count(r.out, "– not checked") != 3 {
		t.Errorf("%+v", r)
	}
	noToken(t, r.out, r.err)
}

// TestDoctorCommandFindsRoutes checks that mistakes in the routes have the line of the Caddyfile, if
// there is one, and are found without a running Caddy.
func TestDoctorCommandFindsRoutes(t *testing.T) {
	t.Chdir(t.TempDir())
	const caddyfile = "a.test {\n\troute {\n\t\treverse_proxy localhost:9\n\t\tapi_key {\n" +
		"\t\t\tfrom bearer\n\t\t}\n\t}\n}\n"
	config, err := ConfigFile{Name: "x", Body: []byte(caddyfile), Adapter: "caddyfile"}.JSON()
	if err != nil {
		t.Fatal(err)
	}
	s := serveCLI(t, map[string][]cliAnswer{
		"GET /config/":            {{200, string(config)}},
		"GET /health":             {{200, api.Health{Healthy: true}}},
		"GET /prefixes":           {{200, api.TokenPrefixes{Accepted: []string{"ak"}}}},
		"GET /namespaces/default": {{200, api.Namespace{ID: "default"}}},
		"GET /namespaces":         {{200, api.Namespaces{}}},
		"GET /roles":              {{200, api.Roles{}}},
		"GET /members":            {{200, api.Members{}}},
		"GET /plans":              {{200, api.Plans{}}},
		"GET /nodes":              {{200, api.Nodes{}}},
	})
	const found = "✗ api_key comes after reverse_proxy localhost:9 in the same route and never runs: " +
		"the upstream needs no key\n"
	want := func(r cliRun, texts ...string) {
		t.Helper()
		for _, text := range texts {
			if r.status != 1 || !strings.Contains(r.out, text) {
				t.Errorf("status %d, lacks %q:\n%s%s", r.status, text, r.out, r.err)
			}
		}
	}
	want(s.run("", "doctor"), found+"  at apps/http/servers/srv0/routes/0/", "give --config FILE")
	if err := os.WriteFile("Caddyfile", []byte("# moved\n"+caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	want(s.run("", "doctor"), found+"  at Caddyfile:4\n  → Move api_key before reverse_proxy")
	want(s.run("", "doctor", "--json"), `"at": "Caddyfile:4"`)
	want(runCLI("", "doctor", "--address", "127.0.0.1:1"), "✗ cannot reach", found+"  at Caddyfile:4")
	if err := os.WriteFile("Caddyfile", []byte("a.test {\n\tnonsense\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want(s.run("", "doctor"), "! adapting Caddyfile: Caddyfile:2: unrecognized directive: nonsense",
		found+"  at apps/http/")
}

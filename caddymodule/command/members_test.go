package command

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const cliMember = "m_" + cliID

var ada = api.Member{
	ID: cliMember, Name: "Ada", Kind: "person", Active: true, CreatedBy: "root",
	CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: 2,
	Grants: []api.Grant{{Namespace: "acme", Roles: []string{"developer"}, Connected: true},
		{Namespace: "eu", Permissions: []string{"read"}}},
	Labels: map[string]string{"team": "erp"},
}

// bodies returns the method, path and body of each request that has a body.
func (s *cliServer) bodies() string {
	var list []string
	for _, call := range s.requests() {
		if call.body != "" {
			list = append(list, strings.TrimPrefix(call.line, "PATCH "+api.Prefix)+" "+call.body)
		}
	}
	return strings.Join(list, "\n")
}

func TestMembersCommand(t *testing.T) {
	disabled := ada
	disabled.Active = false
	s := serveCLI(t, map[string][]cliAnswer{
		"GET /members":              {{200, api.Members{Items: []api.Member{ada, disabled}}}},
		"GET /members/" + cliMember: {{200, ada}},
		"POST /members": {{201, ada},
			problem(403, "exceeds_caller", "The member would have more permissions than you.")},
		"PATCH /members/" + cliMember: {{200,
			api.MemberChanged{Member: ada, Propagation: complete}},
			{202, api.MemberChanged{Member: disabled, Propagation: incomplete}}},
		"DELETE /members/" + cliMember: {problem(409, "in_use", "The member owns keys.")},
	})
	s.run("", "members", "list").want(t, 0,
		"ID              NAME  KIND    LOGIN  STATUS    NAMESPACES  CREATED\n"+
			"m_4fYQ0hTz81Lk  Ada   person         active    acme, eu    2026-01-02T03:04:05Z\n"+
			"m_4fYQ0hTz81Lk  Ada   person         disabled  acme, eu    2026-01-02T03:04:05Z\n")
	s.run("", "members", "show", cliMember).want(t, 0,
		"Id       m_4fYQ0hTz81Lk\nName     Ada\nKind     person\nLogin    none\nStatus   active\n"+
			"Grant    acme: roles developer; connected\nGrant    eu: read\nLabel    "+
			"team=erp\nCreated  2026-01-02T03:04:05Z by root\nVersion  2\n")
	s.run("", "members", "create", "--name", "Ada", "--login", "ada@acme.example", "--grant",
		"acme+=@developer", "--grant", "*=read_only", "--label", "team=erp").want(t, 0, "",
		"Created member "+cliMember+" (Ada).")
	s.run("", "members", "create", "--name", "Ada", "--kind", "service").want(t, 1, "",
		"more permissions than you")
	s.run("", "members", "edit", cliMember, "--name", "Ada L.", "--no-login", "--grant",
		"acme=@viewer", "--label", "a=", "--drop-label", "team", "--if-version", "2").want(t, 0, "",
		"Changed member")
	s.run("", "members", "disable", cliMember, "--wait", "1s").want(t, 3, "", "Disabled member",
		"pending: node n2", "1 of 2 nodes")
	s.run("", "members", "enable", cliMember).want(t, 3, "", "Enabled member")
	s.run("", "members", "edit", cliMember).want(t, 1, "", "nothing to change")
	s.run("", "members", "edit", cliMember, "--label", "team").want(t, 1, "",
		"--label \"team\" must be NAME=VALUE")
	s.run("", "members", "delete", cliMember).want(t, 1, "", "--yes")
	s.run("", "members", "delete", cliMember, "--yes").want(t, 1, "", "The member owns keys.")
	const path = "/members/" + cliMember
	const want = `POST /apikeys/v1/members {"name":"Ada","login":"ada@acme.example","grants":[{"namespace":"acme","roles":["developer"],"connected":true},{"namespace":"*","access":"read_only"}],"labels":{"team":"erp"}}
POST /apikeys/v1/members {"name":"Ada","kind":"service"}
` + path + `?wait=10s {"name":"Ada L.","login":null,"grants":[{"namespace":"acme","roles":["viewer"]}],"labels":{"a":"","team":null}}
` + path + `?wait=1s {"active":false}
` + path + `?wait=10s {"active":true}`
	if got := s.bodies(); got != want {
		t.Errorf("sent\n%s\nwant\n%s", got, want)
	}
}

func TestTransferCommand(t *testing.T) {
	const other = "m_7Kd0aPq3XnWb"
	one, two := 1, 2
	s := serveCLI(t, map[string][]cliAnswer{"POST /members/" + cliMember + "/transfer": {
		{200, api.MemberChanged{Member: ada, Transferred: &two, Propagation: complete}},
		{202, api.MemberChanged{Member: ada, Transferred: &one, Propagation: incomplete}},
		problem(403, "exceeds_caller", "Key x: the caller does not have read."),
	}})
	s.run("", "members", "transfer", cliMember, "--to", other, "--yes").want(t, 0, "",
		"Transferred 2 keys to member "+other)
	s.run("", "members", "transfer", cliMember, "--to", other, "--yes", "--wait", "1s").want(t, 3, "",
		"Transferred 1 key to", "pending: node n2")
	s.run("", "members", "transfer", cliMember, "--to", "root", "--yes").want(t, 1, "", "Key x")
	s.run("", "members", "transfer", cliMember, "--to", other).want(t, 1, "", "--yes")
	s.run("", "members", "transfer", cliMember).want(t, 1, "", "--to")
	path := "POST /apikeys/v1/members/" + cliMember + "/transfer"
	want := path + `?wait=10s {"to":"` + other + "\"}\n" + path + `?wait=1s {"to":"` + other +
		"\"}\n" + path + `?wait=10s {"to":"root"}`
	if got := s.bodies(); got != want {
		t.Errorf("sent\n%s\nwant\n%s", got, want)
	}
}

func TestMemberTokenCommand(t *testing.T) {
	done := api.MemberChanged{Member: ada, Token: cliToken, Propagation: complete}
	pending := done
	pending.Propagation = incomplete
	s := serveCLI(t, map[string][]cliAnswer{"POST /members/" + cliMember +
		"/token": {{200, done}, {202, pending}, {200, done}}})
	r := s.run("", "members", "token", cliMember, "--expires", "2199-01-01T00:00:00Z", "--allow-ip",
		"10.0.0.0/8")
	r.want(t, 0, cliToken+"\n", "Ada", "2199-01-01", "not shown again")
	noToken(t, r.err)
	r = s.run("", "members", "token", cliMember)
	r.want(t, 3, cliToken+"\n", "never", "pending: node n2")
	var doc api.MemberChanged
	if r := s.run("", "members", "token", cliMember, "--json"); r.status != 0 || r.err != "" ||
		json.Unmarshal([]byte(r.out), &doc) != nil || doc.Token != cliToken {
		t.Errorf("--json: status %d, %s", r.status, r.err)
	}
	if body := s.requests()[0].body; body != `{"expires_at":"2199-01-01T00:00:00Z","allowed_ips":["10.0.0.0/8"]}` {
		t.Errorf("sent %s", body)
	}
}

func TestRolesCommand(t *testing.T) {
	createdAt := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	billing := api.Role{Namespace: "acme", Name: "billing",
		Permissions: []string{"invoices:*", "orders:read"}, CreatedAt: &createdAt, Version: 1}
	viewer := api.Role{Namespace: "*", Name: "viewer", Description: "Reads",
		Permissions: []string{"admin:read"}, Builtin: true, Version: 1}
	s := serveCLI(t, map[string][]cliAnswer{
		"GET /roles":          {{200, api.Roles{Items: []api.Role{billing, viewer}}}},
		"GET /roles/*/viewer": {{200, viewer}},
		"POST /roles": {{201, billing},
			{201, api.Role{Namespace: "*", Name: "auditor"}}},
		"PATCH /roles/acme/billing": {{200,
			api.RoleChanged{Role: billing, Propagation: complete}}},
		"DELETE /roles/acme/billing": {{202,
			api.RoleChanged{Role: billing, Propagation: incomplete}}},
	})
	s.run("", "roles", "list").want(t, 0, "NAMESPACE  NAME     PERMISSIONS              CREATED\n"+
		"acme       billing  invoices:*, orders:read  2026-01-02T03:04:05Z\n*          viewer   "+
		"admin:read               built in\n")
	const shown = "Name         viewer\nNamespace    *\nDescription  Reads\nPermissions  " +
		"admin:read\nCreated      built in\nVersion      1\n"
	s.run("", "roles", "show", "viewer").want(t, 0, shown)
	s.run("", "roles", "show", "*/viewer").want(t, 0, shown)
	s.run("", "roles", "create", "acme/billing", "--permission", "orders:read,invoices:*").want(t,
		0, "", "Created role billing of namespace acme.")
	s.run("", "roles", "create", "auditor", "--permission", "read").want(t, 0, "",
		"Created shared role auditor (for all namespaces).")
	s.run("", "roles", "edit", "acme/billing").want(t, 1, "", "nothing to change")
	s.run("", "roles", "edit", "acme/billing", "--permission", "orders:read").want(t, 0, "",
		"Changed role billing")
	s.run("", "roles", "edit", "acme/billing", "--description", "Reads orders").want(t, 0, "",
		"Changed role billing")
	s.run("", "roles", "edit", "acme/billing", "--no-description").want(t, 0, "",
		"Changed role billing")
	s.run("", "roles", "delete", "acme/billing", "--yes", "--wait", "1s").want(t, 3, "",
		"Deleted role billing", "pending: node n2")
	const want = `POST /apikeys/v1/roles {"namespace":"acme","name":"billing","permissions":["orders:read","invoices:*"]}
POST /apikeys/v1/roles {"namespace":"*","name":"auditor","permissions":["read"]}
/roles/acme/billing?wait=10s {"permissions":["orders:read"]}
/roles/acme/billing?wait=10s {"description":"Reads orders"}
/roles/acme/billing?wait=10s {"description":null}`
	if got := s.bodies(); got != want {
		t.Errorf("sent\n%s\nwant\n%s", got, want)
	}
}

func TestPlansCommand(t *testing.T) {
	gold := api.Plan{Namespace: "acme", Name: "gold", Description: "Pays", Version: 2,
		RateLimit: &api.RateLimit{Requests: 100, Per: "1s", Burst: 100},
		Quota:     &api.Quota{Requests: 5000, Per: "day", Shadow: true},
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	free := api.Plan{Namespace: "*", Name: "free", CreatedAt: gold.CreatedAt, Version: 1}
	s := serveCLI(t, map[string][]cliAnswer{
		"GET /plans":           {{200, api.Plans{Items: []api.Plan{gold, free}}}},
		"GET /plans/acme/gold": {{200, gold}},
		"POST /plans":          {{201, gold}, {201, free}},
		"PATCH /plans/acme/gold": {{200,
			api.PlanChanged{Plan: gold, Propagation: complete}}},
		"DELETE /plans/acme/gold": {{202,
			api.PlanChanged{Plan: gold, Propagation: incomplete}}},
	})
	s.run("", "plans", "list", "--namespace", "*").want(t, 0,
		"NAMESPACE  NAME  RATE    QUOTA             CREATED\n"+
			"acme       gold  100/1s  5000/day, shadow  2026-01-02T03:04:05Z\n"+
			"*          free  none    none              2026-01-02T03:04:05Z\n")
	if line := s.requests()[0].line; line != "GET /apikeys/v1/plans?limit=1000&namespace=%2A" {
		t.Error(line)
	}
	s.run("", "plans", "show", "acme/gold").want(t, 0, "Name         gold\nNamespace    acme\n"+
		"Description  Pays\nRate limit   100/1s\nQuota        5000/day, shadow\n"+
		"Created      2026-01-02T03:04:05Z\nVersion      2\n")
	s.run("", "plans", "create", "acme/gold", "--rate", "100/1s", "--burst", "200", "--quota",
		"5000/day", "--shadow-quota", "--description", "Pays").want(t, 0, "",
		"Created plan gold of namespace acme.")
	s.run("", "plans", "create", "free").want(t, 0, "",
		"Created shared plan free (for all namespaces).")
	s.run("", "plans", "edit", "acme/gold").want(t, 1, "", "nothing to change")
	s.run("", "plans", "edit", "acme/gold", "--rate", "200/1h", "--no-quota").want(t, 0, "",
		"Changed plan gold of namespace acme.")
	s.run("", "plans", "edit", "acme/gold", "--no-rate", "--quota", "unlimited",
		"--no-description").want(t, 0, "", "Changed plan gold")
	s.run("", "plans", "edit", "a b").want(t, 1, "", "a plan must be NAMESPACE/NAME")
	s.run("", "plans", "delete", "acme/gold", "--yes", "--wait", "1s").want(t, 3, "",
		"Deleted plan gold", "pending: node n2")
	const want = `POST /apikeys/v1/plans {"namespace":"acme","name":"gold","description":"Pays","rate_limit":{"requests":100,"per":"1s","burst":200},"quota":{"requests":5000,"per":"day","shadow":true}}
POST /apikeys/v1/plans {"namespace":"*","name":"free"}
/plans/acme/gold?wait=10s {"rate_limit":{"requests":200,"per":"1h"},"quota":null}
/plans/acme/gold?wait=10s {"description":null,"rate_limit":null,"quota":{"unlimited":true}}`
	if got := s.bodies(); got != want {
		t.Errorf("sent\n%s\nwant\n%s", got, want)
	}
}

// TestUnreadablePlan checks that a limit that cannot be read does not look like no limit.
func TestUnreadablePlan(t *testing.T) {
	p := api.Plan{Namespace: "acme", Name: "gold", Version: 2, Unreadable: "quota: no JSON"}
	s := serveCLI(t, map[string][]cliAnswer{"GET /plans/acme/gold": {{200, p}},
		"GET /plans":           {{200, api.Plans{Items: []api.Plan{p}}}},
		"GET /namespaces/acme": {{200, api.Namespace{ID: "acme", Unreadable: "rate_limit: x"}}},
	})
	s.run("", "plans", "show", "acme/gold").want(t, 0, "Name        gold\nNamespace   acme\n"+
		"Unreadable  quota: no JSON\nRate limit  none\nQuota       unreadable\n"+
		"Created     0001-01-01T00:00:00Z\nVersion     2\n")
	if r := s.run("", "plans", "list"); !strings.Contains(r.out, "gold  none  unreadable  ") {
		t.Error(r.out)
	}
	if r := s.run("", "namespaces", "show", "acme"); !strings.Contains(r.out,
		"\nRate limit    unreadable\nQuota         none\n") ||
		!strings.HasSuffix(r.out, "\nUnreadable    rate_limit: x\n") {
		t.Error(r.out)
	}
}

// TestEditPartOfLimit checks --burst and the flags of shadow without --rate and --quota.
func TestEditPartOfLimit(t *testing.T) {
	gold := api.Plan{Namespace: "acme", Name: "gold", Version: 2,
		RateLimit: &api.RateLimit{Requests: 100, Per: "1m30s", Burst: 200, Shadow: true},
		Quota:     &api.Quota{Requests: 5000, Per: "day"}}
	for _, row := range []struct {
		flags []string
		body  string
		err   string
	}{
		{[]string{"--burst", "3"},
			`{"rate_limit":{"requests":100,"per":"1m30s","burst":3,"shadow":true}}`, ""},
		{[]string{"--shadow-rate=false"},
			`{"rate_limit":{"requests":100,"per":"1m30s","burst":200}}`, ""},
		{[]string{"--burst", "3", "--shadow-rate=false", "--shadow-quota"},
			`{"rate_limit":{"requests":100,"per":"1m30s","burst":3},` +
				`"quota":{"requests":5000,"per":"day","shadow":true}}`, ""},
		{[]string{"--burst", "3", "--quota", "7/hour"},
			`{"rate_limit":{"requests":100,"per":"1m30s","burst":3,"shadow":true},` +
				`"quota":{"requests":7,"per":"hour"}}`, ""},
		{[]string{"--shadow-quota", "--no-rate"},
			`{"rate_limit":null,"quota":{"requests":5000,"per":"day","shadow":true}}`, ""},
		{[]string{"--burst", "0"}, "", "--burst 0 must be at least 1"},
		{[]string{"--burst", "3", "--no-rate"}, "", "none of the others can be"},
		{[]string{"--burst", "3", "--rate", "unlimited"}, "", "--rate unlimited excludes"},
	} {
		s := serveCLI(t, map[string][]cliAnswer{"GET /plans/acme/gold": {{200, gold}},
			"PATCH /plans/acme/gold": {{200, api.PlanChanged{Plan: gold, Propagation: complete}}}})
		r := s.run("", append([]string{"plans", "edit", "acme/gold"}, row.flags...)...)
		if row.err != "" {
			r.want(t, 1, "", row.err)
			continue
		}
		r.want(t, 0, "", "Changed plan gold")
		if call := s.requests()[1]; call.body != row.body ||
			call.header.Get("If-Match") != `"2"` {
			t.Errorf("%q: sent %s with If-Match %s", row.flags, call.body,
				call.header.Get("If-Match"))
		}
	}
	// There is nothing to change.
	s := serveCLI(t, map[string][]cliAnswer{"GET /keys/" + cliID: {{200, cliKey}}})
	s.run("", "keys", "edit", cliID, "--burst", "3").want(t, 1, "", "no rate limit of its own",
		"add --rate")
	s.run("", "keys", "edit", cliID, "--shadow-quota=false").want(t, 1, "",
		"no quota of its own", "add --quota")
	s.run("", "keys", "mint", "--name", "x", "--burst", "3").want(t, 1, "", "require --rate")
}

func TestAuditCommand(t *testing.T) {
	row := api.AuditRow{
		Seq: 7, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Actor: "root",
		Address: "192.0.2.1", Action: "key.mint", Object: cliID,
		Namespaces: []string{"acme", "eu"}, Before: json.RawMessage("null"),
		After: json.RawMessage(`{"name":"CI"}`), Hash: "ab",
	}
	next := "more"
	s := serveCLI(t, map[string][]cliAnswer{
		"GET /audit": {{200, api.AuditRows{Items: []api.AuditRow{row}, NextCursor: &next}},
			{200, api.AuditRows{Items: []api.AuditRow{row}}}},
		"GET /audit/verify": {{200, api.AuditVerdict{Intact: true, Rows: 7, Last: "ab"}},
			{200, api.AuditVerdict{Rows: 3, Last: "cd", Wrong: 4,
				Cause: "row 4 is missing: row 5 follows"}}},
		"GET /audit/export": {problem(403, "insufficient_permission",
			"permission admin.audit:read is required")},
	})
	const line = "7    2026-01-02T03:04:05Z  root  192.0.2.1  key.mint  4fYQ0hTz81Lk  acme, eu\n"
	s.run("", "audit", "list", "--actor", "root", "--action", "key.mint", "--object", cliID,
		"--from", "2026-01-01T00:00:00Z", "--to", "2026-02-01T00:00:00Z").
		want(t, 0,
			"SEQ  AT                    WHO   FROM       ACTION    OBJECT        NAMESPACES\n"+
				line+strings.ReplaceAll(line, "7    ", "7  "))
	first, second := s.requests()[0].line, s.requests()[1].line
	const query = "action=key.mint&actor=root&%sfrom=2026-01-01T00%%3A00%%3A00Z&limit=1000&object=" + cliID + "&to=2026-02-01T00%%3A00%%3A00Z"
	if want := "GET /apikeys/v1/audit?" +
		strings.NewReplacer("%%", "%", "%s", "").Replace(query); first != want {
		t.Errorf("asked %s, want %s", first, want)
	}
	if want := "GET /apikeys/v1/audit?" +
		strings.NewReplacer("%%", "%", "%s", "cursor=more&").Replace(query); second != want {
		t.Errorf("asked %s, want %s", second, want)
	}
	s.run("", "audit", "verify").want(t, 0, "Verified rows  7\nLast hash      ab\n")
	s.run("", "audit", "verify").want(t, 1, "Verified rows  3\nLast hash      cd\n",
		"Error: the audit log has been changed: row 4 is missing")
	s.run("", "audit", "export").want(t, 1, "", "permission admin.audit:read is required")
}

func TestParsePast(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for word, want := range map[string]string{"24h": "2026-01-01T03:04:05Z",
		"2d": "2025-12-31T03:04:05Z", "2025-01-01T00:00:00Z": "2025-01-01T00:00:00Z"} {
		if at, err := parsePast("from", word, now); err != nil || at.Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v", word, at, err)
		}
	}
	for _, word := range []string{"-1h", "yesterday"} {
		if _, err := parsePast("from", word, now); err == nil {
			t.Errorf("%s: no error", word)
		}
	}
}

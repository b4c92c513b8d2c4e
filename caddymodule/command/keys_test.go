package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

var cliKey = api.Key{
	ID: cliID, Name: "CI", Namespace: "acme", Prefix: "ak_4fYQ0hTz…", Access: "custom",
	Status: "active", Active: true, Owner: "root", CreatedBy: "root",
	CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: 3,
	Metadata: map[string]string{"team": "erp", "a": "b"},
	Grants: []api.Grant{{Namespace: "acme", Permissions: []string{"orders:read", "write"}},
		{Namespace: "acme-eu", Permissions: []string{"read"}, Connected: true}},
	Secrets:    []api.Secret{{CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}},
	AllowedIPs: []string{"10.0.0.0/8"},
}

var complete = api.Propagation{Revision: 9, Complete: true, Nodes: 2, Acknowledged: 2,
	Pending: []api.PendingNode{}}

var incomplete = api.Propagation{Revision: 9, Nodes: 2, Acknowledged: 1,
	Pending: []api.PendingNode{{Node: "n2",
		Until: time.Date(2026, 1, 2, 3, 4, 59, 1000, time.UTC)}}}

func changed(p api.Propagation) cliAnswer {
	status := 200
	if !p.Complete {
		status = 202
	}
	return cliAnswer{status, api.KeyChanged{Key: cliKey, Propagation: p}}
}

func rotated(p api.Propagation) cliAnswer {
	a := changed(p)
	k := a.body.(api.KeyChanged)
	k.Token = cliToken
	return cliAnswer{a.status, k}
}

func TestMintCommand(t *testing.T) {
	answers := map[string][]cliAnswer{"POST /keys": {{201,
		api.Minted{Key: cliKey, Token: cliToken}}}}
	s := serveCLI(t, answers)
	r := s.run("", "keys", "mint", "--name", "CI, nightly", "--namespace", "acme", "--permission",
		"orders:read,orders:search", "--permission", "write",
		"--role", "billing,auditor", "--new-role", "returns=parcels:read,parcels:write", "--owner",
		"m_4fYQ0hTz81Lk",
		"--grant", "acme-eu=read_only", "--grant", "b=orders:read,orders:x", "--grant",
		"c+=@viewer,read_write,@b", "--connected", "--expires", "2199-01-01T00:00:00Z",
		"--allow-ip", "10.0.0.0/8", "--allow-ip", "::1", "--metadata", "team=erp, west",
		"--metadata", "eq=a=b", "--plan", "gold", "--rate", "10/1m30s",
		"--burst", "20", "--shadow-rate", "--quota", "100/day", "--inactive", "--idempotency-key", "once")
	// Standard output is only the token, for use in $(…).
	r.want(t, 0, cliToken+"\n", cliID, "CI", "acme", "never", "not shown again")
	noToken(t, r.err)
	const body = `{"name":"CI, nightly","namespace":"acme","permissions":["orders:read","orders:search","write"],"roles":["billing","auditor"],"connected":true,` +
		`"grants":[{"namespace":"acme-eu","access":"read_only"},{"namespace":"b","permissions":["orders:read","orders:x"]},` +
		`{"namespace":"c","access":"read_write","roles":["viewer","b"],"connected":true}],"new_roles":[{"name":"returns","permissions":["parcels:read","parcels:write"]}],` +
		`"active":false,"expires_at":"2199-01-01T00:00:00Z","allowed_ips":["10.0.0.0/8","::1"],"rate_limit":{"requests":10,"per":"1m30s","burst":20,"shadow":true},"quota":{"requests":100,"per":"day"},"plan":"gold",` +
		`"owner":"m_4fYQ0hTz81Lk","metadata":{"eq":"a=b","team":"erp, west"}}`
	if call := s.requests()[0]; call.body != body || call.header.Get("Idempotency-Key") != "once" ||
		call.header.Get("Origin") != "http://"+s.address {
		t.Errorf("sent %s, want %s, with %v", call.body, body, call.header)
	}

	s = serveCLI(t, answers)
	r = s.run("", "keys", "mint", "--name", "x", "--access", "read_only", "--json")
	var minted api.Minted
	if err := json.Unmarshal([]byte(r.out), &minted); err != nil || minted.Token != cliToken ||
		minted.Key.ID != cliID || r.err != "" || r.status != 0 {
		t.Errorf("--json: %v, status %d, %s", err, r.status, r.err)
	}
	if s.requests()[0].body != `{"name":"x","access":"read_only"}` {
		t.Errorf("sent %s", s.requests()[0].body)
	}
}

func TestMintCommandRefused(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{"POST /keys": {
		problem(422, "invalid", "Wrong.",
			api.FieldError{Field: "name", Detail: "is longer than 200 characters"},
			api.FieldError{Field: "namespace", Detail: `"x" does not exist`}),
		{409, api.Problem{Status: 409, Code: "already_made", Detail: "This key was already created.",
			ID: cliID}},
		{403, api.Problem{Status: 403, Code: "exceeds_caller",
			Detail: "The key would have more permissions than you.", Needed: "orders:write",
			Namespace: "acme"}},
		problem(403, "x", "sneaky \x1b[2J\x07 text"),
	}})
	mint := func() cliRun {
		return s.run("", "keys", "mint", "--name", "x", "--access",
			"read_only")
	}
	if r := mint(); r.err != "Error: name: is longer than 200 characters\nError: namespace: \"x\" "+
		"does not exist\n" || r.status != 1 || r.out != "" {
		t.Errorf("%+v", r)
	}
	mint().want(t, 1, "", "Error: This key was already created.", cliID)
	mint().want(t, 1, "", "Error: The key would have more permissions than you.",
		"orders:write in namespace acme")
	if r := mint(); strings.ContainsAny(r.err, "\x1b\x07") {
		t.Errorf("control characters reach the terminal: %q", r.err)
	}
}

func TestMintCommandChecksFlags(t *testing.T) {
	s := serveCLI(t, nil)
	for _, row := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--name", ""}, "--name"},
		{[]string{"--new-role", "billing"}, "NAME=PERMISSION"},
		{[]string{"--grant", "+=read"}, "NAMESPACE=PERMISSION"},
		{[]string{"--grant", "acme"}, "NAMESPACE=PERMISSION"},
		{[]string{"--grant", "=read"}, "NAMESPACE=PERMISSION"},
		{[]string{"--grant", "a=read", "--grant", "a=write"}, "twice"},
		{[]string{"--access", "read_only", "--expires", "tomorrow"}, "must be a time"},
		{[]string{"--access", "read_only", "--expires", "2001-01-01T00:00:00Z"},
			"must be in the future"},
		{[]string{"--access", "read_only", "--expires", "-1h"}, "must be in the future"},
		{[]string{"--permission", "read", "--metadata", "team"}, "NAME=VALUE"},
		{[]string{"--rate", "100"}, `--rate "100" must be REQUESTS/DURATION`},
		{[]string{"--rate", "100/second"}, "must be REQUESTS/DURATION"},
		{[]string{"--rate", "-1/1s"}, "must be REQUESTS/DURATION"},
		{[]string{"--rate", "1/1s", "--burst", "0"}, "must be at least 1"},
		{[]string{"--burst", "10"}, "--burst and --shadow-rate require --rate"},
		{[]string{"--rate", "unlimited", "--shadow-rate"}, "--rate unlimited excludes"},
		{[]string{"--quota", "100/year"}, `--quota "100/year" must be UNITS/hour`},
		{[]string{"--quota", "0/day"}, "must be UNITS/hour"},
		{[]string{"--shadow-quota"}, "requires --quota"},
		{[]string{"--permission", "read", "--metadata", "=x"}, "NAME=VALUE"},
	} {
		s.run("", append([]string{"keys", "mint", "--name", "x"}, row.flags...)...).want(t, 1, "",
			row.want)
	}
	if len(s.requests()) > 0 {
		t.Errorf("requests: %v", s.requests())
	}
}

func TestParseExpiry(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	for word, want := range map[string]string{
		"720h":                      "2026-02-01T03:04:05Z",
		"90d":                       "2026-04-02T03:04:05Z",
		"2027-01-01T00:00:00+02:00": "2026-12-31T22:00:00Z",
	} {
		if at, err := parseExpiry(word, now); err != nil || timeText(*at) != want {
			t.Errorf("%s: %v, %v, want %s", word, at, err, want)
		}
	}
}

// fullDisk is a writer that fails.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestTokenThatCannotBeWritten(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{
		"POST /keys":                      {{201, api.Minted{Key: cliKey, Token: cliToken}}},
		"POST /keys/" + cliID + "/rotate": {rotated(complete)},
	})
	for _, args := range [][]string{{"keys", "mint", "--name", "x", "--access", "read_only"},
		{"keys", "mint", "--name", "x", "--access", "read_only", "--json"}, {"keys", "rotate",
			cliID}} {
		var errs strings.Builder
		status := runCLITo(fullDisk{}, &errs, "", append(args, "--address", s.address)...)
		if status != 1 || !strings.Contains(errs.String(),
			"writing the token of key "+cliID) {
			t.Errorf("%v: status %d, %s", args, status, errs.String())
		}
		noToken(t, errs.String())
	}
}

func TestRotateCommand(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{"POST /keys/" + cliID +
		"/rotate": {rotated(complete), rotated(incomplete)}})
	r := s.run("", "keys", "rotate", cliID, "--grace", "2d", "--if-version", "3", "--wait", "1m")
	r.want(t, 0, cliToken+"\n", cliID)
	noToken(t, r.err)
	if call := s.requests()[0]; call.line != "POST /apikeys/v1/keys/"+cliID+"/rotate?wait=1m0s" ||
		call.body != `{"grace":"48h0m0s"}` || call.header.Get("If-Match") != `"3"` {
		t.Errorf("sent %+v", call)
	}
	// The new token is valid even if the old one may be too, so it must be written.
	s.run("", "keys", "rotate", cliID).want(t, 3, cliToken+"\n", "n2", "2026-01-02T03:05:00Z")
	s.run("", "keys", "rotate", cliID, "--grace", "soon").want(t, 1, "", "must be a duration")
}

func TestTokenAsArgument(t *testing.T) {
	s := serveCLI(t, nil)
	for _, verb := range []string{"show", "edit", "revoke", "rotate", "delete"} {
		r := s.run("", "keys", verb, cliToken)
		r.want(t, 1, "", "rotate the key")
		noToken(t, r.out, r.err)
	}
	r := s.run("", "verify", cliToken)
	r.want(t, 1, "")
	noToken(t, r.out, r.err)
	if len(s.requests()) > 0 {
		t.Error("a request was sent")
	}
}

func TestListCommand(t *testing.T) {
	const all = 2500
	page := func(r *url.URL) api.Keys {
		from, _ := strconv.Atoi(r.Query().Get("cursor"))
		size, _ := strconv.Atoi(r.Query().Get("limit"))
		keys := api.Keys{Items: []api.Key{}}
		for i := from; i < min(from+size, all); i++ {
			keys.Items = append(keys.Items,
				api.Key{ID: fmt.Sprintf("%012d", i), Name: "Zoë\x1b", Namespace: "acme",
					Access: "custom", Status: "active"})
		}
		if next := strconv.Itoa(from + size); from+size < all {
			keys.NextCursor = &next
		}
		return keys
	}
	for _, row := range []struct {
		flags []string
		lines int
		next  string
		sizes string
	}{
		{nil, all, "", "1000 1000 1000"},
		{[]string{"--limit", "1500"}, 1500, "1500", "1000 500"},
		{[]string{"--limit", "7", "--cursor", "2490"}, 7, "2497", "7"},
		{[]string{"--limit", "10", "--cursor", "2490"}, 10, "", "10"},
		{[]string{"--limit", "9999"}, all, "", "1000 1000 1000"},
	} {
		t.Run(strings.Join(row.flags, " "), func(t *testing.T) {
			var sizes []string
			serve := func(u *url.URL) any {
				sizes = append(sizes, u.Query().Get("limit"))
				return page(u)
			}
			address := serveFunc(t, serve)
			args := append([]string{"keys", "list", "--address", address}, row.flags...)
			r := runCLI("", append(args, "--json")...)
			var doc api.Keys
			if err := json.Unmarshal([]byte(r.out), &doc); err != nil || r.status != 0 {
				t.Fatalf("status %d, %v, %s", r.status, err, r.err)
			}
			next := ""
			if doc.NextCursor != nil {
				next = *doc.NextCursor
			}
			if len(doc.Items) != row.lines || next != row.next ||
				strings.Join(sizes, " ") != row.sizes {
				t.Errorf("%d items in pages of %v, next %q", len(doc.Items), sizes, next)
			}
			r = runCLI("", args...)
			lines := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
			if len(lines) != row.lines+1 ||
				strings.Contains(r.err, "There are more") != (row.next != "") {
				t.Errorf("%d lines, %s", len(lines), r.err)
			}
			if want := `  Zoë\x1b  acme       custom  active  never    never`; !strings.HasPrefix(lines[0], "ID            NAME     NAMESPACE  ACCESS") || !strings.HasSuffix(lines[1], want) {
				t.Errorf("table:\n%s\n%s", lines[0], lines[1])
			}
		})
	}
}

func TestListCommandWithoutResults(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{"GET /keys": {{200, api.Keys{Items: []api.Key{}}}},
		"GET /namespaces": {problem(503, "unavailable", "The database is unavailable.")}})
	s.run("", "keys", "list", "--namespace", "acme", "--status", "revoked", "-q", "x y",
		"--plan", "gold", "--metadata", "a=b").want(t, 0, "", "No results.")
	if line := s.requests()[0].line; line != "GET /apikeys/v1/keys?limit=1000&metadata=a%3Db"+
		"&namespace=acme&plan=gold&q=x+y&status=revoked" {
		t.Error(line)
	}
	r := s.run("", "keys", "list", "--json")
	var doc map[string]any
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil ||
		fmt.Sprint(doc) != "map[items:[] next_cursor:<nil>]" {
		t.Errorf("%v: %s", err, r.out)
	}
	s.run("", "namespaces", "list", "--json").want(t, 1, "", "The database is unavailable.")
	for _, limit := range []string{"-1", "0"} {
		s.run("", "keys", "list", "--limit", limit).want(t, 1, "", "must be at least 1")
		s.run("", "namespaces", "list", "--limit", limit).want(t, 1, "", "must be at least 1")
	}
}

func TestShowCommand(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{"GET /keys/" + cliID: {{200, cliKey}}})
	s.run("", "keys", "show", cliID).want(t, 0, `Id         4fYQ0hTz81Lk
Name       CI
Token      ak_4fYQ0hTz…
Status     active
Namespace  acme
Access     custom
Grant      acme: orders:read, write
Grant      acme-eu: read; connected
Owner      root
Created    2026-01-02T03:04:05Z by root
Expires    never
Last used  never
Secret     created 2026-01-02T03:04:05Z, valid until the key expires
Addresses  10.0.0.0/8
Metadata   a=b
Metadata   team=erp
Version    3
`)
	derived, at, note := cliKey, cliKey.CreatedAt, "nightly\x1b[2J job"
	derived.DerivedUsedAt, derived.DerivedNote = &at, &note
	s = serveCLI(t, map[string][]cliAnswer{"GET /keys/" + cliID: {{200, derived}}})
	if r := s.run("", "keys", "show", cliID); !strings.Contains(r.out,
		"Derived use  2026-01-02T03:04:05Z, note: nightly\\x1b[2J job\n") {
		t.Errorf("%s", r.out)
	}
	for status, want := range map[string]string{"active": "owner_disabled", "expired": "expired"} {
		orphan := cliKey
		orphan.Status, orphan.OwnerDisabled = status, true
		s = serveCLI(t, map[string][]cliAnswer{"GET /keys/" + cliID: {{200, orphan}},
			"GET /keys": {{200, api.Keys{Items: []api.Key{orphan}}}}})
		if r := s.run("", "keys", "show", cliID); !strings.Contains(r.out, "Status     "+want+"\n") {
			t.Errorf("%s", r.out)
		}
		if r := s.run("", "keys", "list"); !strings.Contains(r.out, "  "+want+"  ") {
			t.Errorf("%s", r.out)
		}
	}
	limited, plan := cliKey, "gold"
	limited.Plan, limited.Quota = &plan, &api.Quota{Unlimited: true}
	limited.RateLimit = &api.RateLimit{Requests: 10, Per: "1m", Burst: 20, Shadow: true}
	s = serveCLI(t, map[string][]cliAnswer{"GET /keys/" + cliID: {{200, limited}},
		"GET /keys": {{200, api.Keys{Items: []api.Key{limited}}}}})
	if r := s.run("", "keys", "show", cliID); !strings.Contains(r.out,
		"\nPlan        gold\nRate limit  10/1m, burst 20, shadow\nQuota       unlimited\nOwner ") {
		t.Errorf("%s", r.out)
	}
	if r := s.run("", "keys", "list", "--limits"); !strings.HasSuffix(r.out,
		"  LAST USED  LIMITS\n"+cliID+"  CI    acme       custom  active  never    never      "+
			"plan gold; rate 10/1m, burst 20, shadow; quota unlimited\n") {
		t.Errorf("%s", r.out)
	}
	s.run("", "keys", "show", "000000000000").want(t, 1, "", "Error")
}

// TestEffectiveLimits checks that `keys show` says where the limits come from.
func TestEffectiveLimits(t *testing.T) {
	gold, free := "gold", "free"
	own := &api.Quota{Unlimited: true}
	rate := &api.RateLimit{Requests: 10, Per: "1s", Burst: 20}
	acme := api.Namespace{ID: "acme", DefaultPlan: &free,
		Quota: &api.Quota{Requests: 9, Per: "day"}}
	for _, row := range []struct {
		plan  *string
		quota *api.Quota
		ns    any
		want  string
	}{
		{&gold, own, acme, "Plan gold|Rate limit 10/1s, burst 20 (plan gold)|Quota unlimited|" +
			"Namespace quota 9/day (shared by all keys of the namespace)"},
		{nil, nil, acme, "Plan free (default of the namespace)|Rate limit none (plan free)|" +
			"Quota 5/hour (plan free)|Namespace quota 9/day (shared by all keys of the namespace)"},
		{nil, nil, api.Namespace{ID: "acme"}, "Rate limit none|Quota none"},
		{nil, own, nil, "Quota unlimited"},
		{nil, nil, nil, ""},
		{new("lost"), own, nil, "Plan lost|Rate limit unknown (plan lost)|Quota unlimited"},
	} {
		k := cliKey
		k.Plan, k.Quota = row.plan, row.quota
		answers := map[string][]cliAnswer{"GET /keys/" + cliID: {{200, k}},
			"GET /plans/acme/gold": {{200, api.Plan{RateLimit: rate}}},
			"GET /plans/*/free":    {{200, api.Plan{Quota: &api.Quota{Requests: 5, Per: "hour"}}}}}
		if row.ns != nil {
			answers["GET /namespaces/acme"] = []cliAnswer{{200, row.ns}}
		}
		r := serveCLI(t, answers).run("", "keys", "show", cliID)
		_, rows, _ := strings.Cut(r.out, "connected\n")
		rows, _, _ = strings.Cut(rows, "Owner ")
		if got := strings.Join(strings.Fields(strings.ReplaceAll(rows, "\n", "|")), " "); strings.
			TrimSuffix(got, "|") != row.want {
			t.Errorf("got %s, want %s", got, row.want)
		}
	}
}

func TestEditCommand(t *testing.T) {
	for _, row := range []struct {
		flags []string
		body  string
	}{
		{[]string{"--no-roles"}, `{"roles":[]}`},
		{[]string{"--active"}, `{"active":true}`},
		{[]string{"--inactive"}, `{"active":false}`},
		{[]string{"--access", "read_only", "--connected=false"},
			`{"access":"read_only","connected":false}`},
		{[]string{"--permission", "read", "--permission", "orders:write"},
			`{"permissions":["read","orders:write"]}`},
		{[]string{"--grant", "a=read_write"},
			`{"grants":[{"namespace":"a","access":"read_write"}]}`},
		{[]string{"--plan", "gold", "--rate", "1/1d", "--quota", "unlimited"},
			`{"rate_limit":{"requests":1,"per":"24h"},"quota":{"unlimited":true},"plan":"gold"}`},
		{[]string{"--no-plan", "--no-rate", "--no-quota"},
			`{"rate_limit":null,"quota":null,"plan":null}`},
		{[]string{"--quota", "9/month", "--shadow-quota"},
			`{"quota":{"requests":9,"per":"month","shadow":true}}`},
		{[]string{"--allow-ip", "::1"}, `{"allowed_ips":["::1"]}`},
		{[]string{"--any-ip"}, `{"allowed_ips":[]}`},
		{[]string{"--metadata", "a=", "--drop-metadata", "b"}, `{"metadata":{"a":"","b":null}}`},
	} {
		s := serveCLI(t, map[string][]cliAnswer{"PATCH /keys/" + cliID: {changed(complete)}})
		s.run("", append([]string{"keys", "edit", cliID}, row.flags...)...).want(t, 0, "",
			"Changed key "+cliID)
		if len(s.requests()) != 1 || s.requests()[0].body != row.body {
			t.Errorf("%v: sent %v, want %s", row.flags, s.requests(), row.body)
		}
	}
	for _, row := range []struct {
		flags []string
		body  string
	}{
		{[]string{"--add-permission", "orders:write,read", "--add-role", "r"},
			`{"add":[{"permissions":["orders:write","read"],"roles":["r"]}]}`},
		{[]string{"--remove-permission", "read", "--remove-role", "r"},
			`{"remove":[{"permissions":["read"],"roles":["r"]}]}`},
		{[]string{"--add-role", "r", "--add-grant", "a+=read_only,@s"},
			`{"add":[{"roles":["r"]},{"namespace":"a","access":"read_only","roles":["s"],"connected":true}]}`},
		{[]string{"--add-grant", "a=read_only"},
			`{"add":[{"namespace":"a","access":"read_only"}]}`},
		{[]string{"--remove-grant", "a", "--remove-grant", "b=@s"},
			`{"remove":[{"namespace":"b","roles":["s"]}],"remove_namespaces":["a"]}`},
	} {
		s := serveCLI(t, map[string][]cliAnswer{"POST /keys/" + cliID +
			"/grants": {changed(complete)}})
		s.run("", append([]string{"keys", "edit", cliID, "--if-version", "3"},
			row.flags...)...).want(t, 0, "", "Changed key "+cliID)
		if a := s.requests(); len(a) != 1 || a[0].body != row.body ||
			a[0].header.Get("If-Match") != `"3"` {
			t.Errorf("%v: sent %v, want %s", row.flags, a, row.body)
		}
	}
	s := serveCLI(t, map[string][]cliAnswer{"PATCH /keys/" +
		cliID: {problem(412, "changed", "The key has version 4."), changed(incomplete)}})
	s.run("", "keys", "edit", cliID, "--wait", "1s").want(t, 1, "", "nothing to change")
	s.run("", "keys", "edit", cliID, "--active", "--inactive").want(t, 1, "", "inactive")
	s.run("", "keys", "edit", cliID, "--rate", "1/1s", "--no-rate").want(t, 1, "", "no-rate")
	s.run("", "keys", "edit", cliID, "--add-role", "r", "--role", "s").want(t, 1, "",
		"cannot be combined")
	s.run("", "keys", "edit", cliID, "--remove-grant", "a=").want(t, 1, "", "--remove-grant")
	s.run("", "keys", "edit", cliID, "--name", "x", "--if-version", "3").want(t, 1, "",
		"The key has version 4.")
	if s.requests()[0].header.Get("If-Match") != `"3"` {
		t.Error("If-Match is missing")
	}
	s.run("", "keys", "edit", cliID, "--inactive").want(t, 3, "", "Changed key",
		"pending: node n2 may still accept it until 2026-01-02T03:05:00Z")
}

func TestRevokeCommand(t *testing.T) {
	revoke := "POST /keys/" + cliID + "/revoke"
	for _, row := range []struct {
		name    string
		answers []cliAnswer
		flags   []string
		status  int
		calls   int // at least
		want    []string
	}{
		{"immediately", []cliAnswer{changed(complete)}, nil, 0, 1, []string{"Revoked key " + cliID}},
		{"after waiting", []cliAnswer{changed(incomplete), changed(incomplete), changed(complete)},
			nil, 0, 3, []string{"waiting for node n2", "Revoked key"}},
		{"not in time", []cliAnswer{changed(incomplete)}, []string{"--wait", "150ms"}, 3, 2,
			[]string{"waiting for node n2", "1 of 2 nodes"}},
		{"without waiting", []cliAnswer{changed(incomplete)}, []string{"--wait", "0s"}, 3, 1,
			[]string{"pending: node n2"}},
		{"the connection breaks later", []cliAnswer{changed(incomplete), {0, nil}}, nil, 3, 2,
			[]string{"Error", "Revoked key", "pending: node n2"}},
		{"refused", []cliAnswer{problem(404, "not_found", "The key does not exist.")}, nil, 1, 1,
			[]string{"The key does not exist."}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := serveCLI(t, map[string][]cliAnswer{revoke: row.answers})
			r := s.run("", append([]string{"keys", "revoke", cliID, "--yes", "--reason", "leaked",
				"--made"}, row.flags...)...)
			r.want(t, row.status, "", row.want...)
			if len(s.requests()) < row.calls {
				t.Errorf("%d calls", len(s.requests()))
			}
			for i, call := range s.requests() {
				u, _ := url.Parse(strings.TrimPrefix(call.line, "POST "))
				if wait,
					err := time.ParseDuration(u.Query().Get("wait")); err != nil || i == 0 &&
					wait > firstWait || i > 0 && wait < 0 {
					t.Errorf("request %d asks the server to wait %s", i, wait)
				}
				if call.body != `{"reason":"leaked","made":true}` {
					t.Errorf("sent %s", call.body)
				}
			}
			if n := strings.Count(r.err, "waiting for"); n > 1 {
				t.Errorf("the same report %d times", n)
			}
		})
	}
	// The server counts a silent node's lease from the start of each request: short requests would
	// never see it expire.
	s := serveCLI(t, map[string][]cliAnswer{revoke: {changed(incomplete), changed(complete)}})
	s.run("", "keys", "revoke", cliID, "--yes", "--wait", "1m").want(t, 0, "")
	u, _ := url.Parse(strings.TrimPrefix(s.requests()[1].line, "POST "))
	if wait, err := time.ParseDuration(u.Query().Get("wait")); err != nil || wait < 50*time.Second {
		t.Errorf("the second request waits %s of a minute", wait)
	}
	s = serveCLI(t, map[string][]cliAnswer{revoke: {changed(complete)}})
	r := s.run("", "keys", "revoke", cliID, "--yes", "--json")
	var done api.KeyChanged
	if err := json.Unmarshal([]byte(r.out), &done); err != nil || !done.Propagation.Complete ||
		r.err != "" {
		t.Errorf("--json: %v, %+v", err, r)
	}
}

func TestDestructiveCommandsRequireConfirmation(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{
		"POST /keys/" + cliID + "/revoke": {changed(complete)},
		"DELETE /keys/" + cliID:           {changed(complete)},
		"DELETE /namespaces/acme": {{200,
			api.NamespaceChanged{Namespace: api.Namespace{ID: "acme"}, Propagation: complete}}},
	})
	for _, args := range [][]string{{"keys", "revoke", cliID}, {"keys", "delete", cliID},
		{"namespaces", "delete", "acme"}} {
		// Piped input is not a confirmation.
		s.run("yes\n", args...).want(t, 1, "", "give --yes")
		if len(s.requests()) > 0 {
			t.Fatalf("%v sent a request", args)
		}
	}
	for _, args := range [][]string{{"keys", "revoke", cliID, "--yes"},
		{"keys", "delete", cliID, "-y"}, {"namespaces", "delete", "acme", "-y"}} {
		s.run("", args...).want(t, 0, "")
	}
}

// serveFunc starts a server that answers every request with the result of f.
func serveFunc(t *testing.T, f func(*url.URL) any) (address string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", api.JSON)
		_ = json.NewEncoder(w).Encode(f(r.URL))
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

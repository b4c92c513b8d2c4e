package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

// seen is a recorded request. line is its method and target.
type seen struct {
	line, body string
	header     http.Header
	host       string
}

// server gives every request the same answer and records the last request.
func server(t *testing.T, status int, contentType, body string) (address string, last *seen) {
	t.Helper()
	last = new(seen)
	s := httptest.NewServer(recorder(last, status, contentType, body))
	t.Cleanup(s.Close)
	return s.URL, last
}

func recorder(last *seen, status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		*last = seen{r.Method + " " + r.URL.RequestURI(), string(b), r.Header, r.Host}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func open(t *testing.T, address string, options ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRequests(t *testing.T) {
	ctx := context.Background()
	at := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	inactive := false
	for _, row := range []struct {
		name   string
		do     func(*client.Client) error
		line   string
		body   string
		header string // NAME: VALUE
	}{
		{"mint", func(c *client.Client) error {
			_, err := c.MintKey(ctx, api.MintRequest{Name: "CI", Access: "read_only",
				Active: &inactive, ExpiresAt: &at}, "once")
			return err
		}, "POST /apikeys/v1/keys",
			`{"name":"CI","access":"read_only","active":false,"expires_at":"2027-01-01T00:00:00Z"}`,
			"Idempotency-Key: once"},
		{"list all", func(c *client.Client) error {
			_, err := c.ListKeys(ctx, client.KeyFilter{})
			return err
		}, "GET /apikeys/v1/keys", "", ""},
		{"list some", func(c *client.Client) error {
			_, err := c.ListKeys(ctx, client.KeyFilter{Namespace: "acme", Status: "active",
				Owner: "root", Plan: "gold", CreatedBy: "k", Text: "a b&c", Metadata: "a=b=c",
				Cursor: "x=", Limit: 7})
			return err
		},
			"GET /apikeys/v1/keys?created_by=k&cursor=x%3D&limit=7&metadata=a%3Db%3Dc" +
				"&namespace=acme&owner=root&plan=gold&q=a+b%26c&status=active", "", ""},
		{"find, escaped", func(c *client.Client) error {
			_, err := c.FindKey(ctx, "a/b?c")
			return err
		}, "GET /apikeys/v1/keys/a%2Fb%3Fc", "", ""},
		{"edit", func(c *client.Client) error {
			_, err := c.EditKey(ctx, "K", api.KeyPatch{Active: api.Some(false),
				AllowedIPs: api.Null[[]string]()}, client.IfVersion(3), client.Wait(30*time.Second))
			return err
		}, "PATCH /apikeys/v1/keys/K?wait=30s", `{"active":false,"allowed_ips":null}`,
			`If-Match: "3"`},
		{"revoke", func(c *client.Client) error {
			_, err := c.RevokeKey(ctx, "K", api.RevokeRequest{Reason: "leaked"})
			return err
		}, "POST /apikeys/v1/keys/K/revoke", `{"reason":"leaked"}`,
			"Content-Type: application/json"},
		{"rotate", func(c *client.Client) error {
			_, err := c.RotateKey(ctx, "K", api.RotateRequest{Grace: "24h"})
			return err
		}, "POST /apikeys/v1/keys/K/rotate", `{"grace":"24h"}`, ""},
		{"edit grants", func(c *client.Client) error {
			_, err := c.EditGrants(ctx, "K",
				api.GrantEdit{Add: []api.GrantPart{{Roles: []string{"r"}}}}, client.IfVersion(3))
			return err
		}, "POST /apikeys/v1/keys/K/grants", `{"add":[{"roles":["r"]}]}`, `If-Match: "3"`},
		{"delete", func(c *client.Client) error { _, err := c.DeleteKey(ctx, "K"); return err },
			"DELETE /apikeys/v1/keys/K", "", "Content-Type: "},
		{"import", func(c *client.Client) error {
			_, err := c.ImportKeys(ctx, api.NDJSON, strings.NewReader("{}\n{}\n"), true, "twice")
			return err
		}, "POST /apikeys/v1/keys/import?partial=1", "{}\n{}\n",
			"Content-Type: application/x-ndjson"},
		{"import all", func(c *client.Client) error {
			_, err := c.ImportKeys(ctx, api.JSON, strings.NewReader("{}"), false, "twice")
			return err
		}, "POST /apikeys/v1/keys/import", "{}", "Idempotency-Key: twice"},
		{"create namespace", func(c *client.Client) error {
			_, err := c.CreateNamespace(ctx, api.NamespaceRequest{ID: "acme"})
			return err
		}, "POST /apikeys/v1/namespaces", `{"id":"acme"}`, ""},
		{"list namespaces", func(c *client.Client) error {
			_, err := c.ListNamespaces(ctx, "x", 5)
			return err
		}, "GET /apikeys/v1/namespaces?cursor=x&limit=5", "", ""},
		{"search namespaces", func(c *client.Client) error {
			_, err := c.SearchNamespaces(ctx, "acm", "x", 5)
			return err
		}, "GET /apikeys/v1/namespaces?cursor=x&limit=5&q=acm", "", ""},
		{"transfer keys", func(c *client.Client) error {
			_, err := c.TransferKeys(ctx, "m_1", "m_2", client.Wait(0))
			return err
		}, "POST /apikeys/v1/members/m_1/transfer?wait=0s", `{"to":"m_2"}`, ""},
		{"list permissions", func(c *client.Client) error {
			_, err := c.ListPermissions(ctx, "x", 5)
			return err
		}, "GET /apikeys/v1/permissions?cursor=x&limit=5", "", ""},
		{"find namespace", func(c *client.Client) error {
			_, err := c.FindNamespace(ctx, "acme")
			return err
		}, "GET /apikeys/v1/namespaces/acme", "", ""},
		{"edit namespace", func(c *client.Client) error {
			_, err := c.EditNamespace(ctx, "acme", api.NamespacePatch{Name: api.Some("A")})
			return err
		}, "PATCH /apikeys/v1/namespaces/acme", `{"name":"A"}`, ""},
		{"delete namespace", func(c *client.Client) error {
			_, err := c.DeleteNamespace(ctx, "acme")
			return err
		}, "DELETE /apikeys/v1/namespaces/acme", "", ""},
		{"create role", func(c *client.Client) error {
			_, err := c.CreateRole(ctx, api.RoleRequest{Namespace: client.Shared, Name: "a",
				Permissions: []string{"read"}})
			return err
		}, "POST /apikeys/v1/roles", `{"namespace":"*","name":"a","permissions":["read"]}`, ""},
		{"list roles", func(c *client.Client) error {
			_, err := c.ListRoles(ctx, "x", 5)
			return err
		}, "GET /apikeys/v1/roles?cursor=x&limit=5", "", ""},
		{"find role", func(c *client.Client) error {
			_, err := c.FindRole(ctx, client.Shared, "a/b")
			return err
		}, "GET /apikeys/v1/roles/%2A/a%2Fb", "", ""},
		{"edit role", func(c *client.Client) error {
			_, err := c.EditRole(ctx, "acme", "a",
				api.RolePatch{Permissions: api.Some([]string{"read"})}, client.Wait(0))
			return err
		}, "PATCH /apikeys/v1/roles/acme/a?wait=0s", `{"permissions":["read"]}`, ""},
		{"delete role", func(c *client.Client) error {
			_, err := c.DeleteRole(ctx, "acme", "a")
			return err
		}, "DELETE /apikeys/v1/roles/acme/a", "", ""},
		{"create plan", func(c *client.Client) error {
			_, err := c.CreatePlan(ctx, api.PlanRequest{Namespace: client.Shared, Name: "gold",
				RateLimit: &api.RateLimit{Requests: 100, Per: "1s"},
				Quota:     &api.Quota{Unlimited: true}})
			return err
		}, "POST /apikeys/v1/plans",
			`{"namespace":"*","name":"gold","rate_limit":{"requests":100,"per":"1s"},` +
				`"quota":{"unlimited":true}}`, ""},
		{"list plans", func(c *client.Client) error {
			_, err := c.ListPlans(ctx, client.Shared, "x", 5)
			return err
		}, "GET /apikeys/v1/plans?cursor=x&limit=5&namespace=%2A", "", ""},
		{"find plan", func(c *client.Client) error {
			_, err := c.FindPlan(ctx, client.Shared, "a/b")
			return err
		}, "GET /apikeys/v1/plans/%2A/a%2Fb", "", ""},
		{"edit plan", func(c *client.Client) error {
			_, err := c.EditPlan(ctx, "acme", "gold", api.PlanPatch{
				RateLimit: api.Null[api.RateLimit](),
				Quota:     api.Some(api.Quota{Requests: 5, Per: "day"})}, client.IfVersion(3))
			return err
		}, "PATCH /apikeys/v1/plans/acme/gold",
			`{"rate_limit":null,"quota":{"requests":5,"per":"day"}}`, `If-Match: "3"`},
		{"delete plan", func(c *client.Client) error {
			_, err := c.DeletePlan(ctx, "acme", "gold")
			return err
		}, "DELETE /apikeys/v1/plans/acme/gold", "", ""},
		{"mint with limits", func(c *client.Client) error {
			_, err := c.MintKey(ctx, api.MintRequest{Name: "CI", Plan: "gold",
				RateLimit: &api.RateLimit{Unlimited: true}}, "")
			return err
		}, "POST /apikeys/v1/keys", `{"name":"CI","rate_limit":{"unlimited":true},"plan":"gold"}`,
			""},
		{"edit namespace limits", func(c *client.Client) error {
			_, err := c.EditNamespace(ctx, "acme", api.NamespacePatch{
				DefaultPlan: api.Null[string](),
				RateLimit:   api.Some(api.RateLimit{Requests: 1, Per: "1h", Burst: 2})})
			return err
		}, "PATCH /apikeys/v1/namespaces/acme",
			`{"rate_limit":{"requests":1,"per":"1h","burst":2},"default_plan":null}`, ""},
		{"create member", func(c *client.Client) error {
			_, err := c.CreateMember(ctx, api.MemberRequest{Name: "Ada",
				Grants: []api.GrantRequest{{Namespace: "acme", Roles: []string{"viewer"}}}})
			return err
		}, "POST /apikeys/v1/members",
			`{"name":"Ada","grants":[{"namespace":"acme","roles":["viewer"]}]}`, ""},
		{"list members", func(c *client.Client) error {
			_, err := c.ListMembers(ctx, "", 0)
			return err
		}, "GET /apikeys/v1/members", "", ""},
		{"find member", func(c *client.Client) error {
			_, err := c.FindMember(ctx, "m_1")
			return err
		}, "GET /apikeys/v1/members/m_1", "", ""},
		{"edit member", func(c *client.Client) error {
			_, err := c.EditMember(ctx, "m_1",
				api.MemberPatch{Active: api.Some(false), Login: api.Null[string]()},
				client.IfVersion(3))
			return err
		}, "PATCH /apikeys/v1/members/m_1", `{"login":null,"active":false}`, `If-Match: "3"`},
		{"delete member", func(c *client.Client) error {
			_, err := c.DeleteMember(ctx, "m_1")
			return err
		}, "DELETE /apikeys/v1/members/m_1", "", ""},
		{"member token", func(c *client.Client) error {
			_, err := c.NewMemberToken(ctx, "m_1", api.TokenRequest{ExpiresAt: &at})
			return err
		}, "POST /apikeys/v1/members/m_1/token", `{"expires_at":"2027-01-01T00:00:00Z"}`, ""},
		{"list audit", func(c *client.Client) error {
			_, err := c.ListAudit(ctx, client.AuditFilter{Actor: "root", Action: "key.mint",
				Object: "K", From: at, Cursor: "x", Limit: 7})
			return err
		},
			"GET /apikeys/v1/audit?action=key.mint&actor=root&cursor=x" +
				"&from=2027-01-01T00%3A00%3A00Z&limit=7&object=K", "", ""},
		{"verify audit", func(c *client.Client) error { _, err := c.VerifyAudit(ctx); return err },
			"GET /apikeys/v1/audit/verify", "", ""},
		{"usage", func(c *client.Client) error {
			_, err := c.Usage(ctx, client.UsageFilter{})
			return err
		}, "GET /apikeys/v1/usage", "", "Accept: application/json"},
		{"usage by key", func(c *client.Client) error {
			_, err := c.Usage(ctx, client.UsageFilter{Namespace: "acme", GroupBy: "key", Limit: 7,
				UsageSpan: client.UsageSpan{Step: "day", From: at, To: at.AddDate(0, 0, 1)}})
			return err
		}, "GET /apikeys/v1/usage?from=2027-01-01T00%3A00%3A00Z&group_by=key&limit=7" +
			"&namespace=acme&step=day&to=2027-01-02T00%3A00%3A00Z", "", ""},
		{"usage of a key", func(c *client.Client) error {
			_, err := c.Usage(ctx, client.UsageFilter{Key: "K",
				UsageSpan: client.UsageSpan{Step: "day"}})
			return err
		}, "GET /apikeys/v1/keys/K/usage?step=day", "", ""},
		{"own usage", func(c *client.Client) error {
			_, err := c.SelfUsage(ctx, client.UsageSpan{Step: "day"})
			return err
		}, "GET /apikeys/v1/self/usage?step=day", "", ""},
		{"verify", func(c *client.Client) error {
			_, err := c.Verify(ctx, api.VerifyRequest{Token: "t"})
			return err
		}, "POST /apikeys/v1/verify", `{"token":"t"}`, ""},
		{"self", func(c *client.Client) error { _, err := c.Self(ctx); return err },
			"GET /apikeys/v1/self", "", ""},
		{"revoke self", func(c *client.Client) error {
			_, err := c.RevokeSelf(ctx, api.RevokeRequest{})
			return err
		}, "POST /apikeys/v1/self/revoke", "{}", ""},
		{"config", func(c *client.Client) error { _, err := c.CaddyConfig(ctx); return err },
			"GET /config/", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			address, last := server(t, 200, api.JSON, "{}")
			if err := row.do(open(t, address)); err != nil {
				t.Fatal(err)
			}
			if last.line != row.line || last.body != row.body {
				t.Errorf("sent %s %s, want %s %s", last.line, last.body, row.line, row.body)
			}
			name, value, ok := strings.Cut(row.header, ": ")
			if ok && last.header.Get(name) != value {
				t.Errorf("%s is %q, want %q", name, last.header.Get(name), value)
			}
		})
	}
}

func TestAdminEndpoint(t *testing.T) {
	address, last := server(t, 200, api.JSON, "{}")
	if _, err := open(t, address).Self(context.Background()); err != nil {
		t.Fatal(err)
	}
	if host := strings.TrimPrefix(address, "http://"); last.host != host ||
		last.header.Get("Origin") != address {
		t.Errorf("Host %q and Origin %q, want those of %s", last.host, last.header.Get("Origin"),
			address)
	}
	if last.header.Get("Authorization") != "" {
		t.Error("an Authorization header without a token")
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var last seen
	s := &httptest.Server{Listener: l,
		Config: &http.Server{Handler: recorder(&last, 200, api.JSON, `{"id":"acme"}`)}}
	s.Start()
	t.Cleanup(s.Close)
	ns, err := open(t, "unix/"+path).FindNamespace(context.Background(), "acme")
	if err != nil || ns.ID != "acme" {
		t.Fatalf("%+v, %v", ns, err)
	}
	if last.host != "127.0.0.1" || last.header.Get("Origin") != "" {
		t.Errorf("Host %q and Origin %q, want those of `caddy reload`", last.host,
			last.header.Get("Origin"))
	}
}

func TestToken(t *testing.T) {
	address, last := server(t, 200, api.JSON, "{}")
	if _, err := open(t, address+"/below/",
		client.WithToken("secret")).Self(context.Background()); err != nil {
		t.Fatal(err)
	}
	if last.header.Get("Authorization") != "Bearer secret" ||
		last.line != "GET /below/apikeys/v1/self" {
		t.Errorf("sent %s with %v", last.line, last.header)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, address := range []string{
		"", "localhost:2019", "ftp://localhost", "https://", "http://keys.example.com",
		"http://10.0.0.1", "http://localhost.example.com",
		"https://user:pass@example.com", "https://example.com/?x", "https://example.com/#x",
		"http://[::1", "http://%zz",
	} {
		c, err := client.New(address, client.WithToken("secret"))
		if err == nil || c != nil {
			t.Errorf("%s is accepted", address)
		} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "pass") {
			t.Errorf("%s: the error shows a secret", address)
		}
	}
	for _, address := range []string{"https://keys.example.com", "http://localhost:80",
		"http://127.9.9.9", "http://[::1]:2019", "unix//run/x.sock"} {
		if _, err := client.New(address, client.WithToken("secret")); err != nil {
			t.Error(err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, row := range []struct {
		name              string
		status            int
		contentType, body string
		want              string
		code              string
	}{
		{"field errors", 422, api.Problems,
			`{"title":"T","code":"invalid","detail":"D","errors":[{"field":"name","detail":"is empty"},{"field":"access","detail":"is unknown"}]}`, "name: is empty; access: is unknown", "invalid"},
		{"detail", 409, api.Problems + "; charset=utf-8",
			`{"title":"T","detail":"D","code":"already_made","id":"K"}`, "D", "already_made"},
		{"title", 401, api.Problems, `{"title":"T","code":"invalid_key"}`, "T", "invalid_key"},
		{"JSON of Caddy's admin endpoint", 403, api.JSON, `{"error":"host not allowed: x"}`,
			"host not allowed: x", ""},
		{"plain text", 404, "text/plain", "404 page not found", "HTTP 404 Not Found", ""},
		{"HTML", 502, "text/html", "<h1>no</h1>", "HTTP 502 Bad Gateway", ""},
		{"truncated problem document", 500, api.Problems, `{"title":`,
			"HTTP 500 Internal Server Error", ""},
		{"no body", 500, "", "", "HTTP 500 Internal Server Error", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			address, _ := server(t, row.status, row.contentType, row.body)
			_, err := open(t, address).Self(context.Background())
			e, ok := errors.AsType[*client.Error](err)
			if !ok || e.Error() != row.want || e.Status != row.status || e.Code != row.code ||
				client.StatusOf(fmt.Errorf("x: %w", err)) != row.status {
				t.Errorf("%#v: %v", e, err)
			}
		})
	}
}

func TestAnswerOfAnotherService(t *testing.T) {
	for contentType, body := range map[string]string{"text/html": "<h1>Welcome</h1>",
		api.JSON: "ok"} {
		address, _ := server(t, 200, contentType, body)
		if _, err := open(t, address).Self(context.Background()); err == nil ||
			client.StatusOf(err) != 0 {
			t.Errorf("%s: %v", contentType, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(503)
	}))
	defer s.Close()
	_, err := open(t, s.URL).Self(context.Background())
	if e, ok := errors.AsType[*client.Error](err); !ok || e.RetryAfter != 3*time.Second {
		t.Errorf("%#v", err)
	}
}

// TestRedirectsAreNotFollowed: a redirect could send the token to another server.
func TestRedirectsAreNotFollowed(t *testing.T) {
	followed := false
	var target string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/there" {
			followed = true
			return
		}
		http.Redirect(w, r, target, http.StatusPermanentRedirect)
	}))
	defer s.Close()
	target = s.URL + "/there"
	_, err := open(t, s.URL, client.WithToken("t")).MintKey(context.Background(),
		api.MintRequest{Name: "x"}, "")
	if client.StatusOf(err) != 308 || !strings.Contains(err.Error(), target) || followed {
		t.Errorf("followed %v: %v", followed, err)
	}
}

func TestHealth(t *testing.T) {
	address, _ := server(t, 503, api.JSON,
		`{"healthy":false,"problem":"the disk is full","revision":7}`)
	h, err := open(t, address).Health(context.Background())
	if err != nil || h.Healthy || h.Problem != "the disk is full" || h.Revision != 7 {
		t.Errorf("%+v, %v", h, err)
	}
	address, _ = server(t, 503, api.Problems, `{"title":"T","code":"unavailable"}`)
	if _, err = open(t, address).Health(context.Background()); client.StatusOf(err) != 503 {
		t.Errorf("a node without a store: %v", err)
	}
}

func TestAllKeys(t *testing.T) {
	var cursors []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cursor := r.FormValue("cursor")
		cursors = append(cursors, cursor)
		next := map[string]string{"": "b", "b": "c", "c": "d"}[cursor]
		if cursor == "d" {
			w.Header().Set("Content-Type", api.Problems)
			w.WriteHeader(400)
			return
		}
		w.Header().Set("Content-Type", api.JSON)
		_ = json.NewEncoder(w).Encode(api.Keys{Items: []api.Key{{ID: cursor + "1"},
			{ID: cursor + "2"}}, NextCursor: &next})
	}))
	defer s.Close()
	var ids []string
	var last error
	for k, err := range open(t, s.URL).AllKeys(context.Background(), client.KeyFilter{}) {
		if last = err; err == nil {
			ids = append(ids, k.ID)
		}
	}
	if want := []string{"1", "2", "b1", "b2", "c1", "c2"}; !slices.Equal(ids, want) ||
		client.StatusOf(last) != 400 {
		t.Errorf("%v, %v", ids, last)
	}
	cursors = nil
	for range open(t, s.URL).AllKeys(context.Background(), client.KeyFilter{}) {
		break
	}
	if len(cursors) != 1 {
		t.Errorf("%d pages were requested after a break, want 1", len(cursors))
	}
}

// TestAll checks that the All methods read a list to its end, in pages of the maximum size.
func TestAll(t *testing.T) {
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path+" "+r.FormValue("cursor")+" "+r.FormValue("limit"))
		w.Header().Set("Content-Type", api.JSON)
		if r.FormValue("cursor") == "" {
			_, _ = io.WriteString(w, `{"items":[{},{}],"next_cursor":"more"}`)
		} else {
			_, _ = io.WriteString(w, `{"items":[{}],"next_cursor":null}`)
		}
	}))
	defer s.Close()
	c, ctx := open(t, s.URL), t.Context()
	for path, n := range map[string]int{
		"/roles":       countAll(t, c.AllRoles(ctx)),
		"/plans":       countAll(t, c.AllPlans(ctx, "")),
		"/namespaces":  countAll(t, c.AllNamespaces(ctx)),
		"/members":     countAll(t, c.AllMembers(ctx)),
		"/permissions": countAll(t, c.AllPermissions(ctx)),
	} {
		path = api.Prefix + path
		if n != 3 || !slices.Contains(asked, path+"  1000") ||
			!slices.Contains(asked, path+" more 1000") {
			t.Errorf("%s: %d items; asked for %q", path, n, asked)
		}
	}
}

func countAll[T any](t *testing.T, items iter.Seq2[T, error]) (n int) {
	t.Helper()
	for _, err := range items {
		if err != nil {
			t.Error(err)
		}
		n++
	}
	return n
}

// TestPages checks that iteration stops after the last page and after an error.
func TestPages(t *testing.T) {
	next := map[string]string{"b": "c", "c": "d"}
	failed := errors.New("no page d")
	list := func(cursor string) (api.Page[string], error) {
		if cursor == "d" {
			return api.Page[string]{}, failed
		}
		p := api.Page[string]{Items: []string{cursor}}
		if n, ok := next[cursor]; ok {
			p.NextCursor = &n
		}
		return p, nil
	}
	for first, want := range map[string]string{"a": "a", "b": "b c error"} {
		var got []string
		for page, err := range client.Pages(first, list) {
			if err != nil {
				page.Items = []string{"error"}
			}
			got = append(got, page.Items...)
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("from %s: %s, want %s", first, text, want)
		}
	}
}

func TestContext(t *testing.T) {
	arrived, done := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-done
	}))
	defer s.Close()
	defer close(done)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := open(t, s.URL).Self(ctx); err == nil || client.StatusOf(err) != 0 {
		t.Errorf("a cancelled call: %v", err)
	}
}

// TestExportAudit checks that the rows are copied, and that a broken connection is an error.
func TestExportAudit(t *testing.T) {
	const rows = "{\"seq\":1}\n{\"seq\":2}\n"
	whole := true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", api.NDJSON)
		_, _ = io.WriteString(w, rows)
		if !whole {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	defer s.Close()
	var out strings.Builder
	if err := open(t, s.URL).ExportAudit(t.Context(), &out); err != nil || out.String() != rows {
		t.Errorf("%v: %s", err, out.String())
	}
	whole = false
	if err := open(t, s.URL).ExportAudit(t.Context(), io.Discard); err == nil {
		t.Error("a truncated export returns no error")
	}
	address, _ := server(t, 200, "text/html", "<p>")
	if err := open(t, address).ExportAudit(t.Context(), io.Discard); err == nil ||
		!strings.Contains(err.Error(), "another service answers") {
		t.Errorf("an answer of another service: %v", err)
	}
}

// TestUsageStreams checks that usage can be read while it arrives, and that a broken connection is
// an error.
func TestUsageStreams(t *testing.T) {
	whole := true
	var accepts []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accept := r.Header.Get("Accept")
		accepts = append(accepts, accept)
		w.Header().Set("Content-Type", accept)
		_, _ = io.WriteString(w, "{\"key\":\"a\",\"allowed\":1}\n{\"key\":\"b\"}\n")
		if !whole {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	defer s.Close()
	c, ctx, f := open(t, s.URL), t.Context(), client.UsageFilter{GroupBy: "key"}
	if n := countAll(t, c.AllUsage(ctx, f)); n != 2 {
		t.Errorf("%d items", n)
	}
	for item, err := range c.AllUsage(ctx, f) {
		if err != nil || item.Key != "a" || item.Allowed != 1 {
			t.Errorf("%+v, %v", item, err)
		}
		break
	}
	var out strings.Builder
	if err := c.UsageCSV(ctx, f, &out); err != nil || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("%v: %s", err, out.String())
	}
	if want := []string{api.NDJSON, api.NDJSON, api.CSV}; !slices.Equal(accepts, want) {
		t.Errorf("asked for %q", accepts)
	}
	whole = false
	var last error
	for _, err := range c.AllUsage(ctx, f) {
		last = err
	}
	if last == nil || c.UsageCSV(ctx, f, io.Discard) == nil {
		t.Errorf("a truncated answer returns no error: %v", last)
	}
	n := len(accepts)
	if _, err := c.Usage(ctx, client.UsageFilter{Key: "K", GroupBy: "key"}); err == nil ||
		len(accepts) != n {
		t.Errorf("groups of one key: %v", err)
	}
	for _, err := range open(t, "http://127.0.0.1:1").AllUsage(ctx, f) {
		if err == nil {
			t.Error("no error without a server")
		}
	}
}

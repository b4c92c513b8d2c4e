package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// noMetrics ignores all metrics.
type noMetrics struct{}

func (noMetrics) LookedUp(node.Tier, time.Duration) {}
func (noMetrics) Propagated(time.Duration)          {}
func (noMetrics) UsageFlushed(time.Duration)        {}

// A testAPI is an interface with its own key store.
type testAPI struct {
	*admin.API
	keys      *manage.Keystore
	log       *bytes.Buffer
	answering sync.WaitGroup // requests that serve is answering
}

func open(t testing.TB) *testAPI {
	t.Helper()
	db, err := sqldb.OpenSQLite(context.Background(), fleet.File(t))
	if err != nil {
		t.Fatal(err)
	}
	return openOn(t, db)
}

func openOn(t testing.TB, db keystore.Database) *testAPI {
	t.Helper()
	ks, err := manage.Open(context.Background(), db, nil, node.Settings{}, noMetrics{},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ks.Close() })
	var log bytes.Buffer
	d := &testAPI{API: admin.New(ks, slog.New(slog.NewTextHandler(&log, nil))), keys: ks, log: &log}
	d.Declare(nil)
	d.RuleBy(func(admin.Request) ([]admin.Ruling, error) {
		return []admin.Ruling{{Need: keystore.Need{Class: keystore.Read}}}, nil
	})
	return d
}

var root = manage.Root("192.0.2.1")

// An answer is a recorded response.
type answer struct {
	status int
	header http.Header
	text   string
}

// call sends one request. It encodes a body other than a string as JSON. more holds alternating
// header names and values.
func (d *testAPI) call(
	t testing.TB, c manage.Caller, method, path string, body any, more ...string,
) answer {
	t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req := httptest.NewRequest(method, api.Prefix+path, r)
	if r != nil {
		req.Header.Set("Content-Type", api.JSON)
	}
	for i := 0; i < len(more); i += 2 {
		if more[i+1] == "" {
			req.Header.Del(more[i])
		} else {
			req.Header.Set(more[i], more[i+1])
		}
	}
	return d.send(t, c, req)
}

// send answers a request and checks the answer against the OpenAPI document.
func (d *testAPI) send(t testing.TB, c manage.Caller, r *http.Request) answer {
	t.Helper()
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r.WithContext(admin.WithCaller(r.Context(), c)))
	if err := d.Conforms(r, w.Code, w.Header().Get("Content-Type"), w.Body.Bytes()); err != nil {
		t.Errorf("%s %s is not as documented: %v: %s", r.Method, r.URL, err, w.Body)
	}
	return answer{w.Code, w.Header(), w.Body.String()}
}

// into decodes a JSON answer, which must have this status.
func (a answer) into(t testing.TB, status int, v any) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.text)
	}
	if err := json.Unmarshal([]byte(a.text), v); err != nil {
		t.Fatalf("%v: %s", err, a.text)
	}
}

// problem decodes a problem document and checks the fields that all have.
func (a answer) problem(t testing.TB) api.Problem {
	t.Helper()
	var p api.Problem
	if ct := a.header.Get("Content-Type"); ct != api.Problems {
		t.Errorf("content type %q: %s", ct, a.text)
	}
	a.into(t, a.status, &p)
	if p.Status != a.status || p.Type != "about:blank" || p.Title == "" || p.Code == "" {
		t.Errorf("incomplete problem document: %s", a.text)
	}
	return p
}

// mint creates a key through the interface.
func (d *testAPI) mint(t testing.TB, c manage.Caller, body string) api.Minted {
	t.Helper()
	var m api.Minted
	d.call(t, c, "POST", "/keys", body).into(t, http.StatusCreated, &m)
	return m
}

// caller returns the caller with a token.
func (d *testAPI) caller(t testing.TB, token string) manage.Caller {
	t.Helper()
	a, err := d.keys.Lookup(context.Background(), token, time.Now())
	if err != nil || a.Record == nil {
		t.Fatalf("lookup: %v, %v", a.Outcome, err)
	}
	return manage.KeyCaller(a.Record, "192.0.2.2")
}

// member creates a member with a token and returns it as a caller.
func (d *testAPI) member(t testing.TB, body string) (api.Member, manage.Caller) {
	t.Helper()
	var m api.Member
	d.call(t, root, "POST", "/members", body).into(t, 201, &m)
	var changed api.MemberChanged
	d.call(t, root, "POST", "/members/"+m.ID+"/token", nil).into(t, 200, &changed)
	a, err := d.keys.LookupMember(context.Background(), changed.Token, time.Now())
	if err != nil || a.Record == nil {
		t.Fatalf("lookup: %v, %v", a.Outcome, err)
	}
	return m, manage.MemberCaller(a.Record, "192.0.2.3")
}

// request returns a GET of a target under the prefix, if a server would accept it.
func request(target string) (*http.Request, bool) {
	u, err := url.ParseRequestURI(api.Prefix + target)
	if err != nil {
		return nil, false
	}
	return &http.Request{Method: "GET", URL: u, Host: "localhost", Header: http.Header{},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}, true
}

package caddymodule

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestListWriter checks everything that a next handler may do with its response writer.
func TestListWriter(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	handler := h.handler("namespace acme\nlist GET /list account")
	const both = `["acme","globex"]`
	isJSON := func(w http.ResponseWriter) { w.Header().Set("Content-Type", "application/json") }
	write := func(w http.ResponseWriter, text string) {
		if _, err := io.WriteString(w, text); err != nil {
			t.Errorf("writing %s: %v", text, err)
		}
	}
	long := `["acme",` + strings.Repeat(`"globex","acme",`, 10_000)
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		next caddyhttp.HandlerFunc
		want string // status and body, "aborts", or an error
		logs string // part of the log entry; empty if there must be none
	}{
		{"no status", func(w http.ResponseWriter, _ *http.Request) error {
			isJSON(w)
			write(w, both)
			return nil
		}, `200 ["acme"]`, ""},
		{"byte by byte, flushed", func(w http.ResponseWriter, _ *http.Request) error {
			isJSON(w)
			for i := range both {
				write(w, both[i:i+1])
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
			}
			return nil
		}, `200 ["acme"]`, ""},
		{"two statuses", func(w http.ResponseWriter, _ *http.Request) error {
			isJSON(w)
			w.WriteHeader(http.StatusCreated)
			w.WriteHeader(http.StatusNoContent)
			write(w, both)
			return nil
		}, `201 ["acme"]`, ""},
		{"late headers", func(w http.ResponseWriter, _ *http.Request) error {
			isJSON(w)
			w.WriteHeader(http.StatusOK)
			w.Header().Set("Names", "globex")
			w.Header().Set(http.TrailerPrefix+"Names", "globex")
			write(w, both)
			w.Header().Set("Names", "globex")
			return nil
		}, `200 ["acme"]`, ""},
		{"names in another case", func(w http.ResponseWriter, _ *http.Request) error {
			isJSON(w)
			w.Header()["content-type"] = []string{"text/html"} // not canonical
			_, err := io.WriteString(w, both)
			if err == nil {
				t.Error("Write succeeded")
			}
			return nil
		}, `502 unfilterable_answer`, "must have one Content-Type, not 2"},
		{"flushed before the body", func(w http.ResponseWriter, _ *http.Request) error {
			isJSON(w)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			w.WriteHeader(http.StatusOK)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			write(w, " ")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			_, err := io.WriteString(w, "<html>")
			if err == nil {
				t.Error("Write succeeded")
			}
			return nil
		}, `502 unfilterable_answer`, "byte 1: the value at the configured path must be an array"},
		{"early hints", func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints)
			isJSON(w)
			w.WriteHeader(http.StatusOK)
			write(w, both)
			return nil
		}, `200 ["acme"]`, ""},
		{"an error after an error response", func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusNotFound)
			return broken
		}, `broken`, ""},
		{"a removed header", func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Del("Server")
			isJSON(w)
			write(w, both)
			return nil
		}, `200 ["acme"]`, ""},
		{"no response", func(http.ResponseWriter, *http.Request) error { return nil },
			`502 unfilterable_answer`, "there is no response"},
		{"an error without a response", func(http.ResponseWriter,
			*http.Request) error {
			return broken
		}, `broken`, ""},
		{"an error after a part", func(w http.ResponseWriter, _ *http.Request) error {
			isJSON(w)
			write(w, `["acme",`)
			return broken
		}, `broken`, ""},
		{"an error after a sent part",
			func(w http.ResponseWriter, _ *http.Request) error {
				isJSON(w)
				write(w, long)
				return broken
			}, `aborts`, "broken"},
		{"a handler that ignores write errors", func(w http.ResponseWriter, _ *http.Request) error {
			isJSON(w)
			write(w, long)
			_, _ = io.WriteString(w, "<html>")
			_, _ = io.WriteString(w, `"acme"]`)
			return nil
		}, `aborts`, "expected a value"},
		{"an abort after a part", func(w http.ResponseWriter, _ *http.Request) error {
			isJSON(w)
			write(w, both)
			panic(http.ErrAbortHandler)
		}, `502 unfilterable_answer`, "the response is incomplete"},
		{"an abort without a response",
			func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) },
			`aborts`, ""},
		{"an abort in an error body", func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusTeapot)
			write(w, "globex")
			panic(http.ErrAbortHandler)
		}, `418 upstream_error`, ""},
		{"other interfaces", func(w http.ResponseWriter, _ *http.Request) error {
			if _, _, err := http.NewResponseController(w).Hijack(); err == nil {
				t.Error("Hijack succeeded")
			}
			if _, ok := w.(http.Pusher); ok {
				t.Error("the writer is an http.Pusher")
			}
			if _, ok := w.(io.ReaderFrom); ok {
				t.Error("the writer is an io.ReaderFrom")
			}
			isJSON(w)
			write(w, both)
			return nil
		}, `200 ["acme"]`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			core, logs := observer.New(zap.InfoLevel)
			handler.logger = zap.New(core)
			w := httptest.NewRecorder()
			w.Header().Set("Server", "Caddy")
			got := func() (got string) {
				defer func() {
					if problem := recover(); problem != nil {
						if got = "aborts"; problem != http.ErrAbortHandler { //nolint:errorlint // a panic's value
							panic(problem)
						}
					}
				}()
				r := caddyhttp.PrepareRequest(wireRequest(t, "GET /list"+keyLine(token)),
					caddy.NewReplacer(), w, nil)
				if err := handler.ServeHTTP(w, r, test.next); err != nil {
					return err.Error()
				}
				_, after, found := strings.Cut(w.Body.String(), `"code":"`)
				if !found {
					return fmt.Sprint(w.Code, " ", w.Body)
				}
				code, _, _ := strings.Cut(after, `"`)
				return fmt.Sprint(w.Code, " ", code)
			}()
			if got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			if test.name == "a removed header" && w.Header()["Server"] != nil {
				t.Error("the client receives the header")
			}
			if strings.Contains(fmt.Sprint(w.Result().Header, w.Result().Trailer, w.Body),
				"globex") || strings.HasSuffix(w.Body.String(), "]") && w.Code == 200 &&
				got == "aborts" {
				t.Errorf("%v %v %.100s", w.Result().Header, w.Result().Trailer, w.Body)
			}
			var entries []string
			for _, entry := range logs.All() {
				entries = append(entries, fmt.Sprint(entry.Level, " ", entry.ContextMap()["error"]))
			}
			if len(entries) > 1 || strings.Join(entries, "") == "" != (test.logs == "") ||
				!strings.Contains(strings.Join(entries, ""), test.logs) {
				t.Errorf("log entries: %q", entries)
			}
		})
	}
}

// TestListResponses checks which responses are filtered, and what the client receives of the others.
func TestListResponses(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	const options = "namespace acme\nlist GET /list account\nlist HEAD /list account\n"
	const both, filtered = `["acme","globex"]`, `["acme"]`
	type header = http.Header
	plain := header{"Content-Type": {"application/json"}}
	zipped := func(text string) string {
		var b strings.Builder
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, text)
		_ = w.Close()
		return b.String()
	}
	with := func(name string, values ...string) header {
		all := plain.Clone()
		all[name] = values
		return all
	}
	for _, test := range []struct {
		name, options, wire string
		status              int
		header              header // of the API's response
		body                string
		want                string // status and body, or the code of a problem
		left                header // of header, what the client receives
	}{
		{"a key", "", "GET /list" + keyLine(token), 200, plain, both, "200 " + filtered, nil},
		{"another path", "", "GET /lists" + keyLine(token), 200, plain, both, "200 " + both, nil},
		{"no key", "optional", "GET /list", 200, plain, both, "200 []", nil},
		{"a public list", "public /list", "GET /list", 200, plain, both, "200 " + both, nil},
		{"a foreign token", "foreign pass", "GET /list" + keyLine("another.issuers.token"), 200,
			plain, both, "200 " + both, nil},
		{"HEAD", "", "HEAD /list" + keyLine(token), 200, with("Content-Length", "17"), "", "200 ",
			nil},
		{"created", "", "GET /list" + keyLine(token), 201, plain, both, "201 " + filtered, nil},
		{"compressed", "", "GET /list" + keyLine(token), 200, with("Content-Encoding", "gzip"),
			zipped(both), "200 " + filtered, nil},
		{"compressed by another name", "", "GET /list" + keyLine(token), 200,
			with("Content-Encoding", "X-GZIP"), zipped(both), "200 " + filtered, nil},
		{"compressed twice", "", "GET /list" + keyLine(token), 200,
			with("Content-Encoding", "gzip", "gzip"), zipped(zipped(both)), "unfilterable_answer", nil},
		{"not compressed", "", "GET /list" + keyLine(token), 200, with("Content-Encoding", "Identity"),
			both, "200 " + filtered, nil},
		{"not compressed, twice", "", "GET /list" + keyLine(token), 200,
			with("Content-Encoding", "identity", "br"), both, "unfilterable_answer", nil},
		{"brotli", "", "GET /list" + keyLine(token), 200, with("Content-Encoding", "br"), both,
			"unfilterable_answer", nil},
		{"not compressed as announced", "", "GET /list" + keyLine(token), 200,
			with("Content-Encoding", "gzip"), both, "unfilterable_answer", nil},
		{"cut off", "", "GET /list" + keyLine(token), 200, with("Content-Encoding", "gzip"),
			zipped(both)[:20], "unfilterable_answer", nil},
		{"another JSON type", "", "GET /list" + keyLine(token), 200,
			with("Content-Type", "application/hal+json; charset=UTF-8"), both, "200 " + filtered, nil},
		{"utf8", "", "GET /list" + keyLine(token), 200,
			with("Content-Type", "application/json; charset=UTF8"), both, "200 " + filtered, nil},
		{"another charset", "", "GET /list" + keyLine(token), 200,
			with("Content-Type", "application/json; charset=utf-16"), both, "unfilterable_answer", nil},
		{"text", "", "GET /list" + keyLine(token), 200, with("Content-Type", "text/json"), both,
			"unfilterable_answer", nil},
		{"another application type", "", "GET /list" + keyLine(token), 200,
			with("Content-Type", "application/jsonl"), both, "unfilterable_answer", nil},
		{"a JSON image", "", "GET /list" + keyLine(token), 200, with("Content-Type", "image/x+json"),
			both, "unfilterable_answer", nil},
		{"an invalid type", "", "GET /list" + keyLine(token), 200,
			with("Content-Type", "application/json; charset"), both, "unfilterable_answer", nil},
		{"no type", "", "GET /list" + keyLine(token), 200, nil, both, "unfilterable_answer", nil},
		{"no content", "", "GET /list" + keyLine(token), 204, nil, "", "204 ", nil},
		{"a redirect", "", "GET /list" + keyLine(token), 302,
			header{"Location": {"/x"}, "Content-Type": {"text/html"}, "Content-Language": {"de"}}, "",
			"302 ", header{"Location": {"/x"}}},
		{"an error", "", "GET /list" + keyLine(token), 404, with("Retry-After", "7"), both,
			"upstream_error", header{"Retry-After": {"7"}}},
		{"the first error", "", "GET /list" + keyLine(token), 400, plain, both, "upstream_error", nil},
		{"several choices", "", "GET /list" + keyLine(token), 300, plain, both, "300 ", nil},
		{"the last error", "", "GET /list" + keyLine(token), 599, plain, both, "upstream_error", nil},
		{"no status", "", "GET /list" + keyLine(token), 600, plain, both, "unfilterable_answer", nil},
		{"a reset form", "", "GET /list" + keyLine(token), 205, plain, "", "unfilterable_answer", nil},
		{"a part", "", "GET /list" + keyLine(token), 206, plain, both, "unfilterable_answer", nil},
		{"a delta", "", "GET /list" + keyLine(token), 226, plain, both, "unfilterable_answer", nil},
		{"not modified", "", "GET /list" + keyLine(token), 304, plain, "", "unfilterable_answer", nil},
		{"a tunnel", "", "GET /list" + keyLine(token), 101, plain, "", "unfilterable_answer", nil},
		{"headers of the unfiltered list", "", "GET /list" + keyLine(token), 200, header{
			"Content-Type": {"application/json"}, "Etag": {`"x"`}, "Last-Modified": {"x"},
			"Content-Length": {"17"}, "Cache-Control": {"public"}, "Cdn-Cache-Control": {"public"},
			"Expires": {"x"}, "Trailer:X": {"globex"}, "X-Total": {"2"},
		}, both, "200 " + filtered, header{"X-Total": {"2"}}},
		{"a preflight's origin", "preflight https://a.example", "GET /list\nOrigin: " +
			"https://a.example" + keyLine(token), 200, nil, both, "unfilterable_answer",
			header{"Access-Control-Allow-Origin": {"https://a.example"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := caddyhttp.PrepareRequest(wireRequest(t, test.wire), caddy.NewReplacer(), w, nil)
			err := h.handler(options+test.options).ServeHTTP(w, r,
				caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
					maps.Copy(w.Header(), test.header)
					w.WriteHeader(test.status)
					_, _ = io.WriteString(w, test.body)
					return nil
				}))
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprint(w.Code, " ", w.Body)
			if _, after, found := strings.Cut(w.Body.String(), `"code":"`); found {
				got, _, _ = strings.Cut(after, `"`)
				if w.Header().Get("Content-Type") != "application/problem+json" {
					t.Errorf("a problem document of the type %s", w.Header().Get("Content-Type"))
				}
			}
			if got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			if strings.HasSuffix(test.want, both) {
				return // not filtered
			}
			if w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("it may be cached: %v", w.Header())
			}
			left := w.Header().Clone()
			for _, name := range []string{"Cache-Control", "Content-Type", "Vary"} {
				delete(left, name)
			}
			if code := w.Code; code >= 400 {
				delete(left, "Content-Length")
			}
			if !maps.EqualFunc(left, test.left, slices.Equal) {
				t.Errorf("headers %v, want %v", left, test.left)
			}
		})
	}
}

// TestListFlush checks that a flush sends what the filter has passed.
func TestListFlush(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	w := httptest.NewRecorder()
	r := caddyhttp.PrepareRequest(wireRequest(t, "GET /list"+keyLine(token)), caddy.NewReplacer(), w,
		nil)
	err := h.handler("namespace acme\nlist GET /list account").ServeHTTP(w, r,
		caddyhttp.HandlerFunc(func(api http.ResponseWriter, _ *http.Request) error {
			api.Header().Set("Content-Type", "application/json")
			for _, part := range []string{`["acme"`, `,"globex"`, `,"acme"`} {
				_, _ = io.WriteString(api, part)
			}
			if err := http.NewResponseController(api).Flush(); err != nil {
				t.Error(err)
			}
			if !w.Flushed || !strings.HasPrefix(w.Body.String(), `["acme"`) {
				t.Errorf("after a flush: %q", w.Body)
			}
			_, err := io.WriteString(api, "]")
			return err
		}))
	if err != nil || w.Body.String() != `["acme","acme"]` {
		t.Errorf("%v, %s", err, w.Body)
	}
}

// TestListPanics checks that a panic of a later handler is not taken for an aborted response.
func TestListPanics(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	w := httptest.NewRecorder()
	r := caddyhttp.PrepareRequest(wireRequest(t, "GET /list"+keyLine(token)), caddy.NewReplacer(), w,
		nil)
	defer func() {
		if problem := recover(); problem != "a bug" {
			t.Errorf("panic %v", problem)
		}
	}()
	_ = h.handler("namespace acme\nlist GET /list account").ServeHTTP(w, r,
		caddyhttp.HandlerFunc(func(api http.ResponseWriter, _ *http.Request) error {
			api.WriteHeader(http.StatusOK)
			panic("a bug")
		}))
}

// TestListRequests checks that the API receives a request for the whole list, uncompressed.
func TestListRequests(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	handler := h.handler("namespace acme\nlist GET /list account")
	const headers = "\nRange: bytes=0-1\nIf-Range: x\nIf-Match: x\nIf-None-Match: x\n" +
		"If-Modified-Since: x\nIf-Unmodified-Since: x\nA-IM: feed\nUpgrade: websocket\n" +
		"Accept-Encoding: br"
	for path, want := range map[string]int{"/list": 0, "/other": len(partialHeaders)} {
		var seen http.Header
		r := caddyhttp.PrepareRequest(wireRequest(t, "GET "+path+headers+keyLine(token)),
			caddy.NewReplacer(), nil, nil)
		_ = handler.ServeHTTP(httptest.NewRecorder(), r,
			caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
				seen = r.Header.Clone()
				return nil
			}))
		got := 0
		for _, name := range partialHeaders {
			got += len(seen[name])
		}
		if got != want || (seen.Get("Accept-Encoding") == "identity") != (want == 0) {
			t.Errorf("%s: %v", path, seen)
		}
	}
}

// TestListDeadlines checks that http.ResponseController still reaches the server's own writer.
func TestListDeadlines(t *testing.T) {
	h := newFixture(t)
	_, token := h.key("read")
	handler := h.handler("namespace acme\nlist GET /list account")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
		err := handler.ServeHTTP(w, r,
			caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
					t.Error(err)
				}
				if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
					t.Error(err)
				}
				w.Header().Set("Content-Type", "application/json")
				_, err := io.WriteString(w, `["acme","globex"]`)
				return err
			}))
		if err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	r, _ := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/list", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || string(body) != `["acme"]` {
		t.Errorf("%s, %v", body, err)
	}
}

package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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

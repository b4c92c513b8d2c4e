package redact

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/logging"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	"go.uber.org/zap"
)

func adapt(t *testing.T, text string) []byte {
	t.Helper()
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text),
		map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, warning := range warnings {
		if !strings.Contains(warning.Message, "not formatted") {
			t.Fatalf("%v\n%s", warning, text)
		}
	}
	return config
}

// provision provisions a config as Caddy does when it starts, logs first. The logs stay open until
// the process exits.
func provision(t *testing.T, config []byte) caddy.Context {
	t.Helper()
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &parsed); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&parsed)
	if err != nil {
		t.Fatalf("%v\n%s", err, config)
	}
	t.Cleanup(resetDefaultLog)
	return ctx
}

// resetDefaultLog replaces the default log of the process, which the last config has set, so that
// it no longer writes to the files of a test.
func resetDefaultLog() {
	if _, err := caddy.ProvisionContext(&caddy.Config{Logging: &caddy.Logging{
		Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: []byte(`{"output":"discard"}`)}}},
	}}); err != nil {
		panic(err)
	}
}

func TestProbeLogs(t *testing.T) {
	const (
		global = "{\n admin off\n auto_https off\n storage file_system {\n  root TMP/data\n }\n " +
			"%s\n}\n"
		site = "http://127.0.0.1:1 {\n %s\n respond ok\n}\n"
	)
	for name, row := range map[string]struct {
		options, site    string
		unprotected, all int
	}{
		"no logging": {"", "", 1, 1},
		"both logs": {"log {\n format api_keys\n}",
			"log {\n output file TMP/a\n format api_keys\n}", 0, 2},
		"only the default log": {"log {\n format api_keys\n}",
			"log {\n output file TMP/a\n}", 1, 2},
		"only the access log":               {"", "log {\n output file TMP/a\n format api_keys\n}", 1, 2},
		"access entries in the default log": {"log {\n format api_keys\n}", "log", 0, 1},
		"wrapping another encoder":          {"log {\n format api_keys {\n  wrap console\n }\n}", "", 0, 1},
		"inside filter": {
			"log {\n format filter {\n  wrap api_keys\n  fields {\n   a delete\n  }\n }\n}",
			"", 0, 1},
		"inside append": {"log {\n format append {\n  wrap api_keys\n  a b\n }\n}", "", 0, 1},
		"inside itself": {"log {\n format api_keys {\n  wrap api_keys\n }\n}", "", 0, 1},
		"filter without it": {
			"log {\n format filter {\n  wrap json\n  fields {\n   a delete\n  }\n }\n}",
			"", 1, 1},
		"with sampling":       {"log {\n format api_keys\n sampling {\n  first 1\n }\n}", "", 0, 1},
		"sampling without it": {"log {\n sampling {\n  first 1\n }\n}", "", 1, 1},
		"discarded":           {"log {\n output discard\n}", "", 0, 0},
		"default log without HTTP": {
			"log {\n exclude http\n}\nlog web {\n output file TMP/a\n include http\n" +
				" format api_keys\n}",
			"", 0, 1},
		"a log of one handler": {
			"log {\n format api_keys\n}\nlog proxy {\n output file TMP/a\n" +
				" include http.handlers.reverse_proxy\n}",
			"", 1, 2},
		"a log of access entries": {
			"log {\n format api_keys\n}\nlog web {\n output file TMP/a\n" +
				" include http.log.access\n}",
			"", 1, 2},
		"a log without access entries": {
			"log {\n format api_keys\n}\nlog web {\n output file TMP/a\n" +
				" exclude http.log.access\n}",
			"", 1, 2},
		"a log of another app": {
			"log {\n format api_keys\n}\nlog tls {\n output file TMP/a\n include tls\n}",
			"", 0, 1},
		"a site's log with its own name": {"log {\n format api_keys\n}",
			"log mine {\n output file TMP/a\n no_hostname\n}", 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.ReplaceAll(fmt.Sprintf(global+site, row.options, row.site), "TMP",
				t.TempDir())
			unprotected, all := probeLogs(provision(t, adapt(t, text)))
			if unprotected != row.unprotected || all != row.all {
				t.Errorf("%d of %d logs unprotected, want %d of %d", unprotected, all,
					row.unprotected, row.all)
			}
		})
	}
}

func TestWarnIfUnredacted(t *testing.T) {
	all := []Source{{Header, "authorization"}, {Cookie, "session"},
		{Header, "X-API-Key"}, {Query, "key"}}
	for name, row := range map[string]struct {
		format  string
		sources []Source
		want    bool
	}{
		"readable":                {"json", all, true},
		"redacted":                {"api_keys", all, false},
		"hidden by Caddy already": {"json", all[:2], false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "log")
			text := fmt.Sprintf("{\n admin off\n log {\n  output file %s\n  format %s\n }\n}\n",
				file, row.format)
			ctx, app := provision(t, adapt(t, text)), new(int)
			at := func() string { return "Caddyfile:7" }
			WarnIfUnredacted(ctx, app, row.sources, at)
			WarnIfUnredacted(ctx, app, row.sources, at) // another handler of the same config
			out, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			warned := strings.Count(string(out), "log { format api_keys }") == 2 &&
				strings.Contains(string(out), `"header X-API-Key","query key"`) &&
				strings.Contains(string(out), "1 of 1") &&
				strings.Contains(string(out), `"at":"Caddyfile:7"`)
			if warned != row.want || !row.want && strings.Contains(string(out), "API keys") {
				t.Errorf("log: %s", out)
			}
			if strings.Contains(string(out), "probe") {
				t.Errorf("the log contains the probe: %s", out)
			}
		})
	}
}

// TestLogsOfRunningCaddy sends credentials to a running Caddy in every source, some of them in
// requests that fail. Neither the default log nor the access log contains one, although the server
// has log_credentials.
func TestLogsOfRunningCaddy(t *testing.T) {
	declareAll(t)
	dir := t.TempDir()
	socket, accessFile, defaultFile := filepath.Join(dir, "s"), filepath.Join(dir,
		"access"), filepath.Join(dir, "default")
	config := adapt(t, fmt.Sprintf(`{
	admin off
	auto_https off
	persist_config off
	storage file_system {
		root %[1]s/data
	}
	log {
		output file %[1]s/default
		format api_keys
		level DEBUG
	}
	servers {
		log_credentials
		trace
	}
}
http:// {
	bind unix/%[2]s
	log {
		output file %[1]s/access
		format api_keys {
			wrap json
		}
	}
	log_append sent {header.X-API-Key-Copy}
	log_append target {uri}
	header Location "https://a.example/?api_key={header.X-API-Key}"
	header X-API-Key {header.X-API-Key}
	handle /broken* {
		error "no answer to {uri} of {header.X-API-Key-Copy}" 502
	}
	respond ok
}
`, dir, socket))
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(resetDefaultLog)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}}
	body, imported := randomBody(), "imported%2Fkey~of+another+system"
	// There is one connection, so Caddy writes an entry before it reads the next request. Only the
	// last entry may be missing: requests starts at -1.
	requests, broken := -1, 0
	for _, secret := range []string{"ak_" + body, imported} {
		for _, path := range []string{"/broken", "/broken/ak_" + body, "/fine"} {
			r, err := http.NewRequest(http.MethodGet,
				"http://a.example"+path+"?x=1&%61pi_key="+secret+"&y=2", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-API-Key", secret)
			r.Header.Set("X-API-Key-Copy", "ak_"+body)
			r.Header.Set("Authorization", "Bearer "+secret)
			r.Header.Set("Proxy-Authorization", "Bearer "+secret)
			r.Header.Set("Cookie", "a=b; session="+secret)
			r.Header.Set("Referer", "https://a.example/?api_key="+secret)
			answer, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, answer.Body); err != nil {
				t.Error(err)
			}
			answer.Body.Close()
			requests++
			if answer.StatusCode == http.StatusBadGateway {
				broken++
			}
		}
	}
	caddy.Log().Info("a token in a message: ak_"+body, zap.String("url", "/?api_key="+imported))
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]int{accessFile: requests, defaultFile: broken + 1} {
		out, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		entries := 0
		for line := range bytes.Lines(out) {
			if bytes.Contains(line, []byte(Replacement)) {
				entries++
			}
		}
		if entries < want {
			t.Errorf("%s: %d entries contain %s, want %d: %s", file, entries, Replacement, want, out)
		}
		for _, leak := range []string{body, imported, "another+system"} {
			if at := bytes.Index(out, []byte(leak)); at >= 0 {
				t.Errorf("%s contains a credential: …%s<SECRET>", filepath.Base(file),
					out[max(0, at-300):at])
			}
		}
	}
}

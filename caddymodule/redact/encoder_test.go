package redact

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func newLogEncoder(t testing.TB, wrap string) *LogEncoder {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	encoder := new(LogEncoder)
	if wrap != "" {
		encoder.WrappedRaw = json.RawMessage(wrap)
	}
	if err := encoder.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return encoder
}

// newJSONEncoder returns Caddy's own JSON encoder.
func newJSONEncoder(t testing.TB) zapcore.Encoder {
	t.Helper()
	encoder := new(logging.JSONEncoder)
	if err := encoder.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return encoder
}

func logger(encoder zapcore.Encoder, out *bytes.Buffer) *zap.Logger {
	return zap.New(zapcore.NewCore(encoder, zapcore.AddSync(out), zapcore.DebugLevel))
}

type stringer string

func (s stringer) String() string { return string(s) }

type marshaler map[string]any

func (m marshaler) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	for key, value := range m {
		zap.Any(key, value).AddTo(encoder)
	}
	return nil
}

// failing is an object that cannot be marshaled. Its error contains the text.
type failing string

func (f failing) MarshalLogObject(zapcore.ObjectEncoder) error { return errors.New(string(f)) }

func (f failing) MarshalJSON() ([]byte, error) { return nil, errors.New(string(f)) }

// textFields returns one field of each kind that can contain text.
func textFields(text string) []zapcore.Field {
	type record struct {
		Name  string `json:"name"`
		Inner any
		Bytes json.RawMessage
	}
	quoted, _ := json.Marshal(text)
	return []zapcore.Field{
		zap.String("string", text),
		zap.Stringp("stringp", &text),
		zap.ByteString("bytestring", []byte(text)),
		zap.Binary("binary", []byte(text)),
		zap.Stringer("stringer", stringer(text)),
		zap.Error(errors.New(text)),
		zap.NamedError("joined", errors.Join(errors.New("first"),
			fmt.Errorf("second: %w", errors.New(text)))),
		zap.Errors("errors", []error{errors.New(text)}),
		zap.Strings("strings", []string{"a", text}),
		zap.ByteStrings("bytestrings", [][]byte{[]byte(text)}),
		zap.Stringers("stringers", []stringer{stringer(text)}),
		zap.Array("array", caddyhttp.LoggableStringArray{text}),
		zap.Object("object", marshaler{"a": text, "b": []string{text}, "c": marshaler{"d": text}}),
		zap.Objects("objects", []marshaler{{"a": text}, {"b": map[string]any{"c": text}}}),
		zap.Dict("dict", zap.String("a", text), zap.Dict("b", zap.String("c", text))),
		zap.Any("panic", any(errors.New(text))),
		zap.Any("map", map[string]any{"a": text, "b": []any{text, map[string]string{"c": text}}}),
		zap.Reflect("struct", record{Name: text, Inner: &record{Name: text}, Bytes: quoted}),
		zap.Reflect("slice", [][]string{{text}}),
		zap.Object("failing", failing(text)),
		zap.Reflect("unmarshallable", failing(text)),
		zap.Object("resp_headers",
			caddyhttp.LoggableHTTPHeader{Header: http.Header{"Location": {text},
				"Link": {"a", text}}}),
		zap.Inline(marshaler{"inline": text}),
		zap.Namespace("namespace"),
		zap.String("inside", text),
	}
}

// requestFields returns a request in every form in which an entry can contain it. The request has
// secret in every source that a handler could read a credential from.
func requestFields(secret string) []zapcore.Field {
	r := httptest.NewRequest(http.MethodGet, "/x?a=1&%61pi_key="+url.QueryEscape(secret), nil)
	for _, name := range []string{"X-API-Key", "x-api-key", "Authorization", "Proxy-Authorization",
		"Cookie"} {
		r.Header[name] = []string{secret, "session=" + secret}
	}
	r.Header.Set("Referer", "https://app.example/?api_key="+url.QueryEscape(secret))
	return []zapcore.Field{
		zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r,
			ShouldLogCredentials: true}),
		zap.Object("nested", marshaler{"request": caddyhttp.LoggableHTTPRequest{Request: r,
			ShouldLogCredentials: true}}),
		zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: http.Header{
			"Set-Cookie": {"session=" + secret}, "X-Api-Key": {secret},
		}, ShouldLogCredentials: true}),
		zap.Reflect("header", r.Header),
		zap.Reflect("url", r.URL),
		zap.Reflect("query", r.URL.Query()),
		zap.Stringer("stringer", r.URL),
		zap.Error(&url.Error{Op: "Get", URL: r.URL.String(), Err: errors.New("refused")}),
		zap.Object("env", marshaler{"HTTP_X_API_KEY": secret, "QUERY_STRING": r.URL.RawQuery,
			"REQUEST_URI": r.RequestURI}),
		zap.String("X-API-Key", secret),
		zap.ByteString("X-API-Key", []byte(secret)),
		zap.Binary("X-API-Key", []byte(secret)),
		zap.Reflect("X-API-Key", map[string]string{"value": secret}),
		zap.Object("X-API-Key", marshaler{"value": secret}),
		zap.Strings("X-API-Key", []string{secret}),
	}
}

func declareAll(t testing.TB) {
	forgetSources(t)
	Declare(Source{Header, "X-API-Key"},
		Source{Query, "api_key"}, Source{Cookie, "session"})
}

var base64Word = regexp.MustCompile(`[A-Za-z0-9+/]{8,}=*`)

var wrappedEncoders = map[string]string{
	"default": "",
	"json":    `{"format":"json"}`,
	"console": `{"format":"console"}`,
	"filter":  `{"format":"filter","wrap":{"format":"json"},"fields":{"dropped":{"filter":"delete"}}}`,
	"append":  `{"format":"append","fields":{"app":"x"}}`,
}

// TestNoSecretIsWritten checks every kind of field, in the entry and in the logger, with every
// wrapped encoder.
func TestNoSecretIsWritten(t *testing.T) {
	declareAll(t)
	body, secret := randomBody(), "imported-Secret"
	token, derived := "ak_"+body, randomDerived()
	parts := strings.Split(derived, ".")
	groups := map[string][]zapcore.Field{
		"token": textFields("before " + token + " behind"),
		"token in a URL": textFields("https://a.example/" + token + "?x=%2F" + token +
			"%26"),
		"token in JSON":           textFields(`{"a":"\n` + token + `\n"}`),
		"derived token in a URL":  textFields("https://a.example/?x=%3D" + derived + "_%26"),
		"escaped derived token":   textFields(strings.ReplaceAll(derived, ".", "%2E")),
		"query parameter":         textFields("https://a.example/?api_key=" + secret),
		"encoded query parameter": textFields("/login?to=%2F%3Fapi%5Fkey%3D" + secret + "%26a=b"),
		"cookie":                  textFields("a=b; session=" + secret + "; c=d"),
		"request":                 requestFields(secret),
		"request with our token":  requestFields(token),
		"token as name of a field": {zap.String(token, "x"),
			zap.Reflect("map", map[string]int{token: 1})},
		"request, key with punctuation":         requestFields(`'s";,e\crét+imported-Secret`),
		"query parameter, key with punctuation": textFields(`/?api_key=s";,e\cr=` + secret),
	}
	check := func(t *testing.T, out string) {
		t.Helper()
		if out == "" {
			t.Fatal("nothing was written")
		}
		for _, word := range base64Word.FindAllString(out, -1) { // binary fields
			decoded, _ := base64.StdEncoding.DecodeString(word)
			out += string(decoded)
		}
		for _, leak := range append([]string{body, secret}, parts...) {
			if strings.Contains(out, leak) {
				t.Errorf("the log contains a secret: %s",
					strings.NewReplacer(body, "<TOKEN>", secret, "<SECRET>").Replace(out))
			}
		}
		if !strings.Contains(out, Replacement) {
			t.Errorf("the log does not contain %s: %s", Replacement, out)
		}
	}
	for wrapped, config := range wrappedEncoders {
		encoder := newLogEncoder(t, config)
		for name, fields := range groups {
			for i, field := range fields {
				if field.Type == zapcore.NamespaceType {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%d %s", wrapped, name, i, field.Key), func(t *testing.T) {
					var out bytes.Buffer
					logger(encoder, &out).Info("in the entry", field)
					check(t, out.String())
					if wrapped == "json" && !json.Valid(out.Bytes()) {
						t.Errorf("the entry is not JSON: %s", out.String())
					}
					out.Reset()
					logger(encoder, &out).With(zap.Int("x", 1)).With(field,
						zap.Int("y", 2)).Info("in the logger")
					check(t, out.String())
					out.Reset()
					logger(encoder, &out).WithLazy(field).Info("in a lazy logger, as in Caddy's server")
					check(t, out.String())
				})
			}
			t.Run(wrapped+"/"+name+"/all", func(t *testing.T) {
				var out bytes.Buffer
				logger(encoder, &out).With(fields...).Info("all", fields...)
				check(t, out.String())
			})
		}
		for name, text := range map[string]string{"token": token,
			"query parameter": "GET /?api_key=" + secret + " failed"} {
			t.Run(wrapped+"/message and stack/"+name, func(t *testing.T) {
				entry := zapcore.Entry{Time: time.Unix(0, 0), Message: text,
					Stack: "goroutine 1\n\t" + text, LoggerName: "http.log.error"}
				if name == "token" {
					entry.LoggerName = text
				}
				out, err := encoder.EncodeEntry(entry, nil)
				if err != nil {
					t.Fatal(err)
				}
				check(t, out.String())
			})
		}
	}
}

// TestInsideFilterEncoder wraps the encoder in Caddy's filter encoder, which hides the type of a
// field's object.
func TestInsideFilterEncoder(t *testing.T) {
	declareAll(t)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	filter := &logging.FilterEncoder{WrappedRaw: json.RawMessage(`{"format":"api_keys","wrap":{"format":"json"}}`)}
	if err := filter.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	fields := append(requestFields("imported-Secret"), textFields("ak_" + randomBody())[0])
	logger(filter, &out).With(fields...).Info("x", fields...)
	if got := out.String(); strings.Contains(got, "imported-Secret") ||
		strings.Count(got, "ak_REDACTED") != 2 {
		t.Errorf("the log contains a secret, or too much is redacted: %s", got)
	}
}

// TestFiltersOfHeaders wraps Caddy's filter encoder. Its filters must get every header, including
// those with a character that may belong to an encoded parameter.
func TestFiltersOfHeaders(t *testing.T) {
	declareAll(t)
	encoder := newLogEncoder(t, `{"format":"filter","wrap":{"format":"json"},
		"fields":{"headers>X-Session":{"filter":"hash"}}}`)
	hashed := regexp.MustCompile(`"[0-9a-f]{8}"`)
	for _, value := range []string{"plain", "100%", `back\slash`, "/?api_key=a%20b"} {
		field := zap.Object("headers",
			caddyhttp.LoggableHTTPHeader{Header: http.Header{"X-Session": {value, value}}})
		var out bytes.Buffer
		logger(encoder, &out).Info("x", field)
		logger(encoder, &out).With(field).Info("x")
		if got := out.String(); len(hashed.FindAllString(got, -1)) != 4 {
			t.Errorf("%s is not filtered: %s", value, got)
		}
	}
}

// TestEntriesWithoutSecretsAreUnchanged compares entries without a secret with those that the
// wrapped encoder writes alone.
func TestEntriesWithoutSecretsAreUnchanged(t *testing.T) {
	declareAll(t)
	plain := newJSONEncoder(t)
	for name, fields := range map[string][]zapcore.Field{
		"text": textFields(`https://a.example/x?page=2&q=%E2%82%AC"quoted\n" a_b_c ` +
			strings.Repeat("%20", 100)),
		"digest":    textFields("sha256_" + strings.Repeat("0123456789abcdef", 4)),
		"access":    accessFields(false),
		"no fields": nil,
		"numbers": {zap.Int("a", 1), zap.Float64("b", 2.5), zap.Bool("c", true),
			zap.Duration("d", time.Second), zap.Time("e", time.Unix(1, 2)),
			zap.Complex128("f", 1i), zap.Uintptr("g", 3), zap.Skip(), zap.Reflect("h", nil),
			zap.Int64s("i", []int64{1 << 60}), zap.Reflect("j", uint64(1<<63))},
		"ordered struct": {zap.Reflect("s", struct{ Z, A string }{"z", "a"})},
	} {
		t.Run(name, func(t *testing.T) {
			var want, got bytes.Buffer
			entry := zapcore.Entry{Time: time.Unix(0, 0), Message: "handled request",
				LoggerName: "http.log.access"}
			for encoder, out := range map[zapcore.Encoder]*bytes.Buffer{plain: &want, newLogEncoder(t, ""): &got} {
				core := zapcore.NewCore(encoder, zapcore.AddSync(out), zapcore.DebugLevel)
				if err := core.Write(entry, fields); err != nil {
					t.Fatal(err)
				}
				if err := core.With([]zapcore.Field{zap.String("a", "b"),
					zap.Namespace("n")}).Write(entry, fields); err != nil {
					t.Fatal(err)
				}
			}
			// The order of maps is random.
			if name == "access" || name == "text" || name == "digest" {
				if want.Len() != got.Len() {
					t.Errorf("got  %s\nwant %s", got.String(), want.String())
				}
			} else if want.String() != got.String() {
				t.Errorf("got  %s\nwant %s", got.String(), want.String())
			}
		})
	}
}

func TestClonesDoNotShareFields(t *testing.T) {
	var out bytes.Buffer
	base := logger(newLogEncoder(t, ""), &out)
	first, second := base.With(zap.String("one", "1")), base.With(zap.String("two", "2"))
	first.Info("a")
	second.Info("b")
	base.Info("c")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{`"one"`, `"two"`, `"msg":"c"`} {
		if !strings.Contains(lines[i], want) || strings.Contains(lines[i], `"one"`) &&
			strings.Contains(lines[i], `"two"`) {
			t.Errorf("line %d: %s", i, lines[i])
		}
	}
	if strings.Contains(lines[2], `"one"`) || strings.Contains(lines[2], `"two"`) {
		t.Errorf("the parent logger has fields of its clones: %s", lines[2])
	}
}

// TestDeclareWhileLogging declares sources as the handlers of a new config do, while the handlers
// of the old config are logging.
func TestDeclareWhileLogging(t *testing.T) {
	declareAll(t)
	encoder := newLogEncoder(t, "")
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			var out bytes.Buffer
			for range 50 {
				logger(encoder, &out).WithLazy(requestFields("imported-Secret")[0]).Info("x",
					textFields("/?api_key=imported-Secret")...)
			}
			if strings.Contains(out.String(), "imported-Secret") {
				t.Error("the log contains a secret")
			}
		})
		wait.Go(func() {
			for j := range 50 {
				Declare(Source{Header, fmt.Sprintf("X-%d-%d", i, j)},
					Source{Query, fmt.Sprintf("q%d", j)})
			}
		})
	}
	wait.Wait()
	if got := len(redactedSources.Load().sources); got != 5+4*50+50 {
		t.Errorf("%d sources are declared, want %d", got, 5+4*50+50)
	}
}

func TestLogEncoderCaddyfile(t *testing.T) {
	for _, row := range []struct{ in, want, err string }{
		{"api_keys", `{}`, ""},
		{"api_keys {\n}", `{}`, ""},
		{"api_keys {\n wrap json\n}", `{"wrap":{"format":"json"}}`, ""},
		{"api_keys {\n wrap console {\n  time_format iso8601\n }\n}",
			`{"wrap":{"format":"console","time_format":"iso8601"}}`, ""},
		{"api_keys {\n wrap filter {\n  wrap json\n  fields {\n   a delete\n  }\n }\n}",
			`{"wrap":{"fields":{"a":{"filter":"delete"}},"format":"filter","wrap":{"format":"json"}}}`, ""},
		{"api_keys json", "", "accepts no arguments, only a block"},
		{"api_keys {\n wrap\n}", "", "wrap requires the name of a log encoder, such as `wrap json`"},
		{"api_keys {\n wrap nothing\n}", "", `unknown log encoder "nothing"`},
		{"api_keys {\n wrap json\n wrap console\n}", "", "wrap is given twice"},
		{"api_keys {\n redact x\n}", "",
			"unknown option \"redact\" in the log encoder api_keys: must be wrap"},
	} {
		encoder := new(LogEncoder)
		err := encoder.UnmarshalCaddyfile(caddyfile.NewTestDispenser(row.in))
		if row.err != "" {
			if err == nil || !strings.Contains(err.Error(), row.err) {
				t.Errorf("%q: error %v, want %q", row.in, err, row.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", row.in, err)
			continue
		}
		if got, _ := json.Marshal(encoder); string(got) != row.want {
			t.Errorf("%q: got %s, want %s", row.in, got, row.want)
		}
	}
}

func TestInvalidWrapIsAnError(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	for _, wrap := range []string{`{}`, `{"format":"nothing"}`, `7`, `{"format":"json","x":1}`} {
		if err := (&LogEncoder{WrappedRaw: json.RawMessage(wrap)}).Provision(ctx); err == nil {
			t.Errorf("wrap %s: no error", wrap)
		}
	}
}

// FuzzLogEncoder checks that the log contains neither credentials of visible ASCII from declared
// sources nor tokens.
func FuzzLogEncoder(f *testing.F) {
	declareAll(f)
	encoder := newLogEncoder(f, `{"format":"json"}`)
	f.Add("value", "text", "text", uint8(1))
	f.Add(`"';,\&#%26`, `{"a":"\n`, `%26\u0026`, uint8(40))
	body := randomBody()
	f.Fuzz(func(t *testing.T, value, before, after string, choice uint8) {
		visible := strings.Map(func(r rune) rune {
			if r <= ' ' || r >= 0x7f {
				return -1
			}
			return r
		}, value)
		first, last := "qQ7head7Qq", "qQ7tail7Qq"
		fields := requestFields(first + visible + last)
		fields = append(fields, textFields(before+"ak_"+body+after)...)
		fields = append(fields, textFields("/?a=b&api_key="+url.QueryEscape(first+visible+last))...)
		field := fields[int(choice)%len(fields)]
		var out bytes.Buffer
		logger(encoder, &out).Info("x", field)
		logger(encoder, &out).WithLazy(field).Info("x")
		for _, leak := range []string{body, first, last} {
			if strings.Contains(out.String(), leak) {
				t.Errorf("the log contains %q: %s", leak, out.String())
			}
		}
		for line := range strings.Lines(out.String()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("the line is not JSON: %s", line)
			}
		}
	})
}

// accessFields returns the fields of an access log entry for a browser's request, with a key if
// keyed is true.
func accessFields(keyed bool) []zapcore.Field {
	r := httptest.NewRequest(http.MethodGet,
		"https://api.example.com/v1/workspaces/acme/orders?page=2&sort=created", nil)
	r.RemoteAddr = "192.0.2.7:51234"
	for name, value := range map[string]string{
		"Accept":          "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
		"Accept-Encoding": "gzip, deflate, br",
		"Accept-Language": "en-GB,en;q=0.7",
		"User-Agent":      "Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0",
		"Referer":         "https://app.example.com/orders", "Sec-Fetch-Mode": "cors",
		"Cache-Control": "no-cache", "Content-Type": "application/json",
	} {
		r.Header.Set(name, value)
	}
	if keyed {
		r.Header.Set("X-API-Key", "ak_"+strings.Repeat("a", tokenBody))
	}
	return []zapcore.Field{
		zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r}),
		zap.Int("bytes_read", 0), zap.String("user_id", "3f9aB2c8D1eF"),
		zap.Duration("duration", 1234567), zap.Int("size", 5120), zap.Int("status", 200),
		zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: http.Header{
			"Server": {"Caddy"}, "Content-Type": {"application/json"},
			"Date": {"Mon, 02 Jan 2006 15:04:05 GMT"}, "Content-Length": {"5120"},
			"Via": {"1.1 Caddy"},
		}}),
	}
}

func BenchmarkAccessEntry(b *testing.B) {
	declareAll(b)
	plain := newJSONEncoder(b)
	for _, bench := range []struct {
		name    string
		encoder zapcore.Encoder
		keyed   bool
	}{
		{"json", plain, false}, {"json_with_key", plain, true},
		{"api_keys", newLogEncoder(b, ""), false},
		{"api_keys_with_key", newLogEncoder(b, ""), true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			fields := accessFields(bench.keyed)
			entry := zapcore.Entry{Time: time.Unix(1e9, 0), Message: "handled request",
				LoggerName: "http.log.access.log0"}
			b.ReportAllocs()
			for b.Loop() {
				// Caddy adds the request to the logger and all other fields to the entry.
				clone := bench.encoder.Clone()
				fields[0].AddTo(clone)
				out, err := clone.EncodeEntry(entry, fields[1:])
				if err != nil {
					b.Fatal(err)
				}
				out.Free()
			}
		})
	}
}

func BenchmarkRedactTokens(b *testing.B) {
	entry := []byte(strings.Repeat(`"User-Agent":["Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101"],`, 16))
	b.SetBytes(int64(len(entry)))
	for b.Loop() {
		redactTokens(entry)
	}
}

package redact

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

func init() {
	caddy.RegisterModule(immediateEncoder{})
	caddy.RegisterModule(contextEncoder{})
}

// immediateEncoder is LogEncoder, but it encodes the fields of a logger at once.
type immediateEncoder struct{ LogEncoder }

func (immediateEncoder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.encoders.immediate",
		New: func() caddy.Module { return new(immediateEncoder) }}
}

func (e *immediateEncoder) Provision(ctx caddy.Context) error {
	err := e.LogEncoder.Provision(ctx)
	e.encodeContext()
	return err
}

// contextEncoder is an encoder that treats the fields of a logger differently from those of an
// entry, which it omits.
type contextEncoder struct{ zapcore.Encoder }

func (contextEncoder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.encoders.context", New: func() caddy.Module {
		return &contextEncoder{zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())}
	}}
}

func (e *contextEncoder) Clone() zapcore.Encoder { return &contextEncoder{e.Encoder.Clone()} }

func (e *contextEncoder) EncodeEntry(
	entry zapcore.Entry, _ []zapcore.Field,
) (*buffer.Buffer, error) {
	return e.Encoder.EncodeEntry(entry, nil)
}

// encoderPairs returns, for each way to wrap the encoder or to be wrapped by it, a pair of encoders
// that differ only in when they encode the fields of a logger.
func encoderPairs(t testing.TB) map[string][2]zapcore.Encoder {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	pairs := make(map[string][2]zapcore.Encoder)
	for name, config := range map[string]string{
		"default": `{"format":"api_keys"}`,
		"json": `{"format":"api_keys","wrap":{"format":"json","message_key":"","level_key":"",
			"time_key":""}}`,
		"console": `{"format":"api_keys","wrap":{"format":"console"}}`,
		"filter": `{"format":"api_keys","wrap":{"format":"filter","wrap":{"format":"json"},
			"fields":{"string":{"filter":"delete"},"request>headers>X-One":{"filter":"hash"}}}}`,
		"append":  `{"format":"api_keys","wrap":{"format":"append","fields":{"app":"x"}}}`,
		"itself":  `{"format":"api_keys","wrap":{"format":"api_keys"}}`,
		"another": `{"format":"api_keys","wrap":{"format":"context"}}`,
		"in filter": `{"format":"filter","wrap":{"format":"api_keys"},
			"fields":{"string":{"filter":"delete"},"request>headers>X-One":{"filter":"hash"}}}`,
		"in append": `{"format":"append","wrap":{"format":"api_keys"},"fields":{"app":"x"}}`,
	} {
		var pair [2]zapcore.Encoder
		for i, format := range []string{"api_keys", "immediate"} {
			log := struct {
				EncoderRaw json.RawMessage `caddy:"namespace=caddy.logging.encoders inline_key=format"`
			}{json.RawMessage(strings.ReplaceAll(config, "api_keys", format))}
			module, err := ctx.LoadModule(&log, "EncoderRaw")
			if err != nil {
				t.Fatal(err)
			}
			pair[i] = module.(zapcore.Encoder)
		}
		pairs[name] = pair
	}
	return pairs
}

// changingRequest is a request that its handlers change. It has at most one header, because the
// order of more is random.
type changingRequest struct {
	*http.Request
	vars  map[string]any
	bytes []byte
}

func newChangingRequest() changingRequest {
	r := httptest.NewRequest(http.MethodGet, "https://a.example/?api_key=imported", nil)
	r.TransferEncoding = []string{"chunked"}
	r.TLS = &tls.ConnectionState{ServerName: "a.example", PeerCertificates: []*x509.Certificate{
		{Subject: pkix.Name{CommonName: "client"}, SerialNumber: big.NewInt(7)},
	}}
	vars := map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.1"}
	r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars))
	return changingRequest{r, vars, []byte("bytes")}
}

func (r changingRequest) change(text string) {
	names := []string{"X-One", "X-API-Key", "Cookie", "Accept"}
	switch name := names[len(text)%len(names)]; len(text) / len(names) % 4 {
	case 0: // overwrite the value in its slice, as Caddy's headers handler does
		for _, values := range r.Header {
			for i := range values {
				values[i] = text
			}
		}
	case 1:
		clear(r.Header)
		r.Header[name] = []string{text}
	case 2:
		clear(r.Header)
		r.Header[name] = []string{text, "/?api_key=imported", text}
	case 3:
		clear(r.Header)
		r.Header[name] = nil
	}
	r.Method, r.Host, r.RequestURI, r.RemoteAddr, r.Proto = text, text, text, text, text
	r.TransferEncoding[0], r.TLS.ServerName, r.TLS.Version = text, text, uint16(len(text))
	r.vars[caddyhttp.ClientIPVarKey] = text
	for i := range r.bytes {
		r.bytes[i]++
	}
}

// contextFields returns one field of each kind that a logger can have.
func contextFields(text string, r changingRequest) []zapcore.Field {
	number := int64(len(text))
	request := caddyhttp.LoggableHTTPRequest{Request: r.Request}
	header := caddyhttp.LoggableHTTPHeader{Header: r.Header}
	credentials, credentialHeader := request, header
	credentials.ShouldLogCredentials, credentialHeader.ShouldLogCredentials = true, true
	return []zapcore.Field{
		zap.String("string", text), zap.ByteString("bytes", r.bytes), zap.Binary("binary", r.bytes),
		zap.Bool("bool", number%2 == 0), zap.Int("int", int(number)), zap.Int64("int64", -1<<63),
		zap.Int32("int32", -1), zap.Int16("int16", -1), zap.Int8("int8", -1), zap.Uint("uint", 1),
		zap.Uint64("uint64", math.MaxUint64), zap.Uint32("uint32", math.MaxUint32),
		zap.Uint16("uint16", 1), zap.Uint8("uint8", 1), zap.Uintptr("uintptr", 1),
		zap.Float64("float64", math.NaN()), zap.Float32("float32", 0.1),
		zap.Complex128("complex128", 1i), zap.Complex64("complex64", 1i),
		zap.Duration("duration", time.Duration(number)), zap.Skip(),
		zap.Time("time", time.Unix(number, 7).UTC()), zap.Time("old", time.Time{}),
		zap.Error(errors.New(text)), zap.Error(nil), zap.Stringer("stringer", stringer(text)),
		zap.Strings("strings", []string{text}), zap.Any("map", map[string]any{"a": text}),
		zap.Array("array", caddyhttp.LoggableStringArray{text, text}), zap.Namespace("namespace"),
		zap.Array("shared", caddyhttp.LoggableStringArray(r.TransferEncoding)),
		zap.Object("object", marshaler{"a": text}), zap.Object("failing", failing(text)),
		zap.Inline(marshaler{"inline": text}), zap.Inline(primitives(text)),
		zap.Dict("dict", zap.String("a", text)),
		zap.Object("request", request), zap.Object("request", credentials), zap.Inline(request),
		zap.Object("headers", header), zap.Object("headers", credentialHeader),
		zap.Object("headers", caddyhttp.LoggableHTTPHeader{}), zap.Inline(header),
		zap.Object("tls", caddyhttp.LoggableTLSConnState(*r.TLS)),
	}
}

// primitives adds values that no type of field has.
type primitives string

func (p primitives) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	encoder.AddInt("int", -1)
	encoder.AddUint("uint", 1)
	encoder.AddTime("now", time.Unix(1, 0))
	encoder.AddByteString("bytes", []byte(p))
	return encoder.AddReflected("reflected", []string{string(p)})
}

// FuzzDeferredFields derives loggers from each other, changes the request in their fields and
// writes entries. It compares the entries with those of encoders that do not defer fields. Each
// byte of program is an operation.
func FuzzDeferredFields(f *testing.F) {
	declareAll(f)
	pairs := encoderPairs(f)
	const derive, add, write, change = 0, 1, 2, 3
	for i := range len(contextFields("", newChangingRequest())) {
		field := byte(4 * i)
		f.Add([]byte{derive, field + derive, change, write, field + write, derive,
			field + derive, field + add, change, field + derive, write, change, write}, "%26 text")
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		program := make([]byte, 100)
		for i := range program {
			program[i] = byte(random.Uint32())
		}
		f.Add(program, "/?api_key=imported&x=%26 and more of the text")
	}
	f.Fuzz(func(t *testing.T, program []byte, text string) {
		for name, pair := range pairs {
			r := newChangingRequest()
			derived := [][2]zapcore.Encoder{pair}
			for i, operation := range program[:min(len(program), 100)] {
				part := text[:i%(len(text)+1)]
				fields := contextFields(part, r)
				field := fields[int(operation/4)%len(fields)]
				index := max(0, len(derived)-1-i%4) // often one of the last, and its parent
				pair := derived[index]
				switch operation % 4 {
				case derive:
					for j := range pair {
						pair[j] = pair[j].Clone()
						field.AddTo(pair[j])
					}
					derived = append(derived, pair)
				case add: // to an encoder that may have clones
					if index > 0 {
						field.AddTo(pair[0])
						field.AddTo(pair[1])
					}
				case write:
					entry := zapcore.Entry{Message: part, Time: time.Unix(int64(i), 0)}
					got, want := encode(t, pair[0], entry, field), encode(t, pair[1], entry, field)
					if got != want {
						t.Fatalf("%s:\n got %s\nwant %s", name, got, want)
					}
				case change:
					r.change(part)
				}
			}
		}
	})
}

func encode(
	t *testing.T, encoder zapcore.Encoder, entry zapcore.Entry, fields ...zapcore.Field,
) string {
	t.Helper()
	out, err := encoder.EncodeEntry(entry, fields)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Free()
	return out.String()
}

func decode(t *testing.T, entry string) (value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(entry), &value); err != nil {
		t.Fatalf("%v: %s", err, entry)
	}
	return value
}

// TestRequestOfLogger compares a request with many headers in the fields of a logger with the same
// request in the fields of an entry. No cookie is declared, so only Caddy redacts cookies.
func TestRequestOfLogger(t *testing.T) {
	forgetSources(t)
	Declare(Source{Header, "X-API-Key"}, Source{Query, "api_key"})
	r := newChangingRequest()
	r.Header = http.Header{"Cookie": {"a=b"}, "cOOKIE": {"c"}, "Set-Cookie": {"a=b", "c"},
		"Authorization": {"x"}, "PROXY-AUTHORIZATION": {"x"}, "Proxy-Authenticate": {"x"},
		"X-API-Key": {"x"}, "Accept": {"a", "b"}, "Empty": {}, "Nil": nil, "": {"x"},
		"Escaped": {"%26\""},
		"Cookies": {"x"}, "Www-Authenticate": {"x"}}
	requests := []caddyhttp.LoggableHTTPRequest{{Request: r.Request},
		{Request: r.Request, ShouldLogCredentials: true},
		{Request: httptest.NewRequest(http.MethodGet, "/", nil)},
		{Request: new(http.Request)}}
	setAll(requests[3].Request)
	for i, request := range requests {
		field := zap.Object("request", request)
		logger := newLogEncoder(t, `{"format":"json"}`).Clone()
		field.AddTo(logger)
		got := decode(t, encode(t, logger, zapcore.Entry{}))
		want := decode(t, encode(t, newLogEncoder(t, ""), zapcore.Entry{}, field))
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%d: got  %v\nwant %v", i, got, want)
		}
	}
}

// setAll sets every exported field of a request to a value that is not zero, as far as it has one
// that can be logged.
func setAll(r *http.Request) {
	fields := reflect.ValueOf(r).Elem()
	for i := range fields.NumField() {
		field := fields.Field(i)
		if !field.CanSet() {
			continue
		}
		name := fields.Type().Field(i).Name
		switch field.Kind() {
		case reflect.String:
			field.SetString(name)
		case reflect.Int, reflect.Int64:
			field.SetInt(int64(i))
		case reflect.Bool:
			field.SetBool(true)
		case reflect.Slice:
			field.Set(reflect.ValueOf([]string{name}))
		case reflect.Map:
			field.Set(reflect.MakeMap(field.Type()))
			field.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf([]string{"x"}))
		case reflect.Pointer:
			field.Set(reflect.New(field.Type().Elem()))
		}
	}
}

// TestAddToEncoderWithClones adds fields to an encoder that has been cloned, before and after it
// has encoded one.
func TestAddToEncoderWithClones(t *testing.T) {
	reflected := map[string]int{"x": 1}
	for _, first := range []zapcore.Field{zap.Int("first", 1), zap.Any("first", reflected)} {
		for _, second := range []zapcore.Field{zap.Int("second", 2), zap.Any("second", reflected)} {
			parent := newLogEncoder(t, "").Clone()
			first.AddTo(parent)
			child := parent.Clone()
			second.AddTo(parent)
			zap.String("third", "3").AddTo(child)
			if got := encode(t, child, zapcore.Entry{}); strings.Contains(got, "second") ||
				!strings.Contains(got, "first") || !strings.Contains(got, "third") {
				t.Errorf("the clone writes %s", got)
			}
			if got := encode(t, parent, zapcore.Entry{}); strings.Contains(got, "third") ||
				!strings.Contains(got, "first") || !strings.Contains(got, "second") {
				t.Errorf("the encoder writes %s", got)
			}
		}
	}
}

// TestDerivedLoggersShareTheEncoder checks that a logger of a request costs nothing in the wrapped
// encoder until it writes an entry.
func TestDerivedLoggersShareTheEncoder(t *testing.T) {
	wrapped := &countingEncoder{Encoder: newJSONEncoder(t)}
	encoder := new(redactingEncoder)
	encoder.wrap(wrapped)
	var out bytes.Buffer
	r := newChangingRequest().Request
	derived := logger(encoder, &out).With(zap.String("string", "x")).
		With(zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r}))
	if wrapped.clones != 0 {
		t.Errorf("the wrapped encoder was cloned %d times without an entry", wrapped.clones)
	}
	derived.Info("x")
	if wrapped.clones != 1 || !strings.Contains(out.String(), `"string":"x","request":{`) {
		t.Errorf("the wrapped encoder was cloned %d times for %s", wrapped.clones, out.String())
	}
}

type countingEncoder struct {
	zapcore.Encoder
	clones int
}

func (e *countingEncoder) Clone() zapcore.Encoder {
	e.clones++
	return e.Encoder.Clone()
}

// TestDerivedLoggerOfManyGoroutines writes to a logger and derives others from it in goroutines,
// while the request that is in its fields changes. The race detector must find nothing.
func TestDerivedLoggerOfManyGoroutines(t *testing.T) {
	declareAll(t)
	for name, pair := range encoderPairs(t) {
		t.Run(name, func(t *testing.T) {
			r := newChangingRequest()
			r.Header.Set("X-One", "1")
			parent := pair[0].Clone()
			for _, field := range []zapcore.Field{zap.String("a", "b"),
				zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r.Request}),
				zap.Array("list", caddyhttp.LoggableStringArray(r.TransferEncoding)),
				zap.Object("header", caddyhttp.LoggableHTTPHeader{Header: r.Header})} {
				field.AddTo(parent)
			}
			want := encode(t, parent, zapcore.Entry{})
			stop := make(chan struct{})
			var changing, writing sync.WaitGroup
			changing.Go(func() {
				for text := "x"; ; text += "x" {
					select {
					case <-stop:
						return
					default:
						r.change(text[:len(text)%50])
					}
				}
			})
			for range 4 {
				writing.Go(func() {
					for range 50 {
						if got := encode(t, parent, zapcore.Entry{}); got != want {
							t.Errorf("got  %s\nwant %s", got, want)
						}
						child := parent.Clone()
						child.AddString("c", "d")
						if err := child.AddReflected("e", "f"); err != nil {
							t.Error(err)
						}
						if got := encode(t, child.Clone(), zapcore.Entry{}); len(got) <= len(want) {
							t.Errorf("the derived logger writes %s", got)
						}
					}
				})
			}
			writing.Wait()
			close(stop)
			changing.Wait()
		})
	}
}

// proxiedRequest returns a request as Caddy's reverse proxy sends it to the API.
func proxiedRequest(headers map[string]string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://api.example.com/v1/orders/4711?page=2", nil)
	r.RemoteAddr = "192.0.2.7:51234"
	for name, value := range map[string]string{"User-Agent": "", "Via": "1.1 Caddy",
		"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https",
		"X-Forwarded-Host": "api.example.com"} {
		r.Header.Set(name, value)
	}
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey,
		map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.7"}))
}

var (
	browserHeaders = map[string]string{
		"Accept":          "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
		"Accept-Encoding": "gzip, deflate, br", "Accept-Language": "en-GB,en;q=0.7",
		"User-Agent":     "Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0",
		"Referer":        "https://app.example.com/orders",
		"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "empty",
		"Cache-Control": "no-cache", "Content-Type": "application/json",
	}
	identityHeaders = map[string]string{
		"X-Apikey-Id": "3f9aB2c8D1eF", "X-Apikey-Namespace": "acme",
		"X-Apikey-Name": "order%20import", "X-Apikey-Owner": "7Kq2mZp0XwRt",
		"X-Apikey-Permissions": "orders:read,orders:search",
	}
)

// BenchmarkUnwrittenLogger derives the logger that Caddy's reverse proxy derives for each request
// to log it at level DEBUG, which is disabled.
func BenchmarkUnwrittenLogger(b *testing.B) {
	declareAll(b)
	for _, request := range []struct {
		name    string
		headers map[string]string
	}{{"wrk", nil}, {"browser", browserHeaders}, {"identity", identityHeaders}} {
		r := proxiedRequest(request.headers)
		for _, encoder := range []struct {
			name    string
			encoder zapcore.Encoder
		}{{"json", newJSONEncoder(b)}, {"api_keys", newLogEncoder(b, "")}} {
			b.Run(fmt.Sprintf("%s/%s", request.name, encoder.name), func(b *testing.B) {
				logger := zap.New(zapcore.NewCore(encoder.encoder, zapcore.AddSync(io.Discard),
					zapcore.InfoLevel))
				b.ReportAllocs()
				for b.Loop() {
					logger.With(zap.String("upstream", "127.0.0.1:9000"),
						zap.Duration("duration", time.Millisecond),
						zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r}))
				}
			})
		}
	}
}

// Package lists tests the subdirective `list`: which elements of an API's response reach a client,
// over each protocol and with many kinds of faulty responses.
package lists

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) { gate.Main(m) }

// TestLists runs all tests on one gate.
func TestLists(t *testing.T) {
	a := newAPI(t)
	g := gate.Start(t, gate.Config{Env: gate.DefaultGC, Site: a.site(), HTTP3: true})
	for _, id := range []string{"acme", "globex", "42"} {
		g.Namespace(t, id, gate.JSON{"kind": "workspace"})
	}
	g.Namespace(t, "shop", gate.JSON{"kind": "app"})
	w := world{g, a, g.Mint(t, gate.JSON{"name": "acme", "namespace": "acme",
		"access": "read_write"}).Token}
	// First, because the peak memory of the other tests would hide this one's.
	t.Run("large lists", w.largeLists)
	t.Run("answers", w.answers)
	t.Run("requests", w.requests)
	t.Run("keys", w.keys)
	t.Run("slow", w.slow)
	t.Run("cut", w.cut)
}

type world struct {
	*gate.Gate
	api   *api
	token gate.Token // of acme
}

// api is the upstream. It calls answer for each request and keeps the last one.
type api struct {
	address string

	mu     sync.Mutex
	answer func(conn net.Conn, r *http.Request)
	got    *http.Request // the last request
}

// answer sets the function that answers requests.
func (w world) answer(f func(conn net.Conn, r *http.Request)) {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	w.api.answer = f
}

func newAPI(t *testing.T) *api {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &api{address: l.Addr().String()}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer conn.Close()
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				a.mu.Lock()
				a.got = r
				answer := a.answer
				a.mu.Unlock()
				answer(conn, r)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		open.Wait()
	})
	return a
}

// site has the handler chains for a response, by the first segment of the path.
func (a *api) site() string {
	return strings.ReplaceAll(`
	handle /plain/* {
		api_key {
			namespace home
			list GET /plain/list workspace
			list GET /plain/data workspace {
				items data
			}
			list GET /plain/deep workspace {
				items data.items
				id    meta.id
			}
			list POST /plain/search workspace
			list GET /plain/apps app
		}
		reverse_proxy API
	}
	handle /encoded/* {
		route {
			encode {
				gzip
				minimum_length 1
			}
			api_key {
				namespace home
				list GET /encoded/list workspace
			}
			reverse_proxy API
		}
	}
	handle /inside/* {
		route {
			api_key {
				namespace home
				list GET /inside/list workspace
			}
			encode {
				gzip
				minimum_length 1
			}
			reverse_proxy API
		}
	}
	handle /open/* {
		api_key {
			namespace home
			optional
			foreign pass
			public  /open/public
			list GET /open/list workspace
			list GET /open/public workspace
		}
		reverse_proxy API
	}
	handle /errors/* {
		api_key {
			namespace home
			errors caddy
			list GET /errors/list workspace
		}
		reverse_proxy API
	}
	handle /twice/* {
		api_key {
			namespace home
		}
		route {
			api_key {
				namespace home
				list GET /twice/list workspace
			}
			reverse_proxy API
		}
	}
	handle /static/* {
		api_key {
			namespace home
			list GET /static/* workspace
		}
		header /static/list Content-Type application/json
		respond /static/list `+"`[\"acme\",\"globex\"]`"+`
		header /static/text Content-Type text/plain
		respond /static/text `+"`[\"acme\",\"globex\"]`"+`
		abort /static/abort
	}
	handle_errors {
		respond "handled {err.status_code}"
	}
`, "API", a.address)
}

// head is the head of a response; lines are further header lines.
func head(status int, lines ...string) string {
	text := fmt.Sprintf("HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	for _, line := range lines {
		text += line + "\r\n"
	}
	return text + "\r\n"
}

const (
	isJSON  = "Content-Type: application/json"
	isGzip  = "Content-Encoding: gzip"
	chunked = "Transfer-Encoding: chunked"
)

// whole is a complete response with a Content-Length.
func whole(body string, lines ...string) string {
	return head(200, append(lines, "Content-Length: "+strconv.Itoa(len(body)))...) + body
}

func zip(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

// long exceeds all buffers between the API and the client.
var long = `["acme",` + strings.Repeat(`"globex","acme",`, 20_000)

func (w world) answers(t *testing.T) {
	const both, own = `["acme","globex"]`, `["acme"]`
	nested := `{"data":` + both + `,"n":2}`
	rows := []struct {
		what   string
		target string // "" is GET /plain/list
		answer string
		want   string // the status and the body; "cut" is a truncated body
	}{
		{"an array", "", whole(both, isJSON), "200 " + own},
		{"of objects", "", whole(`[{"id":"globex","secret":1},{"id":"acme"}]`, isJSON),
			`200 [{"id":"acme"}]`},
		{"chunked", "", head(200, isJSON, chunked) +
			"3\r\n[\"a\r\ne\r\ncme\",\"globex\"]\r\n0\r\n\r\n", "200 " + own},
		{"chunk extensions", "", head(200, isJSON, chunked) + "11;x=\"]\"\r\n" + both +
			"\r\n0;y\r\n\r\n", "200 " + own},
		{"delimited by the end of the connection", "", head(200, isJSON) + both, "200 " + own},
		{"nested", "GET /plain/data", whole(nested, isJSON), `200 {"data":["acme"],"n":2}`},
		{"nested further", "GET /plain/deep",
			whole(`{"data":{"items":[{"meta":{"id":"globex"}},{"meta":{"id":"acme"}}]}}`, isJSON),
			`200 {"data":{"items":[{"meta":{"id":"acme"}}]}}`},
		{"a POST that searches", "POST /plain/search", whole(both, isJSON), "200 " + own},
		{"namespaces of another kind", "GET /plain/apps", whole(`["acme","globex","shop"]`, isJSON),
			"200 []"},
		{"namespaces that do not exist", "", whole(`["nowhere","*","default","home","",null]`,
			isJSON), "200 []"},
		{"another spelling of the path", "GET /Plain/%6cist/", whole(both, isJSON), "200 " + own},
		{"with a query", "GET /plain/list?limit=1000", whole(both, isJSON), "200 " + own},
		{"encode before api_key", "GET /encoded/list", whole(both, isJSON), "200 " + own},
		{"encode after api_key", "GET /inside/list", whole(both, isJSON), "200 " + own},
		{"filtered by the second handler", "GET /twice/list", whole(both, isJSON), "200 " + own},
		{"from Caddy itself", "GET /static/list", "", "200 " + own},
		{"from Caddy itself, text", "GET /static/text", "", "502"},
		{"another call", "GET /plain/other", whole(both, isJSON), "200 " + both},
		{"with parameters", "", whole(both, `Content-Type: Application/JSON ; charset="UTF-8"`),
			"200 " + own},
		{"with UTF-8 misspelt", "", whole(both, isJSON+"; charset=utf8"), "200 " + own},
		{"a +json type", "",
			whole(both, "Content-Type: application/vnd.api+json;profile=x"), "200 " + own},
		{"created", "POST /plain/search",
			strings.Replace(whole(both, isJSON), "200 OK", "201 Created", 1), "201 " + own},
		{"not authoritative", "", strings.Replace(whole(both, isJSON), "200", "203", 1),
			"203 " + own},
		{"another success", "", strings.Replace(whole(both, isJSON), "200", "299", 1),
			"299 " + own},
		{"after an early hint", "",
			"HTTP/1.1 103 Early Hints\r\nLink: </v1/workspaces/globex>\r\n\r\n" +
				whole(both, isJSON), "200 " + own},
		{"trailers", "", head(200, isJSON, chunked, "Trailer: Names") + "11\r\n" + both +
			"\r\n0\r\nNames: globex\r\nUnannounced: globex\r\n\r\n", "200 " + own},

		{"gzip", "", whole(zip(both), isJSON, isGzip), "200 " + own},
		{"gzip under its old name", "", whole(zip(both), isJSON, "Content-Encoding: X-GZIP"),
			"200 " + own},
		{"gzip in two parts", "", whole(zip(`["acme",`)+zip(`"globex"]`), isJSON, isGzip),
			"200 " + own},
		{"gzip behind encode", "GET /encoded/list", whole(zip(both), isJSON, isGzip), "200 " + own},
		{"gzip, cut", "", whole(zip(both)[:30], isJSON, isGzip), "502"},
		{"gzip with a wrong checksum", "", whole(zip(both)[:len(zip(both))-8]+"12345678", isJSON,
			isGzip), "502"},
		{"gzip with trailing data", "", whole(zip(both)+"globex", isJSON, isGzip), "502"},
		{"gzip announced, not gzip", "", whole(both, isJSON, isGzip), "502"},
		{"gzip not announced", "", whole(zip(both), isJSON), "502"},
		{"gzip twice", "", whole(zip(zip(both)), isJSON, "Content-Encoding: gzip, gzip"), "502"},
		{"identity and gzip", "", whole(zip(both), isJSON, "Content-Encoding: identity, gzip"),
			"502"},
		{"two lines of encoding", "", whole(both, isJSON, "Content-Encoding: identity",
			"Content-Encoding: gzip"), "502"},
		{"identity", "", whole(both, isJSON, "Content-Encoding: identity"), "200 " + own},
		{"brotli", "", whole(both, isJSON, "Content-Encoding: br"), "502"},
		{"gzip, empty", "", whole("", isJSON, isGzip), "502"},
		{"a gzip bomb", "", whole(zip(`["acme",`+strings.Repeat(" ", 16<<20)+`"globex"]`),
			isJSON, isGzip), "200 " + own},

		{"another shape", "", whole(nested, isJSON), "502"},
		{"another shape, long", "", whole(`{"x":`+long+`1]}`, isJSON), "502"},
		{"another name for the array, long", "GET /plain/data",
			whole(`{"results":`+long+`1]}`, isJSON), "502"},
		{"another name for the array, very long", "GET /plain/data",
			whole(`{"results":`+long+strings.Repeat(long[1:], 10), isJSON), "502"},
		{"an object for the array, after a long text", "GET /plain/data",
			whole(`{"x":`+long+`1],"data":{}}`, isJSON), "502"},
		{"the array twice", "GET /plain/data", whole(`{"data":["acme"],"data":["globex"]}`, isJSON),
			"502"},
		{"the array twice, its name escaped", "GET /plain/data",
			whole(`{"data":["acme"],"d\u0061ta":["globex"]}`, isJSON), "502"},
		{"the array twice, in another case", "GET /plain/data",
			whole(`{"data":["acme"],"Data":["globex"]}`, isJSON), "502"},
		{"the array twice, and long", "GET /plain/data",
			whole(`{"data":`+long+`"acme"],"data":["globex"]}`, isJSON), "cut"},
		{"the id twice", "", whole(`[{"id":"acme","id":"globex"},"acme"]`, isJSON), "200 " + own},
		{"the id twice, escaped", "", whole(`[{"id":"acme","\u0069d":"globex"},"acme"]`, isJSON),
			"200 " + own},
		{"the id in two cases", "", whole(`[{"id":"acme","ID":"globex"},"acme"]`, isJSON),
			"200 " + own},
		{"ids that differ in case, width and accents", "",
			whole(`["Acme","ａｃｍｅ","acme\u0301","a\u0000cme","acme\u200d"]`, isJSON), "200 []"},
		{"a number", "", whole(`[42,42.0]`, isJSON), "200 []"},
		{"two texts", "", whole(own+both, isJSON), "502"},
		{"two lines", "", whole(own+"\n"+both+"\n", isJSON), "502"},
		{"two long texts", "", whole(long+`1]`+both, isJSON), "cut"},
		{"a byte order mark", "", whole("\ufeff"+both, isJSON), "502"},
		{"UTF-16", "", whole("[\x00\"\x00", isJSON), "502"},
		{"not UTF-8", "", whole("[\"acme\xff\"]", isJSON), "502"},
		{"HTML announced as JSON", "", whole("<html>globex", isJSON), "502"},
		{"HTML", "", whole("<html>globex", "Content-Type: text/html"), "502"},
		{"JSON announced as HTML", "", whole(both, "Content-Type: text/html"), "502"},
		{"JSON announced as JavaScript", "", whole(both, "Content-Type: text/javascript"), "502"},
		{"two types", "", whole(both, isJSON, "Content-Type: text/html"), "502"},
		{"two types in a line", "", whole(both, isJSON+", text/html"), "502"},
		{"no type", "", whole(both), "502"},
		{"another charset", "", whole(both, isJSON+"; charset=utf-7"), "502"},
		{"a multipart", "", whole("--b\r\n\r\n"+both+"\r\n--b--",
			"Content-Type: multipart/mixed; boundary=b"), "502"},
		{"a sequence", "", whole("\x1e"+both, "Content-Type: application/json-seq"), "502"},
		{"events", "", whole("data: "+both+"\n\n", "Content-Type: text/event-stream"), "502"},
		{"nothing", "", whole("", isJSON), "502"},
		{"shorter than its length", "", head(200, isJSON, "Content-Length: 100") + both[:12],
			"cut"},
		{"shorter than its length, after the end", "", head(200, isJSON,
			"Content-Length: 100") + both, "cut"},
		{"shorter than its length, before the array", "",
			head(200, isJSON, "Content-Length: 100") + "\n", "502"},
		{"longer than its length", "", head(200, isJSON, "Content-Length: 8") + both, "502"},
		{"chunks that end early", "", head(200, isJSON, chunked) + "11\r\n" + both + "\r\n", "cut"},
		{"long, and ends early", "", head(200, isJSON, chunked) + fmt.Sprintf("%x\r\n%s\r\n",
			len(long), long), "cut"},
		{"long, and has no end", "", whole(long, isJSON), "cut"},
		{"long, and turns into something else", "", whole(long+"<html>", isJSON), "cut"},
		{"long, delimited by the end of the connection", "", head(200, isJSON) + long, "cut"},
		{"gzip, long and cut", "", head(200, isJSON,
			isGzip) + zip(strings.Repeat(long[1:], 20))[:2000], "502"},
		{"an error that goes to the error routes", "GET /errors/list", whole(nested, isJSON),
			"502 handled 502"},
		{"an empty response from Caddy", "GET /static/nothing", "", "502"},
		{"no response", "", "", "502 handled 502"},
		{"an aborted response", "GET /static/abort", "", "none"},

		{"a range", "", head(206, isJSON, "Content-Range: bytes 0-16/99",
			"Content-Length: 17") + both, "502"},
		{"a range without a name", "", whole(both, isJSON, "Content-Range: bytes 0-16/99"),
			"200 " + own},
		{"not modified", "", head(304, `ETag: "x"`), "502"},
		{"a delta", "", strings.Replace(whole(both, isJSON), "200 OK", "226 IM Used", 1), "502"},
		{"reset", "", head(205, "Content-Length: 0"), "502"},
		{"a tunnel", "", head(101, "Connection: Upgrade", "Upgrade: websocket") + both, "502"},
		{"no content", "", head(204, isJSON), "204"},
		{"a redirect", "", head(302, "Location: /plain/other", "Content-Length: 6") + "globex",
			"302"},
		{"choices", "", strings.Replace(whole(both, isJSON), "200 OK", "300 Multiple Choices", 1),
			"300"},
		{"an error", "", strings.Replace(whole(both, isJSON, `ETag: "globex"`), "200 OK",
			"400 Bad Request", 1), "400 upstream_error"},
		{"an error of the API", "", strings.Replace(whole(both, isJSON), "200 OK", "500 Oh", 1),
			"500 upstream_error"},
		{"an error, compressed", "", strings.Replace(whole(zip(both), isGzip), "200 OK",
			"404 Not Found", 1), "404 upstream_error"},
		{"an error, cut", "", head(503, isJSON, "Retry-After: 7", "Content-Length: 100") + both,
			"503 upstream_error"},
		{"an unknown status", "", strings.Replace(whole(both, isJSON), "200 OK", "999 Globex", 1),
			"502"},
	}
	for _, row := range rows {
		w.answer(func(conn net.Conn, _ *http.Request) { io.WriteString(conn, row.answer) })
		for _, protocol := range gate.Protocols {
			t.Run(fmt.Sprintf("%v/%s", protocol, row.what), func(t *testing.T) {
				method, target, _ := strings.Cut(row.target, " ")
				if row.target == "" {
					method, target = "GET", "/plain/list"
				}
				r := gate.Request{Protocol: protocol, Method: method, Target: target,
					Header: []string{"authorization: Bearer " + string(w.token),
						"accept-encoding: gzip"}}
				judge(t, row.want, w.Do(t, r), target != "/plain/other")
				if method == "GET" && row.want != "none" {
					r.Method = "HEAD"
					if got := w.Do(t, r); len(got.Body) != 0 || got.Header.Get("Etag") != "" ||
						got.Header.Get("Content-Encoding") != "" ||
						got.Header.Get("Content-Length") == "17" && target != "/plain/other" {
						t.Errorf("HEAD: %v", got)
					}
				}
			})
		}
	}
	for _, line := range strings.Split(w.Output(), "\n") {
		if strings.Contains(line, "cannot be filtered") &&
			strings.Contains(strings.ToLower(line), "globex") {
			t.Errorf("the log contains part of a response: %s", line)
		}
	}
	for _, cause := range []string{"a name on the path to the array occurs twice",
		"unsupported Content-Type", "unsupported status 206", "unexpected end of the JSON text"} {
		if !strings.Contains(w.Output(), cause) {
			t.Errorf("the log has no line that says %q", cause)
		}
	}
}

func judge(t *testing.T, want string, got gate.Response, filtered bool) {
	t.Helper()
	body := string(got.Body)
	if got.Header.Get("Content-Encoding") == "gzip" {
		if r, err := gzip.NewReader(bytes.NewReader(got.Body)); err == nil {
			text, err := io.ReadAll(r)
			if body = string(text); err != nil && got.Err == nil {
				t.Errorf("gzip: %v", err)
			}
		}
	}
	if filtered && strings.Contains(strings.ToLower(fmt.Sprint(got.Header, got.Trailer, body)),
		"globex") {
		t.Errorf("the response shows globex: %v", got)
	}
	status, text, _ := strings.Cut(want, " ")
	switch status {
	case "none":
		if got.Status != 0 || got.Err == nil {
			t.Errorf("want no response, got %v", got)
		}
		return
	case "cut":
		if got.Err == nil || strings.HasSuffix(body, "]") || strings.HasSuffix(body, "}") {
			t.Errorf("the response looks complete: error %v, the end of the body %s", got.Err,
				body[max(0, len(body)-100):])
		}
		return
	}
	if strconv.Itoa(got.Status) != status || got.Err != nil {
		t.Fatalf("want %s, got %v", want, got)
	}
	switch {
	case status == "502" && text == "":
		if got.Code() != "unfilterable_answer" {
			t.Errorf("not the problem document: %v", got)
		}
	case strings.HasSuffix(status, "04"), strings.HasPrefix(status, "3"):
		if body != "" && status != "404" {
			t.Errorf("want no body, got %v", got)
		}
	case text == "upstream_error":
		if got.Code() != text {
			t.Errorf("not the problem document: %v", got)
		}
	case body != text:
		t.Errorf("got %s, want %s", body, text)
	case filtered && status[0] == '2' && got.Header.Get("Cache-Control") != "no-store":
		t.Errorf("want a response that caches do not store: %v", got.Header)
	}
}

package realinput

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// patience limits one step of a stream, so that a test fails instead of hanging.
const patience = 30 * time.Second

// block is the content of generated streams. Each copy contains its number, so that a lost,
// repeated or moved copy changes the checksum.
var block = func() []byte {
	b := make([]byte, 64<<10)
	rand.Read(b)
	return b
}()

// generated is a reader of size bytes: numbered copies of block.
type generated struct {
	size, at int64
	sum      hash.Hash32
	block    []byte
}

func generate(size int64) *generated {
	return &generated{size: size, sum: newSum(), block: bytes.Clone(block)}
}

func newSum() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

func (g *generated) Read(p []byte) (int, error) {
	if g.at == g.size {
		return 0, io.EOF
	}
	within := g.at % int64(len(g.block))
	if within == 0 {
		binary.BigEndian.PutUint64(g.block, uint64(g.at))
	}
	n := copy(p, g.block[within:min(int64(len(g.block)), within+g.size-g.at)])
	g.at += int64(n)
	g.sum.Write(p[:n])
	return n, nil
}

// received says what has arrived of a stream. It is the upstream's response to an upload.
type received struct {
	Bytes int64  `json:"bytes"`
	Sum   uint32 `json:"sum"`
}

func receive(r io.Reader) (received, error) {
	sum := newSum()
	n, err := io.CopyBuffer(sum, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return received{n, sum.Sum32()}, err
}

// streams is the upstream. /download?bytes=N has its checksum in a trailer, /upload returns the
// size and checksum it received, /events sends the events of the test, and /ws echoes.
func streams(t *testing.T) (server *httptest.Server, events chan string) {
	events = make(chan string)
	mux := http.NewServeMux()
	mux.HandleFunc("/download", func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
		from := generate(size)
		w.Header().Set("Trailer", "Sum")
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		}
		io.Copy(w, struct{ io.Reader }{from})
		w.Header().Set("Sum", fmt.Sprint(from.sum.Sum32()))
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		got, err := receive(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		json.NewEncoder(w).Encode(got)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		flusher := http.NewResponseController(w)
		flusher.Flush()
		for {
			select {
			case event := <-events:
				fmt.Fprintf(w, "data: %s\n\n", event)
				flusher.Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"echo"}})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		// net/http cancels the context of a hijacked request
		ctx := context.WithoutCancel(r.Context())
		for {
			kind, message, err := c.Read(ctx)
			if err != nil || c.Write(ctx, kind, message) != nil {
				return
			}
			if string(message) == "bye" {
				c.Close(4321, "as you wish")
				return
			}
		}
	})
	server = httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server, events
}

func startStreams(t *testing.T) (g *gate.Gate, token gate.Token, events chan string) {
	t.Helper()
	upstream, events := streams(t)
	g = gate.Start(t, gate.Config{Env: gate.DefaultGC, Site: "api_key\nreverse_proxy " +
		strings.TrimPrefix(upstream.URL, "http://")})
	return g, g.Mint(t, gate.JSON{"name": "streams", "access": "read_write"}).Token, events
}

func request(
	t *testing.T, ctx context.Context, method, url string, token gate.Token, body io.Reader,
) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+string(token))
	return r
}

// TestEvents checks that events are not buffered: the upstream sends each event only after the
// client has received the previous one.
func TestEvents(t *testing.T) {
	t.Parallel()
	g, token, events := startStreams(t)
	for _, protocol := range gate.Protocols {
		client, url := g.Client(t, protocol)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		answer, err := client.Do(request(t, ctx, "GET", url+"/events", token, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		lines := bufio.NewReader(answer.Body)
		for i := range 100 {
			select {
			case events <- fmt.Sprint("event ", i):
			case <-ctx.Done():
				t.Fatalf("%v: the upstream does not send event %d", protocol, i)
			}
			want := fmt.Sprintf("data: event %d\n", i)
			line, err := lines.ReadString('\n')
			if err != nil || line != want {
				t.Fatalf("%v: want %q, got %q, %v", protocol, want, line, err)
			}
			lines.ReadString('\n')
		}
		cancel()
	}
}

// TestBulk checks that large bodies arrive complete and that Caddy does not keep them in memory.
func TestBulk(t *testing.T) {
	t.Parallel()
	g, token, _ := startStreams(t)
	// The race detector multiplies the memory. The smallest stream is twice as large.
	const bound = 64 << 20
	for _, row := range []struct {
		name     string
		protocol gate.Protocol
		method   string
		path     string
		size     int64
		unsized  bool // chunked
	}{
		{"download", gate.HTTP1, "GET", "/download?length&bytes=", 1 << 30, false},
		{"download without a length", gate.HTTP1, "GET", "/download?bytes=", 128 << 20, true},
		{"download over HTTP/2", gate.HTTP2, "GET", "/download?length&bytes=", 128 << 20, false},
		{"upload", gate.HTTP1, "POST", "/upload?", 200 << 20, false},
		{"upload without a length", gate.HTTP1, "POST", "/upload?", 128 << 20, true},
		{"upload over HTTP/2", gate.HTTP2, "POST", "/upload?", 200 << 20, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			client, url := g.Client(t, row.protocol)
			before := resident(t, g.Pid(), "VmRSS")
			forgetPeak(t, g.Pid())

			var body io.Reader
			sent := generate(row.size)
			if row.method == "POST" {
				body = sent
			}
			r := request(t, ctx, row.method, url+row.path+fmt.Sprint(row.size), token, body)
			if body != nil && !row.unsized {
				r.ContentLength = row.size
			}
			answer, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			var got received
			if row.method == "POST" {
				err = json.NewDecoder(answer.Body).Decode(&got)
			} else {
				got, err = receive(answer.Body)
				if want := map[bool]int64{false: row.size,
					true: -1}[row.unsized]; answer.ContentLength != want {
					t.Errorf("Content-Length is %d, want %d", answer.ContentLength, want)
				}
				io.Copy(io.Discard, sent) // the upstream's copy of a download
			}
			if want := (received{row.size, sent.sum.Sum32()}); err != nil ||
				answer.StatusCode != 200 || got != want {
				t.Errorf("status %d, %+v, %v; want %+v", answer.StatusCode, got, err, want)
			}
			if row.unsized && row.method == "GET" &&
				answer.Trailer.Get("Sum") != fmt.Sprint(got.Sum) {
				t.Errorf("trailer %v, want the sum %d", answer.Trailer, got.Sum)
			}
			if peak := resident(t, g.Pid(), "VmHWM"); peak > before+bound {
				t.Errorf("Caddy used up to %d MiB, %d MiB before", peak>>20, before>>20)
			}
		})
	}
}

// resident returns a line of /proc/PID/status in bytes.
func resident(t *testing.T, pid int, line string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(line + `:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Fatalf("no %s in /proc/%d/status", line, pid)
	}
	kilobytes, _ := strconv.ParseInt(string(found[1]), 10, 64)
	return kilobytes << 10
}

// forgetPeak resets VmHWM (proc(5), clear_refs).
func forgetPeak(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	g, token, _ := startStreams(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dial := func(url string, token gate.Token) (*websocket.Conn, *http.Response, error) {
		return websocket.Dial(ctx, url+"/ws",
			&websocket.DialOptions{Subprotocols: []string{"echo"},
				HTTPHeader: http.Header{"Authorization": {"Bearer " + string(token)}}})
	}
	c, answer, err := dial(g.URL, token)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	if got := c.Subprotocol(); answer.StatusCode != 101 || got != "echo" {
		t.Errorf("status %d, subprotocol %q", answer.StatusCode, got)
	}
	c.SetReadLimit(-1)
	for _, message := range []struct {
		kind websocket.MessageType
		data []byte
	}{
		{websocket.MessageText, []byte("hello")},
		{websocket.MessageText, nil},
		{websocket.MessageBinary, block},
		{websocket.MessageBinary, bytes.Repeat(block, 64)},
		{websocket.MessageText, []byte("bye")},
	} {
		written := make(chan error, 1)
		go func() { written <- c.Write(ctx, message.kind, message.data) }()
		kind, data, err := c.Read(ctx)
		if err != nil || <-written != nil || kind != message.kind ||
			!bytes.Equal(data, message.data) {
			t.Fatalf("sent %v of %d bytes, received %v of %d bytes, %v", message.kind,
				len(message.data), kind, len(data), err)
		}
	}
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != 4321 {
		t.Errorf("want the close code 4321, got %v", err)
	}
	if _, answer, err := dial(g.URL, "ak_nothing"); err == nil || answer.StatusCode != 401 {
		t.Errorf("without a key: %v", err)
	}
}

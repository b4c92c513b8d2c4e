package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Reached is the one request that the upstream received on a connection. Wire is set as soon as the
// first byte arrives, and the other fields when net/http has read the request.
type Reached struct {
	Wire    string // the first 256 KiB
	Method  string
	Target  string // as in the request line
	Host    string
	Header  http.Header
	Body    string
	Trailer http.Header
}

// Upstream is a server that records requests. The last segment of the path chooses the response:
//
//	sse       server-sent events until the client disconnects, one every 5 ms,
//	          with the time of sending in Unix nanoseconds as data
//	ws        a WebSocket that echoes
//	download  ?bytes=N bytes
//	hold      no response until the client disconnects
//	status    ?code=N
//	others    200 and the request as JSON: method, target, host, header, body
//
// The upstream accepts every Upgrade, so that a test notices if one gets through.
type Upstream struct {
	Addr string // host:port
	URL  string

	mu      sync.Mutex
	reached []*Reached
	running map[string]int // requests in progress, by X-Apikey-Id
}

// NewUpstream starts an upstream that serves until the test ends.
func NewUpstream(t testing.TB) *Upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &Upstream{Addr: l.Addr().String(), URL: "http://" + l.Addr().String(),
		running: map[string]int{}}
	stop, cancel := context.WithCancel(context.Background())
	s := &http.Server{
		Handler:     u,
		BaseContext: func(net.Listener) context.Context { return stop },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	s.SetKeepAlivesEnabled(false)
	go s.Serve(recorder{l, u})
	t.Cleanup(func() {
		cancel()
		s.Close()
	})
	return u
}

// Take returns what has reached the upstream since the last Take.
func (u *Upstream) Take() []Reached {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := make([]Reached, len(u.reached))
	for i, r := range u.reached {
		taken[i] = *r
	}
	u.reached = nil
	return taken
}

// Running returns how many requests of a key are in progress, including WebSockets.
func (u *Upstream) Running(id string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.running[id]
}

func (u *Upstream) run(id string, change int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.running[id] += change
}

type connKey struct{}

type recorder struct {
	net.Listener
	u *Upstream
}

func (l recorder) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &recordedConn{Conn: c, u: l.u}, nil
}

type recordedConn struct {
	net.Conn
	u    *Upstream
	seen *Reached // nil until the first byte; guarded by u.mu
}

func (c *recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.u.mu.Lock()
		defer c.u.mu.Unlock()
		if c.seen == nil {
			c.seen = &Reached{}
			c.u.reached = append(c.u.reached, c.seen)
		}
		if room := 256<<10 - len(c.seen.Wire); room > 0 {
			c.seen.Wire += string(p[:min(n, room)])
		}
	}
	return n, err
}

func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn := r.Context().Value(connKey{}).(*recordedConn)
	u.mu.Lock()
	conn.seen.Method, conn.seen.Target = r.Method, r.RequestURI
	conn.seen.Host, conn.seen.Header = r.Host, r.Header.Clone()
	u.mu.Unlock()
	id := r.Header.Get("X-Apikey-Id")
	u.run(id, +1)
	defer u.run(id, -1)

	switch base := path.Base(r.URL.Path); {
	case base == "ws" && r.Header.Get("Upgrade") == "websocket":
		echoWebSocket(w, r)
		return
	case r.Header.Get("Upgrade") != "":
		tunnel(w, r)
		return
	case base == "sse":
		sendEvents(w, r)
		return
	case base == "hold":
		<-r.Context().Done()
		return
	case base == "download":
		n, _ := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.CopyN(w, zeros{}, n)
		return
	}

	body, _ := io.ReadAll(r.Body) // a truncated body is recorded as far as it was received
	u.mu.Lock()
	conn.seen.Body, conn.seen.Trailer = string(body), r.Trailer.Clone()
	u.mu.Unlock()
	status := http.StatusOK
	if path.Base(r.URL.Path) == "status" {
		status, _ = strconv.Atoi(r.URL.Query().Get("code"))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(JSON{"method": r.Method, "target": r.RequestURI, "host": r.Host,
		"header": r.Header, "body": string(body)})
}

func echoWebSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	ctx := context.WithoutCancel(r.Context()) // net/http cancels the context of a hijacked request
	for {
		kind, message, err := c.Read(ctx)
		if err != nil {
			return
		}
		if c.Write(ctx, kind, message) != nil {
			return
		}
	}
}

func tunnel(w http.ResponseWriter, r *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn,
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n",
		r.Header.Get("Upgrade"))
	io.Copy(io.Discard, conn)
}

func sendEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := http.NewResponseController(w)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := fmt.Fprintf(w, "data: %d\n\n", time.Now().UnixNano()); err != nil ||
			flusher.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

package adversarial

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
	"github.com/coder/websocket"
)

// stream is a request of a key that does not end by itself.
type stream struct {
	what  string
	ended chan struct{}
	// last is when the upstream sent the last event that was received. Read it after ended.
	last time.Time
}

// open starts one stream of each kind over each HTTP version, and a WebSocket over HTTP/1.1. It
// returns when all are running. Downloads stall until killed is closed.
func open(t *testing.T, g *gate.Gate, k gate.Key, killed <-chan struct{}) []*stream {
	t.Helper()
	var streams []*stream
	add := func(what string, until func(*stream)) {
		s := &stream{what: what, ended: make(chan struct{})}
		streams = append(streams, s)
		go func() {
			defer close(s.ended)
			until(s)
		}()
	}
	running := func() {
		t.Helper()
		gate.Until(t, streams[len(streams)-1].what+" runs",
			func() bool { return g.Upstream.Running(k.ID) == len(streams) })
	}
	for _, protocol := range []gate.Protocol{gate.HTTP1, gate.HTTP2, gate.HTTP3} {
		client, url := g.Client(t, protocol)
		request := func(method, target string, body io.Reader) *http.Response {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), method, url+target, body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+string(k.Token))
			response, err := client.Do(r)
			if err != nil || response.StatusCode != 200 || response.ProtoMajor != int(protocol)+1 {
				t.Fatalf("%v %s %s: %v, %v", protocol, method, target, response, err)
			}
			return response
		}

		events := request("GET", "/v1/items/sse", nil)
		started := make(chan struct{})
		add(fmt.Sprint("events over ", protocol), func(s *stream) {
			lines := bufio.NewScanner(events.Body)
			for first := true; lines.Scan(); {
				if nanos, is := strings.CutPrefix(lines.Text(), "data: "); is {
					n, _ := strconv.ParseInt(nanos, 10, 64)
					s.last = time.Unix(0, n)
					if first {
						close(started)
						first = false
					}
				}
			}
		})
		<-started

		download := request("GET", "/v1/items/download?bytes=1000000000000", nil)
		if _, err := io.ReadFull(download.Body, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		add(fmt.Sprint("download over ", protocol), func(*stream) {
			// Until then the proxy blocks in a write. Data that it has sent is still readable.
			<-killed
			io.Copy(io.Discard, download.Body)
		})

		add(fmt.Sprint("a request without a response over ", protocol), func(*stream) {
			r, _ := http.NewRequestWithContext(t.Context(), "GET", url+"/v1/items/hold", nil)
			r.Header.Set("Authorization", "Bearer "+string(k.Token))
			if response, err := client.Do(r); err == nil {
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
		})
		running()

		body, upload := io.Pipe()
		add(fmt.Sprint("upload over ", protocol), func(*stream) {
			r, _ := http.NewRequestWithContext(t.Context(), "PUT", url+"/v1/items/upload", body)
			r.Header.Set("Authorization", "Bearer "+string(k.Token))
			if response, err := client.Do(r); err == nil {
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
			body.Close()
		})
		go func() { // the client notices that the connection is closed when it writes
			for tick := time.Tick(5 * time.Millisecond); ; <-tick {
				if _, err := upload.Write([]byte("more")); err != nil {
					return
				}
			}
		}()
		running()
		t.Cleanup(func() { upload.Close() })
	}

	c, _, err := websocket.Dial(t.Context(), g.URL+"/v1/items/ws",
		&websocket.DialOptions{HTTPHeader: http.Header{"X-Api-Key": {string(k.Token)}}})
	if err != nil {
		t.Fatal("opening a WebSocket failed") // the error may quote the request
	}
	t.Cleanup(func() { c.CloseNow() })
	c.Write(t.Context(), websocket.MessageText, []byte("hello"))
	if _, message, err := c.Read(t.Context()); string(message) != "hello" {
		t.Fatalf("WebSocket: %q, %v", message, err)
	}
	add("an idle WebSocket", func(*stream) { c.Read(context.Background()) })
	return streams
}

// TestCut checks that a change that makes a key invalid cuts the key's running requests before it
// returns.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what string
		kill func(t *testing.T, w world, id string)
	}{
		{"revoke", func(t *testing.T, w world, id string) { w.Revoke(t, id) }},
		{"inactivate", func(t *testing.T, w world,
			id string) {
			w.Patch(t, id, gate.JSON{"active": false})
		}},
		{"rotate", func(t *testing.T, w world, id string) { w.Rotate(t, id, "0s") }},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := start(t, gate.Config{APIKey: operations, HTTP3: true})
			items := gate.JSON{"permissions": []string{"items:*"}}
			k, other := w.mint(t, "K", items), w.mint(t, "Other", items)
			killed := make(chan struct{})
			cut, kept := open(t, w.Gate, k, killed), open(t, w.Gate, other, nil)
			before := time.Now()
			c.kill(t, w, k.ID)
			after := time.Now()
			close(killed)
			mustEnd(t, cut, after, 2*time.Second)
			gate.Until(t, "the upstream has no request of the key",
				func() bool { return w.Upstream.Running(k.ID) == 0 })
			t.Logf("the change returned after %v, and all clients saw the cut after %v",
				after.Sub(before), time.Since(before))
			for _, s := range kept {
				select {
				case <-s.ended:
					t.Errorf("%s of another key was cut too", s.what)
				default:
				}
			}
		})
	}
}

// TestCutAtExpiry checks that running requests are cut when their key expires.
func TestCutAtExpiry(t *testing.T) {
	t.Parallel()
	w := start(t, gate.Config{APIKey: operations, HTTP3: true})
	expires := time.Now().Add(5 * time.Second).Truncate(time.Millisecond)
	k := w.mint(t, "K", gate.JSON{"permissions": []string{"items:*"},
		"expires_at": expires.UTC().Format(time.RFC3339Nano)})
	expired := make(chan struct{})
	streams := open(t, w.Gate, k, expired)
	if !time.Now().Before(expires) {
		t.Fatal("this machine is too slow to open the streams before the key expires")
	}
	time.AfterFunc(time.Until(expires)+time.Second, func() { close(expired) })
	mustEnd(t, streams, expires.Add(time.Second), time.Until(expires)+3*time.Second)
	gate.Until(t, "the upstream has no request of the key",
		func() bool { return w.Upstream.Running(k.ID) == 0 })
}

// mustEnd checks that all streams end within a time and deliver no event sent after `last`. Clients
// see the end a little later than the server.
func mustEnd(t *testing.T, streams []*stream, last time.Time, within time.Duration) {
	t.Helper()
	over, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for _, s := range streams {
		select {
		case <-s.ended:
			if s.last.After(last) {
				t.Errorf("%s: received an event sent %v too late", s.what, s.last.Sub(last))
			}
			continue
		case <-over.Done():
		}
		select {
		case <-s.ended:
		default:
			t.Errorf("%s is still open", s.what)
		}
	}
}

package lists

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func get(t *testing.T, url string, token gate.Token, lines ...string) *http.Request {
	t.Helper()
	// so that a test fails instead of hanging
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+string(token))
	}
	return r
}

// slow checks that lists are not buffered: the client receives each element before the API sends
// the next.
func (w world) slow(t *testing.T) {
	more := make(chan string)
	w.answer(func(conn net.Conn, _ *http.Request) {
		io.WriteString(conn, head(200, isJSON, chunked))
		for part := range more {
			fmt.Fprintf(conn, "%x\r\n%s\r\n", len(part), part)
			if part == "" {
				io.WriteString(conn, "\r\n")
				return
			}
		}
	})
	for _, protocol := range []gate.Protocol{gate.HTTP1, gate.HTTP2, gate.HTTP3} {
		client, url := w.Client(t, protocol)
		go func() { more <- `{"data":[{"id":"globex"},` }()
		answer, err := client.Do(get(t, url+"/plain/data", w.token))
		if err != nil {
			t.Fatalf("%v: %v", protocol, err)
		}
		got, in := "", bufio.NewReader(answer.Body)
		upTo := func(want string) {
			t.Helper()
			for !strings.HasSuffix(got, want) {
				b, err := in.ReadByte()
				if err != nil {
					t.Fatalf("%v: after %s: %v", protocol, got, err)
				}
				got += string(b)
			}
		}
		upTo(`[`)
		more <- `{"id":"acme","n":1}`
		upTo(`{"id":"acme","n":1}`)
		more <- `, {"id":"globex"}, {"id":"acme",`
		more <- `"n":2}`
		upTo(`,{"id":"acme","n":2}`)
		more <- `],"n":3}`
		upTo(`],"n":3`)
		more <- ""
		rest, err := io.ReadAll(in)
		if got += string(rest); err != nil ||
			got != `{"data":[{"id":"acme","n":1},{"id":"acme","n":2}],"n":3}` {
			t.Errorf("%v: %s, %v", protocol, got, err)
		}
		answer.Body.Close()
	}
	close(more)
}

// cut checks that a revoke cuts a running response.
func (w world) cut(t *testing.T) {
	w.answer(func(conn net.Conn, _ *http.Request) {
		io.WriteString(conn, head(200, isJSON, chunked)+"9\r\n[\"acme\",\n\r\n")
		io.Copy(io.Discard, conn)
	})
	for _, protocol := range []gate.Protocol{gate.HTTP1, gate.HTTP2, gate.HTTP3} {
		k := w.Mint(t, gate.JSON{"name": "short", "namespace": "acme", "access": "read_only"})
		client, url := w.Client(t, protocol)
		answer, err := client.Do(get(t, url+"/plain/list", k.Token))
		if err != nil {
			t.Fatalf("%v: %v", protocol, err)
		}
		first := make([]byte, len(`["acme"`))
		if _, err := io.ReadFull(answer.Body, first); err != nil {
			t.Fatalf("%v: %v", protocol, err)
		}
		w.Revoke(t, k.ID)
		if rest, err := io.ReadAll(answer.Body); err == nil || len(rest) > 0 {
			t.Errorf("%v: not cut: %q, %v", protocol, rest, err)
		}
		answer.Body.Close()
	}
}

// page returns 1000 elements of 1 KB each, with a comma before each and without brackets.
func page() string {
	var page strings.Builder
	for i := range 1000 {
		id := "globex"
		if i%10 == 0 {
			id = "acme"
		}
		fmt.Fprintf(&page, `,{"number":%d,"id":%q,"text":%q,"end":"%s"}`, i, id,
			strings.Repeat("Straße nach Köln\n", 5), strings.Repeat("x", 850))
	}
	return page.String()
}

// largeLists measures how much memory Caddy needs for lists that are larger than the limit below.
func (w world) largeLists(t *testing.T) {
	pages := map[string]int{"small": 1, "plain": 50, "gzip": 35} // of 1 MB
	page := page()
	w.answer(func(conn net.Conn, r *http.Request) {
		lines := []string{isJSON}
		if r.Header.Get("Case") == "gzip" {
			lines = append(lines, isGzip)
		}
		io.WriteString(conn, head(200, lines...))
		body, closeBody := io.Writer(conn), func() {}
		if r.Header.Get("Case") == "gzip" {
			zipped, _ := gzip.NewWriterLevel(conn, gzip.BestSpeed)
			body, closeBody = zipped, func() { zipped.Close() }
		}
		io.WriteString(body, "["+page[1:])
		for range pages[r.Header.Get("Case")] - 1 {
			io.WriteString(body, page)
		}
		io.WriteString(body, "]")
		closeBody()
	})
	client, url := w.Client(t, gate.HTTP1)
	read := func(what string) (count int) {
		answer, err := client.Do(get(t, url+"/plain/list", w.token, "Case: "+what))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		d := json.NewDecoder(answer.Body)
		if _, err := d.Token(); err != nil {
			t.Fatal(err)
		}
		for d.More() {
			var e struct{ ID string }
			if err := d.Decode(&e); err != nil || e.ID != "acme" {
				t.Fatalf("%s, element %d: id %q, %v", what, count, e.ID, err)
			}
			count++
		}
		if _, err := d.Token(); err != nil {
			t.Fatal(err)
		}
		return count
	}
	read("small")
	before := peak(t, w.Gate)
	for _, what := range []string{"plain", "gzip"} {
		began := time.Now()
		if n := read(what); n != pages[what]*100 {
			t.Errorf("%s: %d elements", what, n)
		}
		grown := peak(t, w.Gate) - before
		t.Logf("%d MB, %s: %v, peak memory %d MB more than after 1 MB", pages[what], what,
			time.Since(began).Round(time.Millisecond), grown>>10)
		if grown > 32<<10 {
			t.Errorf("%s: Caddy's memory has grown by %d KB", what, grown)
		}
	}
}

// peak returns the peak memory of Caddy in KB.
func peak(t *testing.T, g *gate.Gate) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(line)
	kilobytes, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes
}

func bodyOf(t *testing.T, answer *http.Response) string {
	t.Helper()
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

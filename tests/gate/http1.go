package gate

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// patience limits one exchange. The race detector is slow on a busy machine.
const patience = 30 * time.Second

func (r Request) wire() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.method(), r.target(), r.host())
	framed := false
	for _, line := range r.Header {
		name, _, _ := strings.Cut(strings.ToLower(line), ":")
		framed = framed || name == "content-length" || name == "transfer-encoding"
		b.WriteString(line + "\r\n")
	}
	switch {
	case r.Trailer != nil:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n")
		if r.Body != "" {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(r.Body), r.Body)
		}
		b.WriteString("0\r\n")
		for _, line := range r.Trailer {
			b.WriteString(line + "\r\n")
		}
		b.WriteString("\r\n")
	case r.Body != "" && !framed:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(r.Body), r.Body)
	default:
		b.WriteString("\r\n" + r.Body)
	}
	return b.String()
}

func (g *Gate) doHTTP1(t testing.TB, r Request) Response {
	t.Helper()
	conn := g.dial(t)
	defer conn.Close()
	go io.WriteString(conn, r.wire()) // Caddy may answer and close before it has read everything
	return readHTTP1(bufio.NewReader(conn), r.method())
}

// Raw sends bytes over plain HTTP/1.1 and reads responses until Caddy closes the connection, so the
// last request should have `Connection: close`. Reached of the first response has all requests that
// reached the upstream.
func (g *Gate) Raw(t testing.TB, wire string) []Response {
	t.Helper()
	g.Upstream.Take()
	conn := g.dial(t)
	defer conn.Close()
	go io.WriteString(conn, wire)
	in := bufio.NewReader(conn)
	responses := []Response{readHTTP1(in, "GET")}
	for responses[len(responses)-1].Err == nil {
		if _, err := in.Peek(1); err != nil {
			break
		}
		responses = append(responses, readHTTP1(in, "GET"))
	}
	responses[0].Reached = g.Upstream.Take()
	return responses
}

func (g *Gate) dial(t testing.TB) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func readHTTP1(in *bufio.Reader, method string) Response {
	for {
		got, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return Response{Err: err}
		}
		if got.StatusCode < 200 && got.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		r := Response{Status: got.StatusCode, Header: got.Header}
		if got.StatusCode != http.StatusSwitchingProtocols {
			var body bytes.Buffer
			_, r.Err = io.Copy(&body, got.Body)
			r.Body, r.Trailer = body.Bytes(), got.Trailer
		}
		return r
	}
}

package bench

import (
	"bufio"
	"net"
	"testing"
)

const upstreamAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
	"12\r\n\r\n{\"item\": 1}\n"

// startUpstream starts a server that answers every request with the same 200 at little cost, and
// returns its address. It expects requests without a body.
func startUpstream(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn)
		}
	}()
	return l.Addr().String()
}

func answer(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(line) <= 2 { // the empty line that ends a request
			if _, err := conn.Write([]byte(upstreamAnswer)); err != nil {
				return
			}
		}
	}
}

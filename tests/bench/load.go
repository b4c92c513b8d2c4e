// Package bench measures the whole product on one machine and writes the results to
// docs/benchmarks.md: `make bench`, `make bench-fleet` and `make bench-keys`.
package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A load is one request, sent repeatedly over connections that stay open.
type load struct {
	addr   string
	header []string // `Name: value`
	http2  bool     // HTTP/2 without TLS, one request at a time on each connection
	tokens []string // each request has the next token; each connection has its share
	once   bool     // send each token only once
	status string   // the expected status
	conns  int      // number of connections
	// requests per second over all connections; 0 sends the next request after each response
	rate   int
	length time.Duration   // duration of the load
	stop   <-chan struct{} // ends the load early; may be nil
}

// A sample is the result of one load.
type sample struct {
	took time.Duration
	// sorted, one per request; with a rate, measured from when the request was due, so that a
	// stalled server does not look faster
	latencies []time.Duration
}

func (s sample) perSecond() float64 { return float64(len(s.latencies)) / s.took.Seconds() }

// quantile returns a quantile of the latencies; q is between 0 and 1.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func (l load) run() (sample, error) {
	results := make([][]time.Duration, l.conns)
	errs := make([]error, l.conns)
	var all sync.WaitGroup
	begin := time.Now()
	for i := range l.conns {
		all.Go(func() { results[i], errs[i] = l.connection(i, begin) })
	}
	all.Wait()
	s := sample{took: time.Since(begin), latencies: slices.Concat(results...)}
	slices.Sort(s.latencies)
	return s, errors.Join(errs...)
}

func (l load) connection(number int, begin time.Time) ([]time.Duration, error) {
	end := begin.Add(l.length)
	c, err := l.dial(end.Add(20 * time.Second))
	if err != nil {
		return nil, err
	}
	defer c.Close()

	var between time.Duration
	due := begin
	if l.rate > 0 {
		between = time.Duration(l.conns) * time.Second / time.Duration(l.rate)
		due = begin.Add(between * time.Duration(number) / time.Duration(l.conns))
	}
	var latencies []time.Duration
	header := l.header
	for next := number; ; next += l.conns {
		from := time.Now()
		if l.rate > 0 {
			from, due = due, due.Add(between)
		}
		if from.After(end) || l.once && next >= len(l.tokens) {
			return latencies, nil
		}
		if l.tokens != nil {
			header = bearer(l.tokens[next%len(l.tokens)])
		}
		select {
		case <-l.stop:
			return latencies, nil
		default:
		}
		time.Sleep(time.Until(from))
		status, err := c.ask(header)
		if err != nil {
			return nil, err
		}
		if status != l.status {
			return nil, fmt.Errorf("%s answered %s, not %s", l.addr, status, l.status)
		}
		latencies = append(latencies, time.Since(from))
	}
}

// A client sends GET requests over one connection, one after the other.
type client interface {
	// ask sends a request with the header, `Name: value`, and returns the status of the response.
	ask(header []string) (status string, err error)
	Close() error
}

func (l load) dial(deadline time.Time) (client, error) {
	if l.http2 {
		return dialHTTP2(l.addr, deadline)
	}
	return dial(l.addr, deadline)
}

const target = "/v1/items/1"

// client1 is a client for HTTP/1.1.
type client1 struct {
	net.Conn
	answers *bufio.Reader
	request []byte // the last request, for its memory
}

func dial(addr string, deadline time.Time) (*client1, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client1{Conn: conn, answers: bufio.NewReader(conn)}, conn.SetDeadline(deadline)
}

func bearer(token string) []string { return []string{"Authorization: Bearer " + token} }

func (c *client1) ask(header []string) (string, error) {
	c.request = append(c.request[:0], "GET "+target+" HTTP/1.1\r\nHost: localhost\r\n"...)
	for _, line := range header {
		c.request = append(append(c.request, line...), "\r\n"...)
	}
	c.request = append(c.request, "\r\n"...)
	if _, err := c.Write(c.request); err != nil {
		return "", err
	}
	return readAnswer(c.answers)
}

// readAnswer reads a response with a Content-Length and returns its status. It uses little CPU
// time, which the load shares with the measured processes.
func readAnswer(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	if len(line) < 12 {
		return "", fmt.Errorf("no status line: %q", line)
	}
	status := string(line[9:12])
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return "", err
		}
		name, value, field := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(": "))
		if !field {
			break
		}
		if bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return "", err
			}
		}
	}
	if length < 0 {
		return "", fmt.Errorf("%s without Content-Length", status)
	}
	_, err = io.CopyN(io.Discard, r, int64(length))
	return status, err
}

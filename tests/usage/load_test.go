package usage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

const (
	connections = 8  // to each node
	pipelined   = 16 // requests that a connection sends at once
)

// A load sends requests to the nodes of a fleet and counts the answers.
type load struct {
	keys []gate.Key
	left atomic.Int64 // requests that are not sent yet
	done sync.WaitGroup
	// answered counts the answers 200 by node and key. Others are counted in refused.
	answered [][]atomic.Int64
	refused  atomic.Int64
}

// start begins to send n requests. Each connection uses the keys in turn.
func start(nodes []*gate.Gate, keys []gate.Key, n int64) *load {
	l := &load{keys: keys}
	l.left.Store(n)
	for i, g := range nodes {
		l.answered = append(l.answered, make([]atomic.Int64, len(keys)))
		address := strings.TrimPrefix(g.URL, "http://")
		for c := range connections {
			l.done.Go(func() {
				for key := c; l.left.Load() > 0; {
					// A killed node answers again after its restart.
					if err := l.send(i, address, &key); err != nil {
						time.Sleep(20 * time.Millisecond)
					}
				}
			})
		}
	}
	return l
}

// send sends requests over one connection until it fails or no requests are left.
func (l *load) send(node int, address string, key *int) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	var requests bytes.Buffer
	for l.left.Add(-pipelined) > -pipelined {
		requests.Reset()
		for i := range pipelined {
			fmt.Fprintf(&requests, "GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: %s\r\n\r\n",
				string(l.keys[(*key+i)%len(l.keys)].Token))
		}
		if _, err := conn.Write(requests.Bytes()); err != nil {
			return err
		}
		for range pipelined {
			status, err := readAnswer(answers)
			if err != nil {
				return err
			}
			if status == "200" {
				l.answered[node][*key%len(l.keys)].Add(1)
			} else {
				l.refused.Add(1)
			}
			*key++
		}
	}
	return nil
}

// readAnswer reads a response with a Content-Length and returns its status.
func readAnswer(r *bufio.Reader) (status string, err error) {
	text := textproto.NewReader(r)
	line, err := text.ReadLine()
	if err != nil {
		return "", err
	}
	header, err := text.ReadMIMEHeader()
	if err != nil {
		return "", err
	}
	length, err := strconv.Atoi(header.Get("Content-Length"))
	if err == nil {
		_, err = r.Discard(length)
	}
	_, rest, found := strings.Cut(line, " ")
	if err == nil && (!found || len(rest) < 3) {
		err = errors.New("malformed status line " + line)
	}
	if err != nil {
		return "", errors.Join(err, io.ErrUnexpectedEOF)
	}
	return rest[:3], nil
}

// counts returns the answers 200 so far, of one node by key.
func (l *load) counts(node int) []int64 {
	list := make([]int64, len(l.keys))
	for i := range list {
		list[i] = l.answered[node][i].Load()
	}
	return list
}

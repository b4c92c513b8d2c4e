package gate

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Field is a field of an HTTP/2 header block.
type Field = hpack.HeaderField

// DoHTTP2 sends a header block, including pseudo-header fields, without changing it.
func (g *Gate) DoHTTP2(t testing.TB, block []Field, body string, trailer []Field) Response {
	t.Helper()
	g.Upstream.Take()
	r := g.doHTTP2(t, block, body, trailer)
	r.Reached = g.Upstream.Take()
	return r
}

func (r Request) fields() []Field {
	block := []Field{{Name: ":method", Value: r.method()}, {Name: ":authority", Value: r.host()}}
	if r.method() != "CONNECT" || r.Extended != "" { // RFC 9113 §8.5
		block = append(block, Field{Name: ":scheme", Value: "https"},
			Field{Name: ":path", Value: r.target()})
	}
	if r.Extended != "" {
		block = append(block, Field{Name: ":protocol", Value: r.Extended})
	}
	return append(block, fields(r.Header)...)
}

func fields(lines []string) []Field {
	var block []Field
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		block = append(block, Field{Name: strings.ToLower(name),
			Value: strings.TrimPrefix(value, " ")})
	}
	return block
}

func (g *Gate) doHTTP2(t testing.TB, block []Field, body string, trailer []Field) Response {
	t.Helper()
	certificate, err := siteCertificate()
	if err != nil {
		t.Fatal(err)
	}
	dialer := &net.Dialer{Timeout: patience}
	conn, err := tls.DialWithDialer(dialer, "tcp", strings.TrimPrefix(g.TLSURL, "https://"),
		&tls.Config{RootCAs: certificate.roots, ServerName: "localhost",
			NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	framer := http2.NewFramer(conn, conn)
	framer.AllowIllegalWrites = true
	sendHTTP2(conn, framer, block, body, trailer)
	return readHTTP2(framer)
}

// sendHTTP2 ignores write errors, since the server may refuse a request before it has read it. The
// caller judges the response.
func sendHTTP2(conn net.Conn, framer *http2.Framer, block []Field, body string, trailer []Field) {
	conn.Write([]byte(http2.ClientPreface))
	framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	framer.WriteWindowUpdate(0, 1<<30)
	var encoded bytes.Buffer
	encoder := hpack.NewEncoder(&encoded)
	write := func(fields []Field, end bool) {
		encoded.Reset()
		for _, field := range fields {
			encoder.WriteField(field)
		}
		first := encoded.Next(16 << 10)
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first,
			EndStream: end, EndHeaders: encoded.Len() == 0})
		for encoded.Len() > 0 {
			fragment := encoded.Next(16 << 10)
			framer.WriteContinuation(1, encoded.Len() == 0, fragment)
		}
	}
	write(block, body == "" && trailer == nil)
	for len(body) > 0 {
		n := min(len(body), 16<<10)
		framer.WriteData(1, n == len(body) && trailer == nil, []byte(body[:n]))
		body = body[n:]
	}
	if trailer != nil {
		write(trailer, true)
	}
}

func readHTTP2(framer *http2.Framer) Response {
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.SetMaxReadFrameSize(1 << 20)
	r := Response{Header: http.Header{}}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			r.Err = err
			return r
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				framer.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			into := r.Header
			if r.Status != 0 {
				r.Trailer = http.Header{}
				into = r.Trailer
			} else if r.Status, err = strconv.Atoi(frame.PseudoValue("status")); err != nil {
				r.Err = err
				return r
			}
			if r.Status < 200 {
				r.Status = 0
				continue
			}
			for _, field := range frame.RegularFields() {
				into.Add(field.Name, field.Value)
			}
			if frame.StreamEnded() {
				return r
			}
		case *http2.DataFrame:
			r.Body = append(r.Body, frame.Data()...)
			if frame.StreamEnded() {
				return r
			}
		case *http2.RSTStreamFrame:
			r.Err = fmt.Errorf("stream reset: %v", frame.ErrCode)
			return r
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				r.Err = errors.New("connection ended: " + frame.ErrCode.String())
				return r
			}
		}
	}
}

package bench

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// client2 is a client for HTTP/2 without TLS, with prior knowledge (RFC 9113 §3.3).
type client2 struct {
	net.Conn
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer // output of the encoder
	stream  uint32       // the stream of the last request; odd
}

func dialHTTP2(addr string, deadline time.Time) (*client2, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &client2{Conn: conn, framer: http2.NewFramer(conn, conn), stream: 1}
	c.encoder = hpack.NewEncoder(&c.block)
	c.framer.SetReuseFrames()
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return nil, err
	}
	if err := c.framer.WriteSettings(); err != nil {
		return nil, err
	}
	// Enough for all responses, so that no later update is necessary.
	return c, c.framer.WriteWindowUpdate(0, 1<<30)
}

func (c *client2) ask(header []string) (string, error) {
	c.block.Reset()
	field := func(name, value string) {
		c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	field(":method", "GET")
	field(":scheme", "http")
	field(":authority", "localhost")
	field(":path", target)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		field(strings.ToLower(name), value)
	}
	c.stream += 2
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream,
		BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: true})
	if err != nil {
		return "", err
	}
	return c.readAnswer()
}

// readAnswer reads frames up to the end of the response, and returns its status.
func (c *client2) readAnswer() (status string, err error) {
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return "", err
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				if err := c.framer.WriteSettingsAck(); err != nil {
					return "", err
				}
			}
		case *http2.MetaHeadersFrame:
			status = frame.PseudoValue("status")
			if frame.StreamEnded() {
				return status, nil
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return status, nil
			}
		case *http2.RSTStreamFrame:
			return "", fmt.Errorf("stream reset: %v", frame.ErrCode)
		case *http2.GoAwayFrame:
			return "", fmt.Errorf("connection ended: %v", frame.ErrCode)
		}
	}
}

package command

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// An importReader reads keys to be imported, in either form. As an io.Reader it returns the input
// unchanged.
type importReader struct {
	*bufio.Reader
	document bool          // {"keys":[…]}, else one key per line
	elements *json.Decoder // within keys; nil before the first
	line     int           // of the last key, or its position in keys
}

// documentStart matches the beginning of a document. No key has a field named keys.
var documentStart = regexp.MustCompile(`^\s*\{\s*"keys"\s*:`)

func newImportReader(r io.Reader) *importReader {
	in := bufio.NewReaderSize(r, 64<<10)
	const byteOrderMark = "\ufeff" // some programs write it before UTF-8
	if start, _ := in.Peek(len(byteOrderMark)); string(start) == byteOrderMark {
		_, _ = in.Discard(len(byteOrderMark))
	}
	start, _ := in.Peek(4 << 10) // reading returns the error again
	return &importReader{Reader: in, document: documentStart.Match(start)}
}

func (in *importReader) contentType() string {
	if in.document {
		return api.JSON
	}
	return api.NDJSON
}

// An importBatch has keys as NDJSON, with the input line of each.
type importBatch struct {
	body  bytes.Buffer
	lines []int
}

// Limits of a batch, which is one request and one transaction.
const (
	batchKeys  = 1000
	batchBytes = 8 << 20
)

// batch reads the next keys. An error, including io.EOF, comes with the keys before it.
func (in *importReader) batch() (*importBatch, error) {
	b := new(importBatch)
	for len(b.lines) < batchKeys && b.body.Len() < batchBytes {
		key, err := in.next()
		if key = bytes.TrimSpace(key); len(key) > 0 {
			b.body.Write(key)
			b.body.WriteByte('\n')
			b.lines = append(b.lines, in.line)
		}
		if err != nil {
			return b, err
		}
	}
	return b, nil
}

func (in *importReader) next() ([]byte, error) {
	in.line++
	if in.document {
		return in.nextElement()
	}
	return in.ReadBytes('\n')
}

// nextElement reads one element of keys, compacted to a line. Errors name only the position: the
// element may contain a token.
func (in *importReader) nextElement() ([]byte, error) {
	if in.elements == nil {
		in.elements = json.NewDecoder(in.Reader)
		if !in.tokens(json.Delim('{'), "keys", json.Delim('[')) {
			return nil, errors.New(`the document must be {"keys":[…]}`)
		}
	}
	if !in.elements.More() {
		if !in.tokens(json.Delim(']'), json.Delim('}'), nil) {
			return nil, fmt.Errorf("the document must end with ]} after %d keys", in.line-1)
		}
		return nil, io.EOF
	}
	var element json.RawMessage
	if err := in.elements.Decode(&element); err != nil {
		return nil, fmt.Errorf("key %d of the document must be JSON", in.line)
	}
	var line bytes.Buffer
	err := json.Compact(&line, element)
	return line.Bytes(), err
}

// tokens reads the next tokens and reports whether they are the wanted ones. nil is the end of the
// input.
func (in *importReader) tokens(wanted ...json.Token) bool {
	for _, want := range wanted {
		got, err := in.elements.Token()
		if want == nil && err == io.EOF {
			return true
		}
		if err != nil || got != want {
			return false
		}
	}
	return true
}

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

// An importReader reads keys to be imported, whichever of the two forms they have. As an io.Reader
// it gives the input as it is.
type importReader struct {
	*bufio.Reader
	document bool          // {"keys":[…]}, else one key a line
	elements *json.Decoder // in the document's keys; nil before the first
	line     int           // or place in keys, of what was read last
}

// documentStart is how the one document begins; no key has a field of that name.
var documentStart = regexp.MustCompile(`^\s*\{\s*"keys"\s*:`)

func newImportReader(r io.Reader) *importReader {
	in := bufio.NewReaderSize(r, 64<<10)
	const byteOrderMark = "\ufeff" // which some programs write before UTF-8
	if start, _ := in.Peek(len(byteOrderMark)); string(start) == byteOrderMark {
		_, _ = in.Discard(len(byteOrderMark))
	}
	start, _ := in.Peek(4 << 10) // an error comes again when it is read
	return &importReader{Reader: in, document: documentStart.Match(start)}
}

func (in *importReader) contentType() string {
	if in.document {
		return api.JSON
	}
	return api.NDJSON
}

// An importBatch is keys as NDJSON, and on which line of the input each was.
type importBatch struct {
	body  bytes.Buffer
	lines []int
}

// Bounds of a batch: one request and one transaction.
const (
	batchKeys  = 1000
	batchBytes = 8 << 20
)

// batch reads the next keys. An error, io.EOF too, comes with those before it.
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

// nextElement reads one of keys, compacted to a line. Errors name the place only: what stands there
// may be a token.
func (in *importReader) nextElement() ([]byte, error) {
	if in.elements == nil {
		in.elements = json.NewDecoder(in.Reader)
		if !in.tokens(json.Delim('{'), "keys", json.Delim('[')) {
			return nil, errors.New(`the document is not {"keys":[…]}`)
		}
	}
	if !in.elements.More() {
		if !in.tokens(json.Delim(']'), json.Delim('}'), nil) {
			return nil, fmt.Errorf("the document does not end as it should after %d keys",
				in.line-1)
		}
		return nil, io.EOF
	}
	var element json.RawMessage
	if err := in.elements.Decode(&element); err != nil {
		return nil, fmt.Errorf("key %d of the document is not JSON", in.line)
	}
	var line bytes.Buffer
	err := json.Compact(&line, element)
	return line.Bytes(), err
}

// tokens reads these, nil standing for the end of the input.
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

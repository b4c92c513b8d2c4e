// Package jsonlist removes elements from an array in a JSON text while the text is streamed, in
// constant memory. It knows JSON and nothing of HTTP, keys or namespaces. Start reading at
// [Filter]; scanner.go reads the JSON.
package jsonlist

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// MaxBuffer limits the buffer, in bytes. The buffer contains the text before the array, and an
	// element until its id decides whether it is kept. An array that begins later is an error. An
	// id that ends later in its element is ignored, so the element is removed.
	MaxBuffer = 1 << 20
	// MaxDepth is how deep arrays and objects may nest, as in encoding/json.
	MaxDepth = 10_000
)

// A Filter selects the elements of one array that are kept.
type Filter struct {
	// Items is the path to the array: names of fields, from the outermost object inwards. If it is
	// empty, the text itself is the array. The array may be null.
	Items []string
	// ID is the path to the id in an element. An id is a string or a whole number. If ID is empty,
	// an element is an id itself, or an object with an id in `id`.
	ID []string
	// Keep reports whether the element with this id is kept. Elements without an id are removed,
	// and so are elements with an ambiguous one: a name on the path to it occurs twice or in
	// another case, and programs differ in which one they read.
	Keep func(id string) bool

	maxBuffer int // replaces MaxBuffer in tests; 0 for MaxBuffer
}

// Run copies a text to out without the removed elements. next returns the next chunk of the text,
// which is valid until the next call, or no bytes and [io.EOF] at the end.
//
// Run returns the errors of next and out. Its own errors name the position where the text is not
// the expected JSON, and quote nothing of it. Run writes nothing before it reaches the array, and
// the last byte only when the rest is valid: after an error, the output is not valid JSON.
func (f *Filter) Run(out io.Writer, next func() ([]byte, error)) error {
	s := scanner{next: next}
	c := copier{Filter: f, scanner: &s, out: out, dest: toBuffer,
		limit: cmp.Or(f.maxBuffer, MaxBuffer)}
	s.flush = c.put
	c.text()
	return s.err
}

// A copier copies the bytes that its scanner has read to their destination.
type copier struct {
	*Filter
	*scanner
	out io.Writer

	dest     destination
	found    bool // whether the array has been found
	hasItems bool // out has an element, so the next one needs a comma
	buffer   []byte
	limit    int   // of the buffer, in bytes
	start    int64 // offset of the current element
	id       verdict
	last     []byte // the end of the text, which is written when everything else is valid
}

// A destination is the place to which the copier copies bytes.
type destination uint8

const (
	toOut destination = iota
	toBuffer
	toNowhere
)

// A verdict is the decision about the current element.
type verdict uint8

const (
	undecided verdict = iota
	keep
	remove
)

// text copies the whole text.
func (c *copier) text() {
	c.follow(c.Items, c.array, func() {
		c.fail("a name on the path to the array occurs twice or in another case")
	})
	c.space()
	switch {
	case c.err != nil:
	case !c.ended:
		c.fail("data after the end of the JSON text")
	case !c.found:
		c.stop(errors.New("no array at the configured path"))
	default:
		c.write(c.last)
	}
}

// follow reads a value. It calls the function at to read the value at path, and the function
// ambiguous if a name on the path occurs again or in another case.
func (c *copier) follow(path []string, at, ambiguous func()) {
	if len(path) == 0 {
		at()
		return
	}
	if c.space() != '{' {
		c.value()
		return
	}
	seen := false
	c.object(func(name []byte) {
		exact := string(name) == path[0]
		switch {
		case !exact && !strings.EqualFold(string(name), path[0]):
			c.value() // another name, even for programs that ignore case, such as encoding/json
		case exact && !seen:
			seen = true
			c.follow(path[1:], at, ambiguous)
		default:
			seen = true
			ambiguous()
			c.value()
		}
	}, c.close)
}

// close reads a closing bracket. The outermost one is withheld until the text is complete.
func (c *copier) close(bracket byte) {
	if c.depth == 1 {
		c.withhold([]byte{bracket})
	}
	c.scanner.close(bracket)
}

// withhold discards the rest of the text, and keeps last to be written at the end.
func (c *copier) withhold(last []byte) {
	c.flushRead()
	c.dest, c.last = toNowhere, last
}

// array reads the array, or null in its place.
func (c *copier) array() {
	switch c.space() {
	case '[':
		c.reached()
		c.list(c.element, func(bracket byte) {
			c.flushRead()
			c.dest = toOut
			c.close(bracket)
		})
	case 'n':
		if c.depth == 0 {
			c.withhold([]byte("null"))
		}
		c.value()
		c.reached()
	default:
		c.fail("the value at the configured path must be an array")
	}
}

// reached writes the text before the array.
func (c *copier) reached() {
	c.flushRead()
	if c.err != nil {
		return
	}
	c.found = true
	if c.dest == toBuffer {
		c.dest = toOut
		c.write(c.buffer)
	}
}

// element reads an element of the array. The space around elements is discarded, as are the commas:
// release writes those that are needed.
func (c *copier) element() {
	c.flushRead()
	c.dest = toNowhere
	c.space()
	c.flushRead()
	c.dest, c.id, c.start, c.buffer = toBuffer, undecided, c.offset(), c.buffer[:0]
	path := c.ID
	if len(path) == 0 && c.space() == '{' {
		path = bareID
	}
	c.follow(path, c.readID, c.ambiguousID)
	if c.err != nil {
		return
	}
	if c.dest == toBuffer && c.id == keep {
		c.release()
	}
	if c.dest == toBuffer {
		c.dest = toNowhere
	}
	c.flushRead()
	c.dest = toNowhere // until the next element or the closing bracket
}

var bareID = []string{"id"}

// readID reads the id of the current element and decides whether the element is kept.
func (c *copier) readID() {
	text, ok := []byte(nil), false
	switch b := c.space(); {
	case b == '"':
		text, ok = c.string(true)
	case isDigit(b):
		text, ok = c.number(true)
		ok = ok && !bytes.ContainsAny(text, ".eE")
	default:
		c.value()
	}
	if c.id != undecided || c.err != nil {
		return
	}
	c.id = remove
	if ok && !c.pastBuffer() && c.Keep(string(text)) {
		c.id = keep
	}
}

// ambiguousID removes the current element. That is an error if it may have been written.
func (c *copier) ambiguousID() {
	if c.id == keep && c.pastBuffer() { // a part of the element may have been written
		c.fail("the id of a long element occurs twice or in another case")
	}
	c.id = remove
}

// pastBuffer reports whether more of the current element has been read than fits into the buffer.
func (c *copier) pastBuffer() bool { return c.offset()-c.start > int64(c.limit) }

// flushRead copies the bytes read since the last flush to the destination. It must be called before
// the destination changes.
func (c *copier) flushRead() { c.put(c.unflushed()) }

// put copies bytes that have been read to the destination.
func (c *copier) put(b []byte) {
	if c.dest == toBuffer && len(c.buffer)+len(b) > c.limit {
		switch {
		case !c.found:
			c.fail("the array must begin within the first MiB")
			return
		case c.id == keep:
			c.release()
		default:
			c.dest = toNowhere // an id that is still undecided comes too late
		}
	}
	switch c.dest {
	case toOut:
		c.write(b)
	case toBuffer:
		c.buffer = append(c.buffer, b...)
	case toNowhere:
	}
}

// release writes the buffered part of the current element. The rest of it is then written directly.
func (c *copier) release() {
	if c.hasItems {
		c.write(comma)
	}
	c.hasItems, c.dest = true, toOut
	c.write(c.buffer)
	c.buffer = c.buffer[:0]
}

var comma = []byte{','}

func (c *copier) write(b []byte) {
	if c.err != nil || len(b) == 0 {
		return
	}
	if _, err := c.out.Write(b); err != nil {
		c.stop(fmt.Errorf("writing the filtered list: %w", err))
	}
}

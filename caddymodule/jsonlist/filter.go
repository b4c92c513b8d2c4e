// Package jsonlist takes elements out of an array in a JSON text that streams by, in constant
// memory.
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
	// MaxHeld bounds, in bytes, what is held: of the text until the array is reached, and of an
	// element until it is known whether it stays. An array that begins later is an error, an id
	// that ends later in its element is not read.
	MaxHeld = 1 << 20
	// MaxDepth is how deep arrays and objects may nest, as in encoding/json.
	MaxDepth = 10_000
)

// A Filter says which elements of which array stay.
type Filter struct {
	// Items are the names that lead through objects to the array. None: the text is the array. null
	// may stand for the array.
	Items []string
	// ID are the names that lead through an element's objects to its id, a string or a whole
	// number. None: an element is an id itself, or an object with one in `id`.
	ID []string
	// Keep reports whether the element with this id stays. Elements without a readable id go, and
	// so does one whose id depends on who reads it, because a name on the way to it stands twice,
	// or in another case.
	Keep func(id string) bool

	held int // instead of MaxHeld, in tests
}

// Run copies a text to out without the elements that go. next returns more of it, valid until it is
// called again, and [io.EOF] at its end, without any. The error is next's, or out's, or says where
// the text is not the JSON that was promised, and never what stands there. Nothing is written
// before the array is reached, and the last byte when all else was good: until then it is no JSON
// text.
func (f *Filter) Run(out io.Writer, next func() ([]byte, error)) error {
	s := scanner{next: next}
	c := copier{Filter: f, scanner: &s, out: out, to: toHeld, most: cmp.Or(f.held, MaxHeld)}
	s.leave = c.take
	c.text()
	return s.err
}

// A copier sends what its scanner reads where it belongs.
type copier struct {
	*Filter
	*scanner
	out io.Writer

	to    destination
	found bool
	kept  bool // an element
	held  []byte
	most  int   // that may be held
	start int64 // of the element
	id    verdict
	last  []byte // of the text
}

type destination uint8

const (
	toOut destination = iota
	toHeld
	toNowhere
)

type verdict uint8

const (
	unknown verdict = iota
	stays
	goes
)

func (c *copier) text() {
	c.follow(c.Items, c.array,
		func() { c.fail("a name on the way to the array stands twice, or in another case") })
	c.space()
	switch {
	case c.err != nil:
	case !c.ended:
		c.fail("more follows after the end of the text")
	case !c.found:
		c.stop(errors.New("there is no array where it should be"))
	default:
		c.write(c.last)
	}
}

// follow reads a value, and calls at where the path leads to in it. It calls twice for a name on
// the path that some would read as another one.
func (c *copier) follow(path []string, at, twice func()) {
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
			// as Go and others match the names of fields
			c.value()
		case exact && !seen:
			seen = true
			c.follow(path[1:], at, twice)
		default:
			seen = true
			twice()
			c.value()
		}
	}, c.close)
}

// close reads the closing bracket. The outermost one is kept back.
func (c *copier) close(bracket byte) {
	if c.depth == 1 {
		c.keepBack([]byte{bracket})
	}
	c.scanner.close(bracket)
}

func (c *copier) keepBack(last []byte) {
	c.settle()
	c.to, c.last = toNowhere, last
}

func (c *copier) array() {
	switch c.space() {
	case '[':
		c.reached()
		c.list(c.element, func(bracket byte) {
			c.settle()
			c.to = toOut
			c.close(bracket)
		})
	case 'n':
		if c.depth == 0 {
			c.keepBack([]byte("null"))
		}
		c.value()
		c.reached()
	default:
		c.fail("what should be the array is something else")
	}
}

// reached lets go what stands before the array.
func (c *copier) reached() {
	c.settle()
	if c.err != nil {
		return
	}
	c.found = true
	if c.to == toHeld {
		c.to = toOut
		c.write(c.held)
	}
}

// element reads an element of the array.
func (c *copier) element() {
	c.settle()
	c.to = toNowhere
	c.space()
	c.settle()
	c.to, c.id, c.start, c.held = toHeld, unknown, c.offset(), c.held[:0]
	path := c.ID
	if len(path) == 0 && c.space() == '{' {
		path = bareID
	}
	c.follow(path, c.readID, c.idTwice)
	if c.err != nil {
		return
	}
	if c.to == toHeld && c.id == stays {
		c.release()
	}
	if c.to == toHeld {
		c.to = toNowhere
	}
	c.settle()
	c.to = toNowhere // what follows up to the next element, or the bracket
}

var bareID = []string{"id"}

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
	if c.id != unknown || c.err != nil {
		return
	}
	c.id = goes
	if ok && !c.late() && c.Keep(string(text)) {
		c.id = stays
	}
}

func (c *copier) idTwice() {
	if c.id == stays && c.late() { // it may be with the client already
		c.fail("the id of a long element stands twice")
	}
	c.id = goes
}

// late reports whether what has just been read of an element comes too late to be held.
func (c *copier) late() bool { return c.offset()-c.start > int64(c.most) }

// settle sends on what was read since it was last called.
func (c *copier) settle() { c.take(c.scanner.take()) }

func (c *copier) take(b []byte) {
	if c.to == toHeld && len(c.held)+len(b) > c.most {
		switch {
		case !c.found:
			c.fail("there is no array where it should be, so far")
			return
		case c.id == stays:
			c.release()
		default:
			c.to = toNowhere // an id that is not known yet comes too late
		}
	}
	switch c.to {
	case toOut:
		c.write(b)
	case toHeld:
		c.held = append(c.held, b...)
	case toNowhere:
	}
}

// release sends on what is held.
func (c *copier) release() {
	if c.kept {
		c.write(comma)
	}
	c.kept, c.to = true, toOut
	c.write(c.held)
	c.held = c.held[:0]
}

var comma = []byte{','}

func (c *copier) write(b []byte) {
	if c.err != nil || len(b) == 0 {
		return
	}
	if _, err := c.out.Write(b); err != nil {
		c.stop(fmt.Errorf("sending on: %w", err))
	}
}

package jsonlist

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

// A scanner reads a JSON text (RFC 8259) without keeping it. After the first error there is nothing
// more to read, so that each of its methods comes to its end.
type scanner struct {
	next  func() ([]byte, error)
	leave func([]byte) // is given what has been read, before the next chunk

	chunk []byte
	pos   int // in chunk: what comes next
	left  int // in chunk: up to where leave has got it
	base  int64
	ended bool
	err   error

	depth int
	text  []byte // of the last string or number that was wanted
	long  bool   // it has more than maxText
}

// maxText bounds, in bytes, the names and ids that are looked at.
const maxText = 1 << 10

// offset is how many bytes have been read.
func (s *scanner) offset() int64 { return s.base + int64(s.pos) }

// take returns what was read and not left yet.
func (s *scanner) take() []byte {
	b := s.chunk[s.left:s.pos]
	s.left = s.pos
	return b
}

func (s *scanner) refill() bool {
	if s.err != nil || s.ended {
		return false
	}
	s.leave(s.take())
	if s.err != nil {
		return false
	}
	chunk, err := s.next()
	s.base += int64(s.pos)
	s.chunk, s.pos, s.left = chunk, 0, 0
	switch {
	case err == nil:
		return true
	case errors.Is(err, io.EOF):
		s.ended = true
	default:
		s.stop(err)
	}
	s.chunk = nil
	return false
}

func (s *scanner) fail(reason string) {
	if s.ended {
		reason = "it ends too early"
	}
	s.stop(fmt.Errorf("byte %d: %s", s.offset(), reason))
}

func (s *scanner) stop(err error) {
	if s.err == nil {
		s.err = err
	}
	s.base += int64(s.pos)
	s.chunk, s.pos, s.left = nil, 0, 0
}

// peek returns the next byte, 0 at the end. No text has a 0.
func (s *scanner) peek() byte {
	for s.pos == len(s.chunk) {
		if !s.refill() {
			return 0
		}
	}
	return s.chunk[s.pos]
}

// space reads white space and returns the byte after it.
func (s *scanner) space() byte {
	for {
		switch b := s.peek(); b {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return b
		}
	}
}

func (s *scanner) value() {
	switch b := s.space(); {
	case b == '{':
		s.object(nil, s.close)
	case b == '[':
		s.list(s.value, s.close)
	case b == '"':
		s.string(false)
	case b == 't':
		s.literal("true")
	case b == 'f':
		s.literal("false")
	case b == 'n':
		s.literal("null")
	case b == '-' || isDigit(b):
		s.number(false)
	default:
		s.fail("there is no value")
	}
}

// object reads an object; member, if there is one, is called with each name and reads the value.
// The name is nil when it is too long.
func (s *scanner) object(member func(name []byte), end func(bracket byte)) {
	if !s.open() {
		return
	}
	for more := s.space() != '}'; more; more = s.comma() {
		if s.space() != '"' {
			s.fail("there is no name")
			return
		}
		name, _ := s.string(member != nil)
		if s.space() != ':' {
			s.fail("there is no colon")
			return
		}
		s.pos++
		if member != nil {
			member(name)
		} else {
			s.value()
		}
	}
	end('}')
}

// list reads an array; element reads each element.
func (s *scanner) list(element func(), end func(bracket byte)) {
	if !s.open() {
		return
	}
	for more := s.space() != ']'; more; more = s.comma() {
		element()
	}
	end(']')
}

func (s *scanner) open() bool {
	if s.depth == MaxDepth {
		s.fail("it nests too deep")
	}
	if s.err != nil {
		return false
	}
	s.pos++
	s.depth++
	return true
}

func (s *scanner) close(bracket byte) {
	if s.space() != bracket {
		s.fail("there is no comma and no closing bracket")
		return
	}
	s.pos++
	s.depth--
}

func (s *scanner) comma() bool {
	if s.space() != ',' {
		return false
	}
	s.pos++
	return true
}

func (s *scanner) literal(word string) {
	for i := range len(word) {
		if s.peek() != word[i] {
			s.fail("there is no value")
			return
		}
		s.pos++
	}
}

// number reads a number, and returns its text if that is wanted and not too long.
func (s *scanner) number(wanted bool) (text []byte, ok bool) {
	s.text, s.long = s.text[:0], false
	s.accept("-", wanted)
	if !s.accept("0", wanted) {
		s.digits(wanted)
	}
	if s.accept(".", wanted) {
		s.digits(wanted)
	}
	if s.accept("eE", wanted) {
		s.accept("+-", wanted)
		s.digits(wanted)
	}
	return s.text, wanted && !s.long
}

func (s *scanner) accept(any string, wanted bool) bool {
	b := s.peek()
	for i := range len(any) {
		if any[i] == b {
			s.pos++
			s.note(wanted, b)
			return true
		}
	}
	return false
}

func (s *scanner) digits(wanted bool) {
	if !isDigit(s.peek()) {
		s.fail("a number has no digit")
	}
	for isDigit(s.peek()) {
		run, n := s.chunk[s.pos:], 0
		for n < len(run) && isDigit(run[n]) {
			n++
		}
		s.pos += n
		s.note(wanted, run[:n]...)
	}
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// note adds to the text that is wanted.
func (s *scanner) note(wanted bool, b ...byte) {
	if !wanted {
		return
	}
	if len(s.text)+len(b) > maxText {
		s.long = true
		return
	}
	s.text = append(s.text, b...)
}

// plain are the bytes that stand for themselves in a string.
var plain = func() (table [256]bool) {
	for b := byte(' '); b < utf8.RuneSelf; b++ {
		table[b] = b != '"' && b != '\\'
	}
	return table
}()

// string reads a string, and returns what it says if that is wanted and not too long.
func (s *scanner) string(wanted bool) (text []byte, ok bool) {
	s.text, s.long = s.text[:0], false
	s.pos++
	for {
		run, n := s.chunk[s.pos:], 0
		for n < len(run) && plain[run[n]] {
			n++
		}
		s.pos += n
		s.note(wanted, run[:n]...)
		switch b := s.peek(); {
		case b == '"':
			s.pos++
			if s.long {
				return nil, false
			}
			return s.text, wanted
		case b == '\\':
			s.pos++
			s.escape(wanted)
		case b >= utf8.RuneSelf:
			s.rune(wanted)
		case !plain[b]:
			s.fail("a string has a control character")
			return nil, false
		}
	}
}

// escape reads the rest of an escape sequence (RFC 8259 §7).
func (s *scanner) escape(wanted bool) {
	b := s.peek()
	s.pos++
	switch b {
	case '"', '\\', '/':
		s.note(wanted, b)
	case 'b':
		s.note(wanted, '\b')
	case 'f':
		s.note(wanted, '\f')
	case 'n':
		s.note(wanted, '\n')
	case 'r':
		s.note(wanted, '\r')
	case 't':
		s.note(wanted, '\t')
	case 'u':
		s.unicode(wanted)
	default:
		s.pos--
		s.fail("a string has an unknown escape")
	}
}

// unicode reads four hexadecimal digits. Half of a surrogate pair is noted as three bytes that no
// UTF-8 has, and so equals nothing, until the other half follows.
func (s *scanner) unicode(wanted bool) {
	var r rune
	for range 4 {
		b := s.peek()
		if !ascii.IsHex(b) {
			s.fail("a string has an unknown escape")
			return
		}
		s.pos++
		r = r<<4 | rune(ascii.Unhex(b))
	}
	if !utf16.IsSurrogate(r) {
		s.note(wanted, utf8.AppendRune(nil, r)...)
		return
	}
	if n := len(s.text) - 3; n >= 0 && s.text[n] == 0xed && s.text[n+1] >= 0xa0 && !s.long {
		first := 0xd000 | rune(s.text[n+1]&0x3f)<<6 | rune(s.text[n+2]&0x3f)
		if whole := utf16.DecodeRune(first, r); whole != utf8.RuneError {
			s.text = utf8.AppendRune(s.text[:n], whole)
			return
		}
	}
	s.note(wanted, 0xed, 0x80|byte(r>>6&0x3f), 0x80|byte(r&0x3f))
}

// rune reads one character that is not ASCII.
func (s *scanner) rune(wanted bool) {
	var b [utf8.UTFMax]byte
	n := 0
	for n == 0 || n < len(b) && !utf8.FullRune(b[:n]) {
		if b[n] = s.peek(); b[n] < utf8.RuneSelf {
			break
		}
		n++
		s.pos++
	}
	if r, size := utf8.DecodeRune(b[:n]); r == utf8.RuneError && size == 1 {
		s.fail("a string is not UTF-8")
		return
	}
	s.note(wanted, b[:n]...)
}

package jsonlist

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

// A scanner reads a JSON text (RFC 8259) in chunks. It keeps the first error in err and reports the
// end of the text from then on, so all methods return and need not return errors.
type scanner struct {
	next  func() ([]byte, error)
	flush func([]byte) // receives the bytes that have been read, before the next chunk is read

	chunk   []byte
	pos     int   // in chunk: the next byte
	flushed int   // in chunk: the first byte that flush has not received
	base    int64 // offset of chunk in the text
	ended   bool  // next has returned io.EOF
	err     error

	depth int
	text  []byte // the last string or number that was wanted
	long  bool   // it is longer than maxText
}

// maxText limits the names and ids that are compared, in bytes. Longer ones match nothing.
const maxText = 1 << 10

// offset returns how many bytes have been read.
func (s *scanner) offset() int64 { return s.base + int64(s.pos) }

// unflushed returns the bytes of the chunk that have been read but not flushed, and marks them as
// flushed.
func (s *scanner) unflushed() []byte {
	b := s.chunk[s.flushed:s.pos]
	s.flushed = s.pos
	return b
}

// refill reads the next chunk and reports whether there is one.
func (s *scanner) refill() bool {
	if s.err != nil || s.ended {
		return false
	}
	s.flush(s.unflushed())
	if s.err != nil {
		return false
	}
	chunk, err := s.next()
	s.base += int64(s.pos)
	s.chunk, s.pos, s.flushed = chunk, 0, 0
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

// fail stops with an error that names the position. reason is ignored at the end of the text.
func (s *scanner) fail(reason string) {
	if s.ended {
		reason = "unexpected end of the JSON text"
	}
	s.stop(fmt.Errorf("byte %d: %s", s.offset(), reason))
}

// stop keeps the first error and drops the rest of the text.
func (s *scanner) stop(err error) {
	if s.err == nil {
		s.err = err
	}
	s.base += int64(s.pos)
	s.chunk, s.pos, s.flushed = nil, 0, 0
}

// peek returns the next byte, or 0 at the end. No JSON text contains a zero byte.
func (s *scanner) peek() byte {
	for s.pos == len(s.chunk) {
		if !s.refill() {
			return 0
		}
	}
	return s.chunk[s.pos]
}

// space skips white space and returns the byte after it.
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

// value reads any value.
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
		s.fail("expected a value")
	}
}

// object reads an object. It calls member, unless that is nil, with each name; member reads the
// value. The name is nil if it is longer than maxText. end reads the closing bracket.
func (s *scanner) object(member func(name []byte), end func(bracket byte)) {
	if !s.open() {
		return
	}
	for more := s.space() != '}'; more; more = s.comma() {
		if s.space() != '"' {
			s.fail("expected a name in quotes")
			return
		}
		name, _ := s.string(member != nil)
		if s.space() != ':' {
			s.fail("expected a colon")
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

// list reads an array. It calls element to read each element and end to read the closing bracket.
func (s *scanner) list(element func(), end func(bracket byte)) {
	if !s.open() {
		return
	}
	for more := s.space() != ']'; more; more = s.comma() {
		element()
	}
	end(']')
}

// open reads an opening bracket and reports whether there was no error.
func (s *scanner) open() bool {
	if s.depth == MaxDepth {
		s.fail(fmt.Sprintf("arrays and objects must nest at most %d levels deep", MaxDepth))
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
		s.fail("expected a comma or a closing bracket")
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
			s.fail("expected a value")
			return
		}
		s.pos++
	}
}

// number reads a number. If wanted is true, it returns the text, unless that is longer than
// maxText. The text is valid until the next string or number is read.
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

// accept reads one byte if it is one of set.
func (s *scanner) accept(set string, wanted bool) bool {
	b := s.peek()
	for i := range len(set) {
		if set[i] == b {
			s.pos++
			s.note(wanted, b)
			return true
		}
	}
	return false
}

func (s *scanner) digits(wanted bool) {
	if !isDigit(s.peek()) {
		s.fail("expected a digit")
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

// note appends to text if that is wanted.
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

// plain are the ASCII bytes that a string can contain without an escape.
var plain = func() (table [256]bool) {
	for b := byte(' '); b < utf8.RuneSelf; b++ {
		table[b] = b != '"' && b != '\\'
	}
	return table
}()

// string reads a string. If wanted is true, it returns the decoded text, unless that is longer than
// maxText. The text is valid until the next string or number is read.
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
			s.fail("unescaped control character in a string")
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
		s.fail("invalid escape in a string")
	}
}

// unicode reads the four hexadecimal digits of an escape. Half of a surrogate pair is noted as
// three bytes that are not UTF-8, and so match nothing. The second half replaces them.
func (s *scanner) unicode(wanted bool) {
	var r rune
	for range 4 {
		b := s.peek()
		if !ascii.IsHex(b) {
			s.fail("invalid escape in a string")
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

// rune reads one character outside ASCII.
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
		s.fail("invalid UTF-8 in a string")
		return
	}
	s.note(wanted, b[:n]...)
}

package route

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

// An index finds the operation that a call is: of those whose pattern matches, the one with most
// literal segments; of these, the one with most literal bytes in segments that are partly literal;
// of these, the first.
type index struct {
	operations []operation // the best first
	methods    map[string]*forks
}

// forks are the operations of one method, by the segments of their patterns.
type forks struct {
	folded fork // literals are compared decoded and without regard to case
	exact  fork // … as they stand in the request
}

// A fork is where the patterns with the same first segments part. Its numbers are positions in
// index.operations.
type fork struct {
	best     int // from here on
	here     int // that ends here
	rest     int // that takes all that may follow
	literals map[string]*fork
	mixed    []mixedFork
	any      *fork
}

// A mixedFork is for a segment that is partly literal: these parts, with at least one byte between
// two of them.
type mixedFork struct {
	parts [][]byte
	next  *fork
}

// none is the index of no operation.
const none = math.MaxInt

func newFork() *fork { return &fork{best: none, here: none, rest: none} }

// newIndex returns the index of a list that has the preferred operations first. It sorts the list.
func newIndex(list []operation) *index {
	slices.SortStableFunc(list, func(a,
		b operation) int {
		return b.pattern.weight() - a.pattern.weight()
	})
	t := &index{list, make(map[string]*forks)}
	for i := range list {
		o := &list[i]
		roots := t.methods[o.method]
		if roots == nil {
			roots = &forks{*newFork(), *newFork()}
			t.methods[o.method] = roots
		}
		if o.pattern.exact {
			roots.exact.add(&o.pattern, i)
		} else {
			roots.folded.add(&o.pattern, i)
		}
	}
	return t
}

// weight orders patterns: a literal segment is worth more than any number of bytes in others.
func (p *Pattern) weight() int {
	weight := p.literals() << 32
	for _, s := range p.segments {
		weight += len(s.mixed) - strings.Count(s.mixed, parameter)
	}
	return weight
}

func (f *fork) add(p *Pattern, i int) {
	for _, s := range p.segments {
		f.best = min(f.best, i)
		f = f.next(s, p.exact)
	}
	f.best = min(f.best, i)
	if p.rest {
		f.rest = min(f.rest, i)
	} else {
		f.here = min(f.here, i)
	}
}

func (f *fork) next(s segment, exact bool) *fork {
	switch {
	case s.literal != "":
		key := s.literal
		if exact {
			key = escapeLiteral(key)
		}
		if f.literals[key] == nil {
			if f.literals == nil {
				f.literals = make(map[string]*fork)
			}
			f.literals[key] = newFork()
		}
		return f.literals[key]
	case s.mixed != "":
		parts := bytes.Split([]byte(s.mixed), []byte(parameter))
		for _, m := range f.mixed {
			if slices.EqualFunc(m.parts, parts, bytes.Equal) {
				return m.next
			}
		}
		f.mixed = append(f.mixed, mixedFork{parts, newFork()})
		return f.mixed[len(f.mixed)-1].next
	case f.any == nil:
		f.any = newFork()
	}
	return f.any
}

// find returns the operation that a call on a canonical escaped path is, nil if it is none. It does
// not allocate, but for segments that are longer than any literal should be.
func (t *index) find(method, path string) *operation {
	roots := t.methods[method]
	if roots == nil {
		return nil
	}
	path = strings.TrimSuffix(path[1:], "/")
	i := roots.exact.find(path, true, none)
	if i = roots.folded.find(path, false, i); i == none {
		return nil
	}
	return &t.operations[i]
}

// find returns the best index among best and the operations from f on.
func (f *fork) find(path string, exact bool, best int) int {
	if f == nil || f.best >= best {
		return best
	}
	best = min(best, f.rest)
	if path == "" {
		return min(best, f.here)
	}
	word, rest := cutSegment(path)
	var room [64]byte
	key := append(room[:0], word...)
	if !exact {
		key = foldSegment(key)
	}
	best = f.literals[string(key)].find(rest, exact, best)
	for i := range f.mixed {
		if m := &f.mixed[i]; matchParts(m.parts, key) {
			best = m.next.find(rest, exact, best)
		}
	}
	return f.any.find(rest, exact, best)
}

// foldSegment decodes a segment and puts it in lower case, in its place.
func foldSegment(word []byte) []byte {
	out := word[:0]
	for i := 0; i < len(word); i++ {
		c := word[i]
		if c == '%' && i+2 < len(word) && ascii.IsHex(word[i+1]) && ascii.IsHex(word[i+2]) {
			c = ascii.Unhex(word[i+1])<<4 | ascii.Unhex(word[i+2])
			i += 2
		}
		out = append(out, ascii.Lower(c))
	}
	return out
}

func matchParts(parts [][]byte, word []byte) bool {
	last := len(parts) - 1
	word, ok := bytes.CutPrefix(word, parts[0])
	for i := 1; ok && i < last; i++ {
		if len(word) == 0 {
			return false
		}
		_, word, ok = bytes.Cut(word[1:], parts[i])
	}
	return ok && len(word) > len(parts[last]) && bytes.HasSuffix(word, parts[last])
}

// escapeLiteral is a literal as a client that escapes only what it must writes it (RFC 3986 §2.4).
func escapeLiteral(literal string) string {
	var out strings.Builder
	for _, c := range []byte(literal) {
		if pathBytes[c] != 0 {
			out.WriteByte(c)
		} else {
			_, _ = fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

package route

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
)

// An index finds the operation of a call. Of the operations whose patterns match, it selects the
// one with the most literal segments, then the most literal bytes in mixed segments, then the first
// one declared.
type index struct {
	operations []operation // in order of preference
	methods    map[string]*tries
}

// tries are the patterns of the operations of one method.
type tries struct {
	folded trieNode // keys are decoded segments in lower case
	exact  trieNode // keys are segments as in the request
}

// A trieNode is the common beginning of patterns. Its numbers are positions in index.operations;
// the smallest one wins.
type trieNode struct {
	best     int // of all patterns below
	here     int // of the patterns that end here
	rest     int // of the patterns that match any further segments
	literals map[string]*trieNode
	mixed    []mixedEdge
	any      *trieNode
}

// A mixedEdge matches a segment that consists of parts, with at least one byte between two parts.
type mixedEdge struct {
	parts [][]byte
	next  *trieNode
}

// none is the position of no operation. It is larger than all positions.
const none = math.MaxInt

func newNode() *trieNode { return &trieNode{best: none, here: none, rest: none} }

// newIndex returns an index of list, which it sorts. Of operations that match equally well, the
// first one in list wins.
func newIndex(list []operation) *index {
	slices.SortStableFunc(list, func(a, b operation) int {
		return cmp.Compare(b.pattern.weight(), a.pattern.weight())
	})
	t := &index{list, make(map[string]*tries)}
	for i := range list {
		o := &list[i]
		roots := t.methods[o.method]
		if roots == nil {
			roots = &tries{*newNode(), *newNode()}
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

// weight returns the rank of a pattern. A literal segment counts more than any number of literal
// bytes in mixed segments.
func (p *Pattern) weight() int64 {
	weight := int64(p.literals()) << 32
	for _, s := range p.segments {
		weight += int64(len(s.mixed) - strings.Count(s.mixed, parameter))
	}
	return weight
}

// add adds a pattern below n. i is the position of its operation.
func (n *trieNode) add(p *Pattern, i int) {
	for _, s := range p.segments {
		n.best = min(n.best, i)
		n = n.next(s, p.exact)
	}
	n.best = min(n.best, i)
	if p.rest {
		n.rest = min(n.rest, i)
	} else {
		n.here = min(n.here, i)
	}
}

// next returns the child of n for a segment. It creates the child if it does not exist.
func (n *trieNode) next(s segment, exact bool) *trieNode {
	switch {
	case s.literal != "":
		key := s.literal
		if exact {
			key = escapeLiteral(key)
		}
		if n.literals[key] == nil {
			if n.literals == nil {
				n.literals = make(map[string]*trieNode)
			}
			n.literals[key] = newNode()
		}
		return n.literals[key]
	case s.mixed != "":
		parts := bytes.Split([]byte(s.mixed), []byte(parameter))
		for _, m := range n.mixed {
			if slices.EqualFunc(m.parts, parts, bytes.Equal) {
				return m.next
			}
		}
		n.mixed = append(n.mixed, mixedEdge{parts, newNode()})
		return n.mixed[len(n.mixed)-1].next
	case n.any == nil:
		n.any = newNode()
	}
	return n.any
}

// find returns the operation of a call on a canonical escaped path, or nil. It allocates only for
// segments of more than 64 bytes.
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

// maxCost returns the highest cost of the operations on a canonical escaped path, whatever their
// method. It is at least 1.
func (t *index) maxCost(path string) int64 {
	cost := int64(1)
	for method := range t.methods {
		if o := t.find(method, path); o != nil && !o.leftOut {
			cost = max(cost, o.cost)
		}
	}
	return cost
}

// find returns the position of the best operation below n that matches path, or best if that is
// smaller.
func (n *trieNode) find(path string, exact bool, best int) int {
	if n == nil || n.best >= best {
		return best
	}
	best = min(best, n.rest)
	if path == "" {
		return min(best, n.here)
	}
	word, rest := cutSegment(path)
	var stack [64]byte // avoids an allocation
	key := append(stack[:0], word...)
	if !exact {
		key = foldSegment(key)
	}
	best = n.literals[string(key)].find(rest, exact, best)
	for i := range n.mixed {
		if m := &n.mixed[i]; matchParts(m.parts, key) {
			best = m.next.find(rest, exact, best)
		}
	}
	return n.any.find(rest, exact, best)
}

// foldSegment decodes a segment and converts it to lower case, in place.
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

// matchParts reports whether word consists of parts, with at least one byte between two parts.
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

// escapeLiteral returns a literal as in the request of a client that escapes only the characters
// that it must (RFC 3986 §2.4).
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

package route

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// A pattern is a path pattern of the Caddyfile, the same language for every option that takes one:
// split at `/`, `{anything}` or `*` is exactly one non-empty segment, a last `**` or `*` is the
// rest, also empty, everything else is literal, and a trailing slash counts for nothing. It is
// matched against a canonical escaped path (see CanonicalPath), segment by segment on what these
// decode to.
type Pattern struct {
	text     string
	segments []segment
	rest     bool // anything may follow
	exact    bool // literals are compared with regard to ASCII case
}

type segment struct {
	literal   string // in lower case unless the pattern is exact; empty: any one segment …
	mixed     string // … unless this says what it looks like, in lower case: see parameter
	namespace bool   // captures
}

// splitPattern reads a pattern. The error says what is wrong with it.
func splitPattern(text string, exact bool) (Pattern, error) {
	p := Pattern{text: text, exact: exact}
	if !strings.HasPrefix(text, "/") {
		return p, fmt.Errorf("path pattern %q does not begin with /", redact.Argument(text))
	}
	if strings.Contains(text, "//") {
		return p, fmt.Errorf("path pattern %q has an empty segment (//), which no request can have",
			redact.Argument(text))
	}
	words := strings.Split(strings.TrimSuffix(text[1:], "/"), "/")
	if len(words) == 1 && words[0] == "" {
		return p, nil
	}
	captured := false
	for i, word := range words {
		last := i == len(words)-1
		switch {
		case last && (word == "*" || word == "**"):
			p.rest = true
			return p, nil
		case word == "**":
			return p, fmt.Errorf("path pattern %q has ** before its end: there it stands for the "+
				"rest, write * for one segment", redact.Argument(text))
		case word == "." || word == "..":
			return p, fmt.Errorf("path pattern %q has the segment %q, which no request can have",
				redact.Argument(text), redact.Argument(word))
		case word == "{namespace}":
			if captured {
				return p, fmt.Errorf("path pattern %q has {namespace} twice", redact.Argument(text))
			}
			captured = true
			p.segments = append(p.segments, segment{namespace: true})
		case word == "*", isParameter(word):
			p.segments = append(p.segments, segment{})
		default:
			if !exact {
				word = ascii.ToLower(word)
			}
			p.segments = append(p.segments, segment{literal: word})
		}
	}
	return p, nil
}

// ParsePattern is splitPattern for a pattern of the configuration, of which some request must
// be able to match each segment.
func ParsePattern(text string, exact bool) (Pattern, error) {
	p, err := splitPattern(text, exact)
	if err != nil {
		return p, err
	}
	for word := range strings.SplitSeq(strings.Trim(text, "/"), "/") {
		if CanonicalPath("/"+escapeLiteral(word), false) {
			continue
		}
		err := fmt.Errorf("path pattern %q has the segment %q, which no request can have",
			redact.Argument(text), redact.Argument(word))
		if decoded, e := url.PathUnescape(word); e == nil &&
			CanonicalPath("/"+escapeLiteral(decoded), false) && !strings.Contains(decoded, "/") {
			err = fmt.Errorf("%w: patterns are compared with the decoded path, so write %q", err,
				decoded)
		}
		return p, err
	}
	return p, nil
}

// isParameter reports whether a segment is `{anything}`. Caddy's adapter may have rewritten the
// name inside.
func isParameter(word string) bool {
	return len(word) > 2 && word[0] == '{' && word[len(word)-1] == '}'
}

// LiteralWildcard reports whether a pattern without errors has a segment that looks like a wildcard
// but is literal, such as /docs*.
func LiteralWildcard(text string) bool {
	p, _ := splitPattern(text, true)
	return slices.ContainsFunc(p.segments,
		func(s segment) bool { return strings.ContainsAny(s.literal, "*{}") })
}

// same reports whether p and q match the same paths in the same way.
func (p *Pattern) same(q *Pattern) bool {
	return p.rest == q.rest && slices.Equal(p.segments, q.segments)
}

// literals counts the literal segments: among the patterns that match, the one with most of them
// wins.
func (p *Pattern) literals() int {
	n := 0
	for _, s := range p.segments {
		if s.literal != "" {
			n++
		}
	}
	return n
}

func (p *Pattern) Captures() bool {
	return slices.ContainsFunc(p.segments, func(s segment) bool { return s.namespace })
}

// match reports whether a canonical escaped path fits, and the segment that {namespace} stands for,
// decoded. It does not allocate unless that segment holds a percent sign.
func (p *Pattern) Match(path string) (namespace string, ok bool) {
	rest := strings.TrimSuffix(path[1:], "/")
	captured := ""
	for i := range p.segments {
		if rest == "" {
			return "", false
		}
		var word string
		word, rest = cutSegment(rest)
		s := &p.segments[i]
		switch {
		case s.literal != "":
			if !matchLiteral(s.literal, word, p.exact) {
				return "", false
			}
		case s.namespace:
			captured = word
		}
	}
	if rest != "" && !p.rest {
		return "", false
	}
	if strings.IndexByte(captured, '%') >= 0 {
		decoded, err := url.PathUnescape(captured)
		if err != nil {
			return "", false
		}
		captured = decoded
	}
	return captured, true
}

func cutSegment(path string) (word, rest string) {
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return path, ""
}

// matchLiteral compares a literal with an escaped segment.
func matchLiteral(literal, word string, exact bool) bool {
	i := 0
	for n := range len(literal) {
		if i == len(word) {
			return false
		}
		c := word[i]
		i++
		if c == '%' && i+2 <= len(word) && ascii.IsHex(word[i]) && ascii.IsHex(word[i+1]) {
			c = ascii.Unhex(word[i])<<4 | ascii.Unhex(word[i+1])
			i += 2
		}
		if !exact {
			c = ascii.Lower(c)
		}
		if c != literal[n] {
			return false
		}
	}
	return i == len(word)
}

// SortPatterns puts the patterns with most literal segments first and keeps the order among equals,
// so that the first that matches is the one that counts.
func SortPatterns(list []Pattern) {
	sortByPattern(list, func(p *Pattern) *Pattern { return p })
}

// sortByPattern is SortPatterns for a list of anything that has a pattern.
func sortByPattern[T any](list []T, of func(*T) *Pattern) {
	slices.SortStableFunc(list, func(a, b T) int { return of(&b).literals() - of(&a).literals() })
}

// AddPattern appends a pattern unless the list has one that is the same.
func AddPattern(list []Pattern, option, text string, exact bool) ([]Pattern, error) {
	p, err := ParsePattern(text, exact)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", option, err)
	}
	for i := range list {
		if list[i].same(&p) {
			return nil, fmt.Errorf("%s: path pattern %q matches the same as %q: remove one of them",
				option, redact.Argument(text), redact.Argument(list[i].text))
		}
	}
	return append(list, p), nil
}

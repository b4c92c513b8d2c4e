package route

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// A Pattern is a path pattern of the Caddyfile. All options use the same syntax. Segments are
// separated by `/`. `{anything}` or `*` matches exactly one non-empty segment. A trailing `**` or
// `*` matches the rest of the path, which may be empty. All other segments are literal. A trailing
// slash is ignored. Patterns match canonical escaped paths (see [CanonicalPath]), of which they
// compare the decoded segments. The zero value matches `/`.
type Pattern struct {
	text     string
	segments []segment
	rest     bool // matches any further segments
	exact    bool // literals are case-sensitive
}

// A segment is literal, mixed or, if both fields are empty, a wildcard.
type segment struct {
	literal   string // in lower case unless the pattern is exact
	mixed     string // literal parts in lower case, separated by parameter
	namespace bool   // the wildcard {namespace}, which is captured
}

// splitPattern parses a pattern. With exact, literals are case-sensitive.
func splitPattern(text string, exact bool) (Pattern, error) {
	p := Pattern{text: text, exact: exact}
	if !strings.HasPrefix(text, "/") {
		return p, fmt.Errorf("path pattern %q must begin with /", redact.Argument(text))
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
			return p, fmt.Errorf("path pattern %q has ** before its end: ** matches the rest of a "+
				"path, * matches one segment", redact.Argument(text))
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

// ParsePattern parses a pattern of the configuration. It returns an error if no request could match
// one of the segments. With exact, literals are case-sensitive.
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

// LiteralWildcard reports whether a valid pattern has a segment that looks like a wildcard but is
// literal, such as /docs*.
func LiteralWildcard(text string) bool {
	p, _ := splitPattern(text, true)
	return slices.ContainsFunc(p.segments,
		func(s segment) bool { return strings.ContainsAny(s.literal, "*{}") })
}

// same reports whether p and q match the same paths in the same way.
func (p *Pattern) same(q *Pattern) bool {
	return p.rest == q.rest && slices.Equal(p.segments, q.segments)
}

// literals returns the number of literal segments. Of the patterns that match a path, the one with
// the most literal segments wins.
func (p *Pattern) literals() int {
	n := 0
	for _, s := range p.segments {
		if s.literal != "" {
			n++
		}
	}
	return n
}

// Captures reports whether the pattern has a {namespace}.
func (p *Pattern) Captures() bool {
	return slices.ContainsFunc(p.segments, func(s segment) bool { return s.namespace })
}

// Match reports whether the pattern matches a canonical escaped path, and returns the decoded
// segment that {namespace} matches, if any. It allocates only if that segment has a percent sign.
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

// cutSegment cuts a path after its first segment.
func cutSegment(path string) (word, rest string) {
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return path, ""
}

// matchLiteral reports whether an escaped segment, word, matches a literal.
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

// SortPatterns sorts patterns by their number of literal segments, the most first, so that the
// first pattern that matches a path wins. The sort is stable.
func SortPatterns(list []Pattern) {
	sortByPattern(list, func(p *Pattern) *Pattern { return p })
}

// sortByPattern sorts values as SortPatterns does. The function of returns the pattern of a value.
func sortByPattern[T any](list []T, of func(*T) *Pattern) {
	slices.SortStableFunc(list, func(a, b T) int { return of(&b).literals() - of(&a).literals() })
}

// AddPattern parses a pattern as ParsePattern does and appends it to list. It returns an error if
// list has a pattern that matches the same paths. Errors begin with option.
func AddPattern(list []Pattern, option, text string, exact bool) ([]Pattern, error) {
	p, err := ParsePattern(text, exact)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", option, err)
	}
	for i := range list {
		if list[i].same(&p) {
			return nil, fmt.Errorf("%s: path pattern %q matches the same paths as %q: remove one "+
				"of them", option, redact.Argument(text), redact.Argument(list[i].text))
		}
	}
	return append(list, p), nil
}

package route

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/internal/ascii"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// parameter takes the place of a parameter in a mixed segment, which is partly literal. No path
// contains this byte.
const parameter = "\x00"

// parseTemplate parses an OpenAPI path template. Unlike in a pattern of the Caddyfile, a parameter
// may be part of a segment, `*` is literal, and percent-encoding is decoded.
func parseTemplate(text string) (Pattern, error) {
	p := Pattern{text: text}
	switch {
	case !strings.HasPrefix(text, "/"):
		return p, fmt.Errorf("the path %q must begin with /", redact.Argument(text))
	case strings.Contains(text, "//"):
		return p, fmt.Errorf("the path %q has an empty segment (//), which no request can have",
			redact.Argument(text))
	case strings.ContainsFunc(text, unicode.IsControl):
		return p, fmt.Errorf("the path %q has a control character, which no request can have",
			redact.Argument(text))
	case strings.ContainsAny(text, "?#"):
		return p, fmt.Errorf("the path %q has a query or a fragment, which OpenAPI does not allow",
			redact.Argument(text))
	}
	words := strings.TrimSuffix(text[1:], "/")
	if words == "" {
		return p, nil
	}
	for word := range strings.SplitSeq(words, "/") {
		if word == "." || word == ".." {
			return p, fmt.Errorf("the path %q has the segment %q, which no request can have",
				redact.Argument(text), redact.Argument(word))
		}
		mixed, err := cutParameters(word)
		switch {
		case err != nil:
			return p, fmt.Errorf("the path %q: %w", redact.Argument(text), err)
		case !CanonicalPath("/"+escapeLiteral(strings.ReplaceAll(mixed, parameter, "x")), false):
			return p, fmt.Errorf("the path %q has the segment %q, which no request can have",
				redact.Argument(text), redact.Argument(word))
		case mixed == parameter:
			p.segments = append(p.segments, segment{})
		case strings.Contains(mixed, parameter):
			p.segments = append(p.segments, segment{mixed: ascii.ToLower(mixed)})
		default:
			p.segments = append(p.segments, segment{literal: ascii.ToLower(mixed)})
		}
	}
	return p, nil
}

// cutParameters decodes a segment and replaces each {name} in it with parameter.
func cutParameters(word string) (string, error) {
	var out strings.Builder
	for rest := word; ; {
		literal, after, found := strings.Cut(rest, "{")
		if strings.Contains(literal, "}") {
			return "", fmt.Errorf("the segment %q has a } without {", redact.Argument(word))
		}
		if decoded, err := url.PathUnescape(literal); err == nil {
			literal = decoded
		}
		switch {
		case strings.Contains(literal, "/"):
			return "", fmt.Errorf("the segment %q has an encoded slash: add an `operation` with * "+
				"in its place", redact.Argument(word))
		case strings.ContainsFunc(literal, unicode.IsControl):
			return "", fmt.Errorf("the segment %q has a control character, which no request can "+
				"have", redact.Argument(word))
		}
		out.WriteString(literal)
		if !found {
			return out.String(), nil
		}
		name, after, closed := strings.Cut(after, "}")
		if !closed || name == "" || strings.Contains(name, "{") {
			return "", fmt.Errorf("the segment %q has a { that begins no {name}",
				redact.Argument(word))
		}
		out.WriteString(parameter)
		rest = after
	}
}

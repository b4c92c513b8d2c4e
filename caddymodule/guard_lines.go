package caddymodule

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/command"
)

// The JSON of a Caddyfile has no line numbers. To know the line of a handler, we adapt a copy of
// the Caddyfile in which each directive that we may report has an option with its number: a realm,
// or a request header for the upstream. The copy is never run.

// numberTag begins the value of such an option.
const numberTag = "apikeys-doctor-directive-"

// A directive is a directive of a Caddyfile with the tokens of its line and block.
type directive struct {
	name   string
	tokens []caddyfile.Token
}

func (d directive) where() string { return whereIs(d.tokens[0]) }

func whereIs(t caddyfile.Token) string {
	return filepath.Base(t.File) + ":" + strconv.Itoa(t.Line)
}

// A readCaddyfile is a Caddyfile with the lines of its directives.
type readCaddyfile struct {
	blocks     []caddyfile.ServerBlock
	directives []directive
}

// parseCaddyfile parses a Caddyfile and numbers its directives.
func parseCaddyfile(file command.ConfigFile) (*readCaddyfile, error) {
	blocks, err := caddyfile.Parse(file.Name, file.Body)
	if err != nil {
		return nil, err
	}
	c := &readCaddyfile{blocks: blocks}
	for i := range blocks {
		if len(blocks[i].Keys) == 0 && !blocks[i].IsNamedRoute {
			continue // global options
		}
		for j, segment := range blocks[i].Segments {
			blocks[i].Segments[j] = c.number(segment)
		}
	}
	return c, nil
}

// numbered are the directives that are numbered, and the option that takes the number.
var numbered = map[string][]string{
	"api_key": {"realm"}, adminSiteDirective: {"realm"},
	"reverse_proxy": {"header_up", "Apikeys-Directive"},
	"php_fastcgi":   {"header_up", "Apikeys-Directive"},
}

// number adds the number to each directive among the tokens. Lines after it move down.
func (c *readCaddyfile) number(tokens caddyfile.Segment) (out caddyfile.Segment) {
	moved := 0
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		option, known := numbered[t.Text]
		if !known || i > 0 && sameLine(tokens[i-1], t) {
			t.Line += moved
			out = append(out, t)
			continue
		}
		end := i + 1 // of the line
		for end < len(tokens) && sameLine(tokens[end-1], tokens[end]) {
			end++
		}
		opened := end > i+1 && tokens[end-1].Text == "{"
		last := end
		if opened {
			last = blockEnd(tokens, end)
		}
		value := numberTag + strconv.Itoa(len(c.directives))
		c.directives = append(c.directives, directive{t.Text, slices.Clone(tokens[i:last])})
		for _, word := range tokens[i:end] {
			word.Line += moved
			out = append(out, word)
		}
		// Copies of t, because a token knows which imports it comes from.
		added := t
		added.Line = out[len(out)-1].Line
		add := func(words ...string) {
			for _, added.Text = range words {
				out = append(out, added)
			}
		}
		if !opened {
			add("{")
		}
		i = end - 1
		if at := ownOption(tokens, end, last, option[0]); opened && option[0] == "realm" && at > 0 {
			tokens[at+1].Text = value
			continue
		}
		added.Line++
		moved++
		add(append(slices.Clone(option), value)...)
		if !opened {
			added.Line++
			moved++
			add("}")
		}
	}
	return out
}

// sameLine reports whether b is on the line on which a ends.
func sameLine(a, b caddyfile.Token) bool {
	return a.File == b.File && a.Line+a.NumLineBreaks() == b.Line
}

// blockEnd returns the index after the brace that closes the block whose first token is at i.
func blockEnd(tokens []caddyfile.Token, i int) int {
	for depth := 1; i < len(tokens); i++ {
		switch tokens[i].Text {
		case "{":
			depth++
		case "}":
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return i
}

// ownOption returns the index of an option with an argument between i and end, or -1.
func ownOption(tokens []caddyfile.Token, i, end int, name string) int {
	for ; i+1 < end; i++ {
		if tokens[i].Text == name && !sameLine(tokens[i-1], tokens[i]) &&
			sameLine(tokens[i], tokens[i+1]) {
			return i
		}
	}
	return -1
}

// adapt returns the configuration of the copy.
func (c *readCaddyfile) adapt(file command.ConfigFile) (json.RawMessage, error) {
	config, _, err := httpcaddyfile.ServerType{}.Setup(c.blocks,
		map[string]any{"filename": file.Name})
	if err != nil {
		return nil, err
	}
	return json.Marshal(config)
}

// where returns the line that a danger refers to, or "" if it is not known.
func (c *readCaddyfile) where(d danger) string {
	var tag string
	switch h := d.of.(type) {
	case *Handler:
		tag = h.Realm
	case *AdminSite:
		tag = h.Realm
	case *reverseproxy.Handler:
		if h.Headers != nil && h.Headers.Request != nil {
			if values := h.Headers.Request.Set["Apikeys-Directive"]; len(values) > 0 {
				tag = values[0]
			}
		}
	case caddyhttp.MiddlewareHandler:
		if d.problem == orderProblem {
			return c.lines("rate_limit", "{http.api_key.", "{"+userPlaceholder+"}")
		}
	}
	number, err := strconv.Atoi(strings.TrimPrefix(tag, numberTag))
	if err != nil || number >= len(c.directives) {
		return ""
	}
	found := c.directives[number]
	for i, t := range found.tokens {
		if d.option != "" && t.Text == d.option && i > 0 && !sameLine(found.tokens[i-1], t) {
			rest := found.tokens[i:]
			end := 1
			for end < len(rest) && sameLine(rest[end-1], rest[end]) {
				end++
			}
			if d.value == "" || slices.ContainsFunc(rest[:end],
				func(word caddyfile.Token) bool { return word.Text == d.value }) {
				return whereIs(t)
			}
		}
	}
	return found.where()
}

// lines returns where directives or options with this name are in the Caddyfile. With words, it
// leaves out those whose line and block have none of the words.
func (c *readCaddyfile) lines(name string, words ...string) string {
	var found []string
	for _, block := range c.blocks {
		for _, tokens := range block.Segments {
			for i, t := range tokens {
				if t.Text != name || i > 0 && sameLine(tokens[i-1], t) {
					continue
				}
				end := i + 1
				for end < len(tokens) && sameLine(tokens[end-1], tokens[end]) {
					end++
				}
				if tokens[end-1].Text == "{" {
					end = blockEnd(tokens, end)
				}
				if len(words) == 0 || slices.ContainsFunc(tokens[i:end], func(t caddyfile.Token) bool {
					return slices.ContainsFunc(words,
						func(word string) bool { return strings.Contains(t.Text, word) })
				}) {
					found = append(found, whereIs(t))
				}
			}
		}
	}
	return strings.Join(found, ", ")
}

package openapi

import (
	"bytes"
	"encoding/json"

	"go.yaml.in/yaml/v3"
)

// parseJSON parses valid JSON into the nodes of the YAML parser, which itself rejects surrogate
// pairs (RFC 8259 §7).
func parseJSON(text []byte) *yaml.Node {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	p := jsonParser{decoder: d, text: text, line: 1}
	return p.value()
}

// A jsonParser counts the lines of the values that it parses.
type jsonParser struct {
	decoder *json.Decoder
	text    []byte
	line    int // of the last token
	begins  int // offset in text of that line
	counted int // offset in text up to which lines have been counted
}

// value parses the next value.
func (p *jsonParser) value() *yaml.Node {
	token, _ := p.decoder.Token()
	end := int(p.decoder.InputOffset())
	passed := p.text[p.counted:end]
	if n := bytes.Count(passed, []byte("\n")); n > 0 {
		p.line += n
		p.begins = p.counted + bytes.LastIndexByte(passed, '\n') + 1
	}
	p.counted = end
	n := &yaml.Node{Line: p.line, Column: end - p.begins + 1}
	switch token := token.(type) {
	case json.Delim:
		n.Kind = yaml.SequenceNode
		if token == '{' {
			n.Kind = yaml.MappingNode
		}
		for p.decoder.More() {
			n.Content = append(n.Content, p.value())
		}
		_, _ = p.decoder.Token() // the closing bracket
	case string:
		n.Kind, n.Tag, n.Value = yaml.ScalarNode, "!!str", token
	case json.Number:
		n.Kind, n.Tag, n.Value = yaml.ScalarNode, "!!float", token.String()
	case bool:
		n.Kind, n.Tag, n.Value = yaml.ScalarNode, "!!bool", map[bool]string{false: "false",
			true: "true"}[token]
	default:
		n.Kind, n.Tag = yaml.ScalarNode, "!!null"
	}
	return n
}

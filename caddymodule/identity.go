package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// An identityHeader is a header that tells the upstream whose request it is.
type identityHeader struct {
	word   string // selects the header in the option `identity`
	header string
	value  func(*request) string // returns "" to leave the header out
}

var identityHeaders = [numIdentityHeaders]identityHeader{
	{"id", "X-Apikey-Id", func(req *request) string { return headerValue(req.record.KeyID) }},
	{"name", "X-Apikey-Name", func(req *request) string { return headerValue(req.record.Name) }},
	{"namespace", "X-Apikey-Namespace",
		func(req *request) string { return headerValue(req.namespaceID) }},
	{"owner", "X-Apikey-Owner", func(req *request) string { return headerValue(req.record.Owner) }},
	{"permissions", "X-Apikey-Permissions", (*request).permissions},
}

const numIdentityHeaders = 5

// identitySet says which of identityHeaders the upstream receives.
type identitySet [numIdentityHeaders]bool

// identityWords lists the words of the option for error messages.
const identityWords = "id, name, namespace, owner, permissions or none"

// parseIdentity returns the headers that words select: all if there are no words.
func parseIdentity(words []string) (selected identitySet, err error) {
	if len(words) == 0 {
		for i := range selected {
			selected[i] = true
		}
		return selected, nil
	}
	for _, word := range words {
		i := slices.IndexFunc(identityHeaders[:],
			func(h identityHeader) bool { return h.word == word })
		switch {
		case word == "none" && len(words) > 1:
			return selected, errors.New("identity: none cannot be combined with other words")
		case word == "none":
			return selected, nil
		case i < 0:
			return selected, fmt.Errorf("identity: unknown word %q: must be %s",
				redact.Argument(word), identityWords)
		case selected[i]:
			return selected, fmt.Errorf("identity: %s is given twice", word)
		}
		selected[i] = true
	}
	return selected, nil
}

// identify sets the identity headers. It does not use placeholders, so no value is expanded.
func (req *request) identify(header http.Header, rules *rules) {
	h := headerSetter{header, req.takeValues()}
	for i := range identityHeaders {
		if !rules.identity[i] {
			continue
		}
		if value := identityHeaders[i].value(req); value != "" {
			h.set(identityHeaders[i].header, value)
		}
	}
	for _, m := range rules.metadata {
		if value := req.record.Metadata(m.name); value != "" {
			h.set(m.header, headerValue(value))
		}
	}
}

// maxPermissionsHeader is the maximum length of X-Apikey-Permissions in bytes. Upstreams often
// accept only 8 KiB of headers.
const maxPermissionsHeader = 4 << 10

// permissions returns the permissions that both the key and its owner have, as far as a derived token
// leaves them, or "" if that is too long for a header.
func (req *request) permissions() string {
	list := req.record.Set(req.policy, req.namespace, req.narrowing).String()
	if len(list) > maxPermissionsHeader {
		return ""
	}
	return list
}

// headerValue encodes a text as the value of a header. It percent-encodes the percent sign and all
// bytes except visible ASCII.
func headerValue(text string) string {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' || c == '%' {
			return escapeHeaderValue(text)
		}
	}
	return text
}

func escapeHeaderValue(text string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

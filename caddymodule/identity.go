package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
)

// identityHeaders are the headers that tell the upstream whose request it is. The option `identity`
// selects them by word.
var identityHeaders = [numIdentityHeaders]struct {
	word, header string
	value        func(*request) string // empty if the header is left out
}{
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

var everyIdentityHeader = identitySet{true, true, true, true, true}

// identityWords lists the words of the option for error messages.
const identityWords = "id, name, namespace, owner and permissions, or none"

// parseIdentity returns the headers that words select: all if there are no words.
func parseIdentity(words []string) (selected identitySet, err error) {
	if len(words) == 0 {
		return everyIdentityHeader, nil
	}
	for _, word := range words {
		if word == "none" {
			if len(words) > 1 {
				return selected, errors.New("identity: none cannot be combined with other words")
			}
			return selected, nil
		}
		known := false
		for i := range identityHeaders {
			if identityHeaders[i].word != word {
				continue
			}
			if selected[i] {
				return selected, fmt.Errorf("identity: %s is given twice", word)
			}
			selected[i], known = true, true
		}
		if !known {
			return selected, fmt.Errorf("identity: unknown word %q: must be some of %s",
				redact.Argument(word), identityWords)
		}
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
			header[m.header] = []string{headerValue(value)}
		}
	}
}

// maxPermissionsHeader is the maximum length of X-Apikey-Permissions in bytes. Upstreams often
// accept only 8 KiB of headers.
const maxPermissionsHeader = 4 << 10

// permissions returns the permissions that both the key and its owner have, or "" if that is too
// long for a header.
func (req *request) permissions() string {
	list := req.record.Set(req.policy, req.namespace).String()
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

package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// JudgedHeader is a header that names another resource.
type JudgedHeader struct {
	// The name of the header.
	Header string `json:"header"`
	// What the request does with the resource: `read` needs the permission of GET, `write` that of
	// PUT. Default is `read`.
	Class string `json:"class,omitempty"`
}

// A targetHeader is a header whose value is judged like the path of the request.
type targetHeader struct {
	name   string // in canonical form
	folded string // see foldsTo
	class  keystore.Class

	destination bool // the Destination of MOVE and COPY alone (RFC 4918 §10.3)
	required    bool // a request without the header is refused
	relative    bool // a value without a leading slash is relative to the root
}

// A secondTarget is a resource that a header of a call names.
type secondTarget struct {
	header      string
	otherHost   bool // not on this host, so no permission allows it
	need        keystore.Need
	namespaceID string // the id of the namespace; empty: the key's own, or none
}

// addTargets compiles also_judge, and the rule for Destination where a method has one.
func (c *rules) addTargets(h *Handler) error {
	for _, j := range h.AlsoJudge {
		class := keystore.Read
		if j.Class != "" {
			var err error
			if class, err = route.ParseClass("also_judge", j.Class); err != nil {
				return err
			}
		}
		t := targetHeader{name: http.CanonicalHeaderKey(j.Header), folded: foldName(j.Header),
			class: class, relative: true}
		switch {
		case !httpguts.ValidHeaderFieldName(j.Header):
			return fmt.Errorf("also_judge: %q is no name of a header", redact.Argument(j.Header))
		case isDropped(j.Header, true):
			return fmt.Errorf("also_judge: %s is taken out of every request, so it cannot name "+
				"anything to the API: leave it out", redact.Argument(j.Header))
		case slices.Contains(reservedHeaders, t.name):
			return fmt.Errorf("also_judge: the value of %s is no path: leave it out",
				redact.Argument(j.Header))
		case t.name == "Destination" && class == keystore.Read:
			return errors.New("also_judge: Destination names what is written: write `also_judge " +
				"write Destination`")
		case slices.ContainsFunc(c.targets,
			func(other targetHeader) bool { return other.folded == t.folded }):
			return fmt.Errorf("also_judge: %s is given twice", redact.Argument(j.Header))
		}
		c.targets = append(c.targets, t)
	}
	own := slices.ContainsFunc(c.targets,
		func(t targetHeader) bool { return t.name == "Destination" })
	// else MOVE and COPY are refused, and other requests need no look
	if !own && c.mapsDestination() {
		c.targets = append(c.targets, targetHeader{
			name: "Destination", folded: "destination", class: keystore.Write, destination: true,
			required: h.Forwarded != "",
		})
	}
	if mayContainPath(c.namespace) && len(c.targets) > 0 {
		return fmt.Errorf("namespace: %s shows the request's own path, so what Destination or "+
			"also_judge names could not be judged: "+
			"take the namespace from the path with namespace_path", redact.Argument(c.namespace))
	}
	return nil
}

// mayContainPath reports whether a text has a placeholder that may be a part of the request's path.
func mayContainPath(text string) bool {
	return slices.ContainsFunc([]string{"{http.request.uri", "{http.request.orig_uri",
		"{http.regexp."}, func(name string) bool {
		return strings.Contains(text, name)
	})
}

func (c *rules) mapsDestination() bool {
	for method := range c.methods {
		if hasDestination(method) {
			return true
		}
	}
	return false
}

// hasDestination reports whether a method writes to what its header Destination names.
func hasDestination(method string) bool {
	return strings.EqualFold(method, "MOVE") || strings.EqualFold(method, "COPY")
}

func foldName(name string) string {
	folded := []byte(name)
	for i := range folded {
		folded[i] = foldSeparator(folded[i])
	}
	return string(folded)
}

// findTargets adds to a call the resources that its headers name. It reports false if one of the
// headers is repeated, is required but missing, or is not canonical.
func (c *rules) findTargets(call *call) bool {
	for i := range c.targets {
		t := &c.targets[i]
		if t.destination && !hasDestination(call.method) {
			continue
		}
		value, n := t.find(call.r.Header)
		if n == 0 && !t.required {
			continue
		}
		if n != 1 || !route.IsOneURI(value) {
			return false
		}
		path, query, otherHost := route.Locate(value, call.host(), t.relative)
		if !route.CanonicalPath(path, c.encodedSlash && t.destination) {
			return false
		}
		if !otherHost && c.isPublic(path) {
			continue
		}
		method := http.MethodGet
		if t.class == keystore.Write {
			method = http.MethodPut
		}
		call.targets = append(call.targets, secondTarget{
			header: t.name, otherHost: otherHost,
			need: c.table.Need(method, path, query, t.class), namespaceID: c.namespaceOf(call, path),
		})
	}
	return true
}

// find returns the header's value and the number of its lines, under every name that folds to its
// own.
func (t *targetHeader) find(header http.Header) (value string, n int) {
	for name, lines := range header {
		if foldsTo(name, t.folded) && len(lines) > 0 {
			value = lines[0]
			n += len(lines)
		}
	}
	return value, n
}

// host returns the host that the client asked for.
func (c *call) host() string {
	if told := c.r.Header["X-Forwarded-Host"]; c.request.trusted && len(told) == 1 {
		return told[0]
	}
	return c.r.Host
}

// decideTargets judges what headers name, once the call itself is allowed.
func (h *Handler) decideTargets(c *call, q keystore.Request) keystore.Outcome {
	for i := range c.targets {
		t := &c.targets[i]
		if h.Namespace == keystore.HomeNamespace && t.namespaceID == "" {
			t.namespaceID = c.record.Namespace
		}
		q.Namespace, q.Need = c.policy.Namespace(t.namespaceID), t.need
		outcome := keystore.Decide(c.record, &q)
		if outcome == keystore.OK && t.otherHost {
			outcome = keystore.Forbidden
		}
		if outcome != keystore.OK {
			c.refuseTarget(t)
			c.namespace = q.Namespace
			return outcome
		}
	}
	return keystore.OK
}

// refuseTarget makes a refusal be about a second target.
func (c *call) refuseTarget(t *secondTarget) {
	c.refusedTarget, c.need, c.namespaceID = t, t.need, t.namespaceID
}

// detail says for people which header a refusal is about.
func (t *secondTarget) detail() string {
	switch {
	case t.otherHost:
		return fmt.Sprintf("The header %s names a resource that is not on this host.", t.header)
	case t.need.Undeclared:
		return fmt.Sprintf("The header %s names a resource for which the API declares no such "+
			"call, so no permission allows it.", t.header)
	}
	return fmt.Sprintf("The permission was missing for the resource that the header %s names.",
		t.header)
}

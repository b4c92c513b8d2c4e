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

// JudgedHeader is a request header that names another resource, which is checked like the request's
// own path.
type JudgedHeader struct {
	// The name of the header.
	Header string `json:"header"`

	// The access to the resource: `read` requires the permission for GET, `write` the one for PUT.
	// Default is `read`.
	Class string `json:"class,omitempty"`
}

// A targetHeader is a compiled JudgedHeader, or the Destination header of MOVE and COPY.
type targetHeader struct {
	name   string // in canonical form
	folded string // see foldsTo
	class  keystore.Class

	destination bool // whether it applies only to MOVE and COPY (RFC 4918 §10.3)
	required    bool // whether a MOVE or COPY without the header is refused
	relative    bool // whether a value without a leading slash is relative to the root
}

// A secondTarget is a resource that a header of a request names.
type secondTarget struct {
	header      string
	otherHost   bool // whether it is on another host, so that no permission allows it
	need        keystore.Need
	permission  string // the text of need
	namespaceID string // empty for the key's own, or none
}

// addTargets compiles also_judge. It adds the Destination header if MOVE or COPY is mapped.
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
			return fmt.Errorf("also_judge: %q is not a valid header name",
				redact.Argument(j.Header))
		case isDropped(j.Header, true):
			return fmt.Errorf("also_judge: %s is removed from every request, so the API never "+
				"receives it: remove it from also_judge", redact.Argument(j.Header))
		case slices.Contains(reservedHeaders, t.name):
			return fmt.Errorf("also_judge: the value of %s is not a path: remove it from "+
				"also_judge", redact.Argument(j.Header))
		case t.name == "Destination" && class == keystore.Read:
			return errors.New("also_judge: MOVE and COPY write to Destination: use `also_judge " +
				"write Destination`")
		case slices.ContainsFunc(c.targets,
			func(other targetHeader) bool { return other.folded == t.folded }):
			return fmt.Errorf("also_judge: %s is given twice", redact.Argument(j.Header))
		}
		c.targets = append(c.targets, t)
	}
	if c.mapsDestination() {
		i := slices.IndexFunc(c.targets,
			func(t targetHeader) bool { return t.name == "Destination" })
		if i < 0 { // other methods ignore the header
			i = len(c.targets)
			c.targets = append(c.targets, targetHeader{name: "Destination", folded: "destination",
				class: keystore.Write, destination: true})
		}
		c.targets[i].required = h.Forwarded != "" // the proxy may not have sent it
	}
	if mayContainPath(c.namespace) && len(c.targets) > 0 {
		return fmt.Errorf("namespace: %s may contain the request's own path, so the resources in "+
			"Destination and also_judge headers could not be checked: use namespace_path",
			redact.Argument(c.namespace))
	}
	return nil
}

// mayContainPath reports whether a text has a placeholder that may stand for a part of the
// request's path.
func mayContainPath(text string) bool {
	return slices.ContainsFunc([]string{"{http.request.uri", "{http.request.orig_uri",
		"{http.regexp."}, func(name string) bool {
		return strings.Contains(text, name)
	})
}

// mapsDestination reports whether MOVE or COPY is mapped.
func (c *rules) mapsDestination() bool {
	for method := range c.methods {
		if hasDestination(method) {
			return true
		}
	}
	return false
}

// hasDestination reports whether a method writes to the resource in the Destination header.
func hasDestination(method string) bool {
	return strings.EqualFold(method, "MOVE") || strings.EqualFold(method, "COPY")
}

// foldName returns a header name in the form that foldsTo compares with.
func foldName(name string) string {
	folded := []byte(name)
	for i := range folded {
		folded[i] = foldSeparator(folded[i])
	}
	return string(folded)
}

// findTargets adds the resources that headers name to the call, and their cost. It reports false if
// such a header is repeated, is required but missing, or has a value that is not canonical.
func (c *rules) findTargets(call *call) bool {
	for i := range c.targets {
		t := &c.targets[i]
		if t.destination && !hasDestination(call.method) {
			continue
		}
		value, n := t.find(call.r.Header)
		if n == 0 && !(t.required && hasDestination(call.method)) {
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
		need, permission, cost := c.table.Need(method, path, query, t.class)
		call.cost = max(call.cost, cost)
		call.targets = append(call.targets, secondTarget{
			header: t.name, otherHost: otherHost, need: need, permission: permission,
			namespaceID: c.namespaceOf(call, path),
		})
	}
	return true
}

// find returns the header's value and its number of lines. Names that fold to the header's name
// count too.
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

// decideTargets decides on the resources that headers name. q is the request's own, which has been
// allowed.
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

// refuseTarget makes a second target the reason of the refusal.
func (c *call) refuseTarget(t *secondTarget) {
	c.refusedTarget, c.need, c.permission, c.namespaceID = t, t.need, t.permission, t.namespaceID
}

// detail returns the text of a refusal that names the header.
func (t *secondTarget) detail() string {
	switch {
	case t.otherHost:
		return fmt.Sprintf("The header %s names a resource that is not on this host.", t.header)
	case t.need.Undeclared:
		return fmt.Sprintf("The API declares no such operation for the resource that the header "+
			"%s names, so no permission allows it.", t.header)
	}
	return fmt.Sprintf("The key lacks the permission for the resource that the header %s names.",
		t.header)
}

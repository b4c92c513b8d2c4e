package admin

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// condition holds the entity tags of a conditional request (RFC 9110 §13.1).
type condition struct {
	any    bool    // "*"
	strong []int64 // versions of strong tags
	weak   []int64 // versions of weak tags
}

// parseCondition parses If-Match or If-None-Match. It drops tags that no object can have.
//
// The ETag of an object is its version. Caddy's `encode` appends the coding when it compresses the
// answer: "1-gzip". Other proxies make the tag weak: W/"1".
func parseCondition(header string) (c condition) {
	if strings.TrimSpace(header) == "*" {
		c.any = true
		return c
	}
	for rest := header; ; {
		rest = strings.TrimLeft(rest, " \t,")
		opaque, weak := strings.CutPrefix(rest, "W/")
		opaque, ok := strings.CutPrefix(opaque, `"`)
		end := strings.IndexByte(opaque, '"')
		if !ok || end < 0 {
			return c
		}
		text, _, _ := strings.Cut(opaque[:end], "-")
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 &&
			text == strconv.FormatInt(n, 10) {
			if weak {
				c.weak = append(c.weak, n)
			} else {
				c.strong = append(c.strong, n)
			}
		}
		rest = opaque[end+1:]
	}
}

// listed joins the lines of a header that holds a list.
func listed(ctx huma.Context, name string) string {
	var lines []string
	ctx.EachHeader(func(n, value string) {
		if n == name {
			lines = append(lines, value)
		}
	})
	return strings.Join(lines, ", ")
}

// Unless holds the condition for showing an object. It is exported because huma sets it by
// reflection.
type Unless struct {
	IfNoneMatch string `header:"If-None-Match" doc:"ETags; the answer is 304 if the object has one of them"`
}

// Resolve implements huma.Resolver.
func (u *Unless) Resolve(ctx huma.Context) []error {
	u.IfNoneMatch = listed(ctx, "If-None-Match")
	return nil
}

// status returns 304 if the client has this version of the object, else 200. It compares weakly
// (RFC 9110 §13.1.2).
func (u *Unless) status(version int64) int {
	if u.IfNoneMatch == "" {
		return http.StatusOK
	}
	c := parseCondition(u.IfNoneMatch)
	if c.any || slices.Contains(c.strong, version) || slices.Contains(c.weak, version) {
		return http.StatusNotModified
	}
	return http.StatusOK
}

package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxBody is the maximum length of a body in bytes, except for an import.
const maxBody = 1 << 20

// withBody reads and checks a body before huma, which is less strict.
func (a *API) withBody(ctx huma.Context, next func(huma.Context)) { a.withJSONBody(ctx, next, true) }

// withJSON is withBody for an operation that checks the values in the body itself.
func (a *API) withJSON(ctx huma.Context, next func(huma.Context)) { a.withJSONBody(ctx, next, false) }

func (a *API) withJSONBody(ctx huma.Context, next func(huma.Context), check bool) {
	body, err := readBody(a.bodyOf(ctx, bodyCopies))
	if err == nil && (len(body) > 0 || ctx.Operation().RequestBody.Required) {
		if err = checkContentType(ctx); err == nil {
			err = checkJSON(body)
		}
		if err == nil && check {
			err = a.validate(ctx.Operation().RequestBody.Content[api.JSON].Schema, body, "body")
		}
	}
	if err != nil {
		accountOf(ctx.Context()).stopReading()
		a.refuse(ctx, err)
		return
	}
	if len(body) == 0 {
		body = []byte("{}")
	}
	next(&bodyRead{humaContext: ctx, body: body})
}

// withStream leaves reading the body to the operation.
func (a *API) withStream(ctx huma.Context, next func(huma.Context)) {
	if err := checkContentType(ctx); err != nil {
		a.refuse(ctx, err)
		return
	}
	next(&bodyStreamed{ctx, a.bodyOf(ctx, 1)})
}

// bodyOf returns a reader of the body. It reserves memory for the given number of copies.
func (a *API) bodyOf(ctx huma.Context, copies int64) io.Reader {
	acct := accountOf(ctx.Context())
	acct.body = &bodyReader{Reader: ctx.BodyReader(), ctx: ctx, idle: a.idleTimeout,
		account: acct, copies: copies}
	return acct.body
}

type humaContext huma.Context

// bodyStreamed is a context with a body that the operation reads.
type bodyStreamed struct {
	humaContext
	body io.Reader
}

func (b *bodyStreamed) BodyReader() io.Reader { return b.body }

// bodyRead is a context with a body that has been read.
type bodyRead struct {
	humaContext
	body []byte
}

func (b *bodyRead) BodyReader() io.Reader { return bytes.NewReader(b.body) }

// SetReadDeadline does nothing. A deadline would still apply while the operation runs, and net/http
// would cancel a change that waits for its propagation beyond it.
func (b *bodyRead) SetReadDeadline(time.Time) error { return nil }

func checkContentType(ctx huma.Context) error {
	known := ctx.Operation().RequestBody
	mediaType, params, err := mime.ParseMediaType(ctx.Header("Content-Type"))
	charset := params["charset"]
	if err == nil && known.Content[mediaType] != nil &&
		(charset == "" || strings.EqualFold(charset, "utf-8")) {
		if coding := ctx.Header("Content-Encoding"); coding != "" && coding != "identity" {
			return newProblem(http.StatusUnsupportedMediaType, "unsupported_media_type",
				"compressed bodies are not supported; send the body uncompressed")
		}
		return nil
	}
	return newProblem(http.StatusUnsupportedMediaType, "unsupported_media_type",
		"the body must be sent as "+strings.Join(contentTypes(known), " or ")+", in UTF-8")
}

func readBody(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	var p *problem
	switch {
	case errors.As(err, &p):
		return nil, p
	case err != nil && !isTooLarge(err):
		return nil, newProblem(http.StatusBadRequest, "incomplete_body", "the body is incomplete")
	case err != nil || len(body) > maxBody:
		return nil, newProblem(http.StatusRequestEntityTooLarge, "too_large",
			fmt.Sprintf("the body is longer than %d bytes", maxBody))
	}
	return body, nil
}

// isTooLarge reports whether the server's own limit on bodies stopped the read.
func isTooLarge(err error) bool {
	var e *http.MaxBytesError
	return errors.As(err, &e)
}

// Limits of a JSON body. They bound the list of errors, because huma reports every invalid value. A
// valid body can reach them only with hundreds of permissions in each of dozens of new_roles.
const (
	maxDepth  = 32
	maxValues = 10_000
)

// checkJSON refuses a body that is not one JSON value. It also refuses two things that
// encoding/json accepts: duplicate names, which parsers resolve differently (RFC 8259 §4), and
// bytes that are not UTF-8. Its errors quote names of the body and never values.
func checkJSON(b []byte) error {
	reason := ""
	switch {
	case len(b) == 0:
		reason = "it is empty"
	case !utf8.Valid(b):
		reason = "it is not UTF-8"
	case !json.Valid(b):
		var v any
		var syntax *json.SyntaxError
		errors.As(json.Unmarshal(b, &v), &syntax)
		reason = fmt.Sprintf("syntax error at byte %d of %d", syntax.Offset, len(b))
	default:
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		left := maxValues
		err := checkNames(d, 0, &left)
		if err == nil {
			return nil
		}
		if left < 0 {
			return newProblem(http.StatusUnprocessableEntity, codeInvalid, err.Error())
		}
		reason = err.Error()
	}
	return newProblem(http.StatusBadRequest, "syntax", "the body is not valid JSON: "+reason)
}

// checkNames reads one value, known to be valid, and returns an error if it repeats a name, is
// nested too deep or has more than left values. It subtracts the values that it reads from left.
func checkNames(d *json.Decoder, depth int, left *int) error {
	if *left--; *left < 0 {
		return fmt.Errorf("the body must contain at most %d values", maxValues)
	}
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("it is nested more than %d levels deep", maxDepth)
	}
	seen := make(map[string]bool)
	for d.More() {
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return err
			}
			name := t.(string)
			if seen[name] {
				if keystore.ContainsToken(name) {
					name = "…"
				}
				return fmt.Errorf("the name %q is duplicated in one object", name)
			}
			seen[name] = true
		}
		if err := checkNames(d, depth+1, left); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// An Error is an answer with an error status. With a status of 500 or more, a change may or may not
// have been made. Otherwise nothing was changed, except that [Client.TransferKeys],
// [Client.RevokeKey] with Made and [Client.ImportKeys] with partial may have changed some of the
// keys. Code is empty if the answer was not a problem document.
type Error struct {
	api.Problem
	RetryAfter time.Duration // how long to wait before a retry; zero: unknown
}

// Error returns the field errors in one line or, without any, the message.
func (e *Error) Error() string {
	if len(e.Errors) == 0 {
		return e.Message()
	}
	parts := make([]string, len(e.Errors))
	for i, f := range e.Errors {
		parts[i] = f.Field + ": " + f.Detail
	}
	return strings.Join(parts, "; ")
}

// Message returns the detail, or the title or status if there is no detail.
func (e *Error) Message() string {
	switch {
	case e.Detail != "":
		return e.Detail
	case e.Title != "":
		return e.Title
	}
	return fmt.Sprintf("HTTP %d %s", e.Status, http.StatusText(e.Status))
}

// StatusOf returns the HTTP status of a refusal, or 0 for other errors and nil.
func StatusOf(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return 0
}

// maxProblem exceeds the longest problem document in bytes: that of an import lists 1000 lines.
const maxProblem = 8 << 20

func readError(resp *http.Response) error {
	e := new(Error)
	switch body := io.LimitReader(resp.Body, maxProblem); mediaType(resp) {
	case api.Problems:
		_ = json.NewDecoder(body).Decode(&e.Problem) // a partial document is better than none
	case api.JSON: // Caddy's own admin endpoint
		var other struct{ Error string }
		_ = json.NewDecoder(body).Decode(&other)
		e.Detail = other.Error
	}
	if location := resp.Header.Get("Location"); location != "" && resp.StatusCode/100 == 3 {
		e.Detail = "the server redirects to " + location +
			", and redirects are not followed: use that address instead"
	}
	e.Status = resp.StatusCode
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}

func mediaType(resp *http.Response) string {
	t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return t
}

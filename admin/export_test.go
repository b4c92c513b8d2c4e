package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// Describe returns the OpenAPI document.
func (a *API) Describe() *huma.OpenAPI { return a.huma.OpenAPI() }

// SetWriteTimeout sets the time that a client has to read a page of an export.
func (a *API) SetWriteTimeout(d time.Duration) { a.writeTimeout = d }

// SetIdleTimeout sets the longest pause of a client while its body is read.
func (a *API) SetIdleTimeout(d time.Duration) { a.idleTimeout = d }

// Age makes the keys older.
func (l *LeakKeys) Age(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fresh, l.tried = l.fresh.Add(-d), l.tried.Add(-d)
}

// Conforms checks an answer against the OpenAPI document.
func (a *API) Conforms(r *http.Request, status int, contentType string, body []byte) error {
	_, pattern := a.mux.Handler(r)
	_, path, _ := strings.Cut(pattern, " ")
	item := a.huma.OpenAPI().Paths[path]
	if item == nil {
		return nil // an unknown path, whose answer is a problem document
	}
	op := map[string]*huma.Operation{"GET": item.Get, "HEAD": item.Get, "POST": item.Post,
		"PATCH": item.Patch, "DELETE": item.Delete}[r.Method]
	if op == nil {
		return fmt.Errorf("%s %s is answered, but not documented", r.Method, path)
	}
	response := op.Responses[strconv.Itoa(status)]
	if response == nil {
		response = op.Responses["default"]
	}
	if status == http.StatusNotModified && len(body) == 0 {
		return nil
	}
	mediaType, _, _ := mime.ParseMediaType(contentType)
	content := response.Content[mediaType]
	if content == nil {
		return fmt.Errorf("%s %s: %d is documented as %v, not as %q", r.Method, path, status,
			response.Content, mediaType)
	}
	if content.Schema == nil {
		return nil
	}
	documents := [][]byte{body}
	if mediaType == api.NDJSON {
		documents = slices.Collect(bytes.Lines(body))
	}
	var found huma.ValidateResult
	for _, text := range documents {
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			return err
		}
		huma.Validate(a.huma.OpenAPI().Components.Schemas, content.Schema,
			huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, v, &found)
	}
	return errors.Join(found.Errors...)
}

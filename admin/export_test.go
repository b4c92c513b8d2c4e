package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// Describe returns what the OpenAPI document is made of.
func (a *API) Describe() *huma.OpenAPI { return a.huma.OpenAPI() }

// Conforms holds an answer against the OpenAPI document.
func (a *API) Conforms(r *http.Request, status int, contentType string, body []byte) error {
	_, pattern := a.mux.Handler(r)
	_, path, _ := strings.Cut(pattern, " ")
	item := a.huma.OpenAPI().Paths[path]
	if item == nil {
		return nil // nothing there: tested by its problem document
	}
	op := map[string]*huma.Operation{"GET": item.Get, "HEAD": item.Get, "POST": item.Post, "PATCH": item.Patch, "DELETE": item.Delete}[r.Method]
	if op == nil {
		return fmt.Errorf("%s %s is answered, but not documented", r.Method, path)
	}
	response := op.Responses[strconv.Itoa(status)]
	if response == nil {
		response = op.Responses["default"]
	}
	mediaType, _, _ := mime.ParseMediaType(contentType)
	content := response.Content[mediaType]
	if content == nil {
		return fmt.Errorf("%s %s: %d is documented as %v, not as %q", r.Method, path, status, response.Content, mediaType)
	}
	if content.Schema == nil {
		return nil
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	var found huma.ValidateResult
	huma.Validate(a.huma.OpenAPI().Components.Schemas, content.Schema, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, v, &found)
	return errors.Join(found.Errors...)
}

package admin

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed docs.html
var docsText string

var docsPage = template.Must(template.New("docs").Parse(docsText))

type document struct {
	ContentType string `header:"Content-Type"`
	Policy      string `header:"Content-Security-Policy"`
	Body        []byte
}

// registerDocuments must come last: it renders both documents from the registered operations.
func (a *API) registerDocuments() {
	var openAPI, docs document
	add(a, huma.Operation{
		OperationID: "openapi", Method: http.MethodGet, Path: openAPIPath,
		Summary: "Show this interface as an OpenAPI 3.1 document", Tags: []string{"documents"},
	}, func(context.Context, *struct{}) (*document, error) { return &openAPI, nil })
	add(a, huma.Operation{
		OperationID: "docs", Method: http.MethodGet, Path: docsPath,
		Summary: "Show this interface as a page", Tags: []string{"documents"},
	}, func(context.Context, *struct{}) (*document, error) { return &docs, nil })

	spec := a.huma.OpenAPI()
	for path, contentType := range map[string]string{openAPIPath: "application/json",
		docsPath: "text/html"} {
		spec.Paths[path].Get.Responses["200"].Content = map[string]*huma.MediaType{contentType: {}}
	}
	// huma adds the schema of its own errors, which translate replaces.
	delete(spec.Components.Schemas.Map(), "ErrorModel")
	delete(spec.Components.Schemas.Map(), "ErrorDetail")

	text, err := json.MarshalIndent(spec, "", " ")
	if err != nil {
		panic(err) // the document consists of constants
	}
	openAPI = document{"application/json", "default-src 'none'", text}

	var page bytes.Buffer
	data := map[string]any{"Info": spec.Info, "Operations": operations(spec),
		"OpenAPI": openAPIPath}
	if err := docsPage.Execute(&page, data); err != nil {
		panic(err)
	}
	// The page loads nothing and runs no script.
	docs = document{"text/html; charset=utf-8",
		"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; " +
			"frame-ancestors 'none'", page.Bytes()}
}

// operations returns the operations of a document, sorted by path.
func operations(spec *huma.OpenAPI) []*huma.Operation {
	var list []*huma.Operation
	for _, p := range spec.Paths {
		for _, op := range []*huma.Operation{p.Get, p.Post, p.Patch, p.Delete} {
			if op != nil {
				list = append(list, op)
			}
		}
	}
	slices.SortFunc(list, func(a, b *huma.Operation) int {
		return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method)
	})
	return list
}

package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func (a *API) registerImport() {
	schemas := a.huma.OpenAPI().Components.Schemas
	a.importKey = schemas.Schema(reflect.TypeFor[api.ImportKey](), true, "")
	// huma reads what has a schema when it is registered.
	body := jsonBody(true, api.JSON, api.NDJSON)
	register(a, huma.Operation{
		OperationID: "import-keys", Method: http.MethodPost, Path: keysPath + "/import", Summary: "Import keys whose credentials were made elsewhere", Tags: []string{"keys"},
		Description: "All keys of one body are imported, or none; with partial=1 those that can be. A body may be of any length. As application/x-ndjson " +
			"each line is one element of keys.",
		DefaultStatus: http.StatusCreated,
		RequestBody:   body,
	}, "admin.keys:create", a.importKeys, streams)
	body.Content[api.JSON].Schema = schemas.Schema(reflect.TypeFor[api.ImportRequest](), true, "")
	body.Content[api.NDJSON].Schema = a.importKey
}

type importInput struct {
	Idempotency
	Partial string `query:"partial" enum:"0,1" default:"0" doc:"1: import what can be, and list what cannot"`

	body   io.Reader
	ndjson bool
}

// Resolve keeps the body for the operation to read.
func (in *importInput) Resolve(ctx huma.Context) []error {
	mediaType, _, _ := mime.ParseMediaType(ctx.Header("Content-Type"))
	in.body, in.ndjson = ctx.BodyReader(), mediaType == api.NDJSON
	return nil
}

func (a *API) importKeys(ctx context.Context, c keystore.Caller, in *importInput) (*page[api.Imported], error) {
	var specs []keystore.ImportSpec
	keep := func(line int, text []byte) { specs = append(specs, a.importSpec(line, text)) }
	read := readKeys
	if in.ndjson {
		read = readLines
	}
	if err := read(in.body, keep); err != nil {
		return nil, err
	}
	partial := in.Partial == "1"
	imported, refused, err := a.keys.ImportKeys(ctx, c, specs, partial, in.Key)
	if err != nil && imported > 0 {
		p := a.refusal(&huma.Operation{OperationID: "import-keys"}, err)
		p.Detail = fmt.Sprintf("%d keys were imported before this: %s. Those will be refused as already_used when all are sent again", imported, p.Detail)
		return nil, p
	}
	if err != nil {
		return nil, err
	}
	out := api.Imported{Imported: imported, Refused: make([]api.Refused, len(refused))}
	for i, r := range refused {
		out.Refused[i] = api.Refused(r)
	}
	if len(refused) > 0 && !partial {
		p := newProblem(http.StatusUnprocessableEntity, codeInvalid,
			fmt.Sprintf("nothing was imported: %d of %d keys are refused; mend them, or import the others with partial=1", len(refused), len(specs)))
		p.Refused = out.Refused
		for _, r := range out.Refused {
			where := fmt.Sprintf("keys[%d]", r.Line-1)
			if in.ndjson {
				where = fmt.Sprintf("line %d", r.Line)
			}
			p.Errors = append(p.Errors, api.FieldError{Field: where, Detail: r.Detail})
		}
		return nil, p
	}
	return &page[api.Imported]{out}, nil
}

// importSpec reads one key. What is wrong with it is kept beside it, so that its line can be refused.
func (a *API) importSpec(line int, text []byte) keystore.ImportSpec {
	spec, err := a.parseImport(text)
	spec.Line = line
	if err != nil {
		var p *problem
		if errors.As(err, &p) {
			spec.Err = &keystore.Error{Kind: keystore.KindInvalid, Code: p.Code, Detail: p.Detail}
		} else {
			errors.As(err, &spec.Err)
		}
	}
	return spec
}

func (a *API) parseImport(text []byte) (spec keystore.ImportSpec, err error) {
	if err := checkJSON(text); err != nil {
		return spec, err
	}
	var shape any
	_ = json.Unmarshal(text, &shape) // checked above
	var found huma.ValidateResult
	huma.Validate(a.huma.OpenAPI().Components.Schemas, a.importKey, huma.NewPathBuffer(make([]byte, 0, 64), 0), huma.ModeWriteToServer, shape, &found)
	var wrong fields
	for _, e := range found.Errors {
		var d huma.ErrorDetailer
		errors.As(e, &d)
		f := fieldError(&huma.ErrorDetail{Location: "key." + d.ErrorDetail().Location, Message: d.ErrorDetail().Message})
		wrong.add(f.Field, "%s", f.Detail)
	}
	if err := wrong.err(codeInvalid); err != nil {
		return spec, err
	}
	var k api.ImportKey
	if err := json.Unmarshal(text, &k); err != nil {
		wrong.add("expires_at", "must be a time as of RFC 3339") // the one field that the schema does not hold to the letter
		return spec, wrong.err(codeInvalid)
	}
	if spec.KeySpec, err = keySpec(&k.MintRequest); err != nil {
		return spec, err
	}
	spec.Token = k.Token
	switch {
	case (k.Token == "") == (k.SHA256 == ""):
		wrong.add("token", "give either token or sha256")
	case k.SHA256 != "":
		if n, err := hex.Decode(spec.Digest[:], []byte(strings.ToLower(k.SHA256[:min(len(k.SHA256), 2*len(spec.Digest))]))); err != nil || n != len(spec.Digest) || len(k.SHA256) != 2*n {
			wrong.add("sha256", "must be 64 hex digits")
		}
	}
	return spec, wrong.err(codeInvalid)
}

// maxLine is how long one key of an import may be.
const maxLine = maxBody

// readLines reads NDJSON: one key a line; blank lines are counted and passed over.
func readLines(r io.Reader, keep func(line int, text []byte)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	n := 0
	for lines.Scan() {
		n++
		if text := bytes.TrimSpace(lines.Bytes()); len(text) > 0 {
			keep(n, text)
		}
	}
	switch err := lines.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, bufio.ErrTooLong):
		return newProblem(http.StatusBadRequest, "syntax", fmt.Sprintf("line %d is longer than %d bytes", n+1, maxLine))
	default:
		return bodyFailed(err)
	}
}

// readKeys reads {"keys": […]} without holding the whole of it.
func readKeys(r io.Reader, keep func(line int, text []byte)) error {
	d := json.NewDecoder(r)
	for _, want := range []json.Token{json.Delim('{'), "keys", json.Delim('[')} {
		t, err := d.Token()
		if err != nil {
			return bodyFailed(err)
		}
		if t != want {
			var wrong fields
			wrong.add("keys", `the body must be {"keys": […]} and nothing else`)
			return wrong.err(codeInvalid)
		}
	}
	for n := 1; d.More(); n++ {
		var text json.RawMessage
		if err := d.Decode(&text); err != nil {
			return bodyFailed(err)
		}
		keep(n, text)
	}
	for range 2 { // the closing brackets
		t, err := d.Token()
		if err != nil {
			return bodyFailed(err)
		}
		if name, ok := t.(string); ok {
			var wrong fields
			wrong.add(name, "unexpected property")
			return wrong.err(codeInvalid)
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return newProblem(http.StatusBadRequest, "syntax", "something follows the JSON value")
	}
	return nil
}

// bodyFailed says why a body could not be read to its end, without repeating any of it.
func bodyFailed(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return newProblem(http.StatusBadRequest, "syntax", fmt.Sprintf("the body is not valid JSON: there is a mistake at byte %d", syntax.Offset))
	}
	if isTooLarge(err) {
		return newProblem(http.StatusRequestEntityTooLarge, "too_large", "the body is longer than this server accepts")
	}
	return newProblem(http.StatusBadRequest, "incomplete_body", "the body ended early")
}

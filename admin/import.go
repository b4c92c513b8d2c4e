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
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

func (a *API) registerImport() {
	schemas := a.huma.OpenAPI().Components.Schemas
	a.importKey = schemas.Schema(reflect.TypeFor[api.ImportKey](), true, "")
	a.refuseEmpty(a.importKey)
	// huma would read a body that has a schema, so the schemas are added after registration.
	body := jsonBody(true, api.JSON, api.NDJSON)
	register(a, huma.Operation{
		OperationID: "import-keys", Method: http.MethodPost, Path: keysPath + "/import",
		Summary: "Import keys whose credentials were created elsewhere", Tags: []string{"keys"},
		Description: "Imports all keys of the body or none. With partial=1, imports the valid " +
			"keys in batches of 1000 while reading the body. The body may have any length. " +
			"Without partial=1, or with Idempotency-Key, only root can import more than 10000 " +
			"keys. The import stops when more than 1000 keys are refused. " +
			"If too many imports are running or requests use too much memory, the answer is 429 " +
			"`busy` with Retry-After. " +
			"As application/x-ndjson, each line is one element of keys.",
		DefaultStatus: http.StatusCreated,
		RequestBody:   body,
	}, "admin.keys:create", a.importKeys, streams)
	body.Content[api.JSON].Schema = schemas.Schema(reflect.TypeFor[api.ImportRequest](), true, "")
	body.Content[api.NDJSON].Schema = a.importKey
}

type importInput struct {
	Idempotency
	Partial string `query:"partial" enum:"0,1" default:"0" doc:"1: import the valid keys and list the others"`

	body   io.Reader
	ndjson bool
}

// Resolve implements huma.Resolver. It leaves the body to the operation.
func (in *importInput) Resolve(ctx huma.Context) []error {
	mediaType, _, _ := mime.ParseMediaType(ctx.Header("Content-Type"))
	in.body, in.ndjson = skipByteOrderMark(ctx.BodyReader()), mediaType == api.NDJSON
	return nil
}

// skipByteOrderMark skips a byte order mark, which some programs write before UTF-8 (RFC 8259
// §8.1).
func skipByteOrderMark(r io.Reader) io.Reader {
	in := bufio.NewReader(r)
	// The next read returns the error of a failed Peek again.
	if start, _ := in.Peek(len(byteOrderMark)); string(start) == byteOrderMark {
		_, _ = in.Discard(len(byteOrderMark))
	}
	return in
}

const byteOrderMark = "\ufeff"

// Limits of an import. Only an import in one transaction holds more than one batch.
const (
	maxRefused = 1000   // refused keys to list; one more stops the import
	maxCreated = 10_000 // imported keys to list
	batchKeys  = 1000
	batchBytes = 8 << 20
	wholeBytes = 64 << 20 // in one transaction; root has no limit
)

// An importRun is the state of a running import.
type importRun struct {
	*API
	ctx     context.Context
	caller  manage.Caller
	once    manage.Once // see Idempotency
	whole   bool        // import in one transaction
	partial bool        // import the valid keys and list the others

	batch []manage.ImportSpec // unless whole
	lines []importLine        // if whole
	bytes int                 // length of the input in batch or lines
	kept  int64               // memory of batch and lines
	wrong int                 // invalid keys so far
	line  int                 // the line read last
	done  api.Imported
}

// An importLine is a key of an import in one transaction. It is stored as text and parsed when
// needed, because a parsed key takes several times the memory.
type importLine struct {
	line int
	text string
}

// Len implements manage.ImportSource.
func (i *importRun) Len() int { return len(i.lines) }

// At implements manage.ImportSource.
func (i *importRun) At(n int) manage.ImportSpec {
	return i.importSpec(i.lines[n].line, []byte(i.lines[n].text))
}

// Imported implements manage.ImportSource.
func (i *importRun) Imported(n int, id string) { i.created(i.lines[n].line, id) }

// created adds an imported key to the answer. An empty id means that the key was refused.
func (i *importRun) created(line int, id string) {
	if id != "" && len(i.done.Created) < maxCreated {
		i.done.Created = append(i.done.Created, api.Created{Line: line, ID: id})
	}
}

// lineBytes is the memory that an import needs for each key in addition to its text.
const lineBytes = 256

func (a *API) importKeys(
	ctx context.Context, c manage.Caller, in *importInput,
) (*page[api.Imported], error) {
	partial := in.Partial == "1"
	i := importRun{API: a, ctx: ctx, caller: c, once: in.once(), partial: partial,
		whole: !partial || in.Key != "",
		done:  api.Imported{Created: []api.Created{}, Refused: []api.Refused{}}}
	read := readKeys
	if in.ndjson {
		read = readLines
	}
	err := read(in.body, i.keep)
	if err == nil {
		err = i.flush()
	}
	if refused := len(i.done.Refused); err == nil && refused > 0 && !partial {
		err = newProblem(http.StatusUnprocessableEntity, codeInvalid,
			fmt.Sprintf("nothing was imported, because %d keys are refused: fix them, or import "+
				"the others with partial=1 (command line: --partial)", refused))
	}
	if err == nil {
		return &page[api.Imported]{i.done}, nil
	}
	p := a.refusal(&huma.Operation{OperationID: "import-keys"}, err)
	p.Refused = i.done.Refused
	if i.done.Imported > 0 {
		p.Detail = fmt.Sprintf("%d keys were imported before this: %s. If you send all keys again, "+
			"these are refused", i.done.Imported, p.Detail)
	}
	return nil, p
}

// keep adds one key, and imports the added keys once they fill a batch.
func (i *importRun) keep(line int, text []byte) error {
	spec := i.importSpec(line, text)
	memory := int64(lineBytes + len(text))
	if !i.whole {
		memory *= bodyCopies
	}
	acct := accountOf(i.ctx)
	acct.freeTo(i.kept + streamBytes) // the line is counted below
	err := acct.take(memory)
	if err != nil && len(i.batch) > 0 {
		if err := i.flush(); err != nil {
			return err
		}
		err = acct.take(memory)
	}
	if err != nil {
		return err
	}
	i.kept += memory
	if i.whole {
		i.lines = append(i.lines, importLine{line, string(text)})
	} else {
		i.batch = append(i.batch, spec)
	}
	i.bytes += len(text)
	i.line = line
	if spec.Err != nil {
		i.wrong++
	}
	switch {
	case i.wrong > maxRefused, !i.whole && (len(i.batch) >= batchKeys || i.bytes >= batchBytes):
		return i.flush()
	case i.whole && i.caller.Actor() != keystore.RootMember &&
		(len(i.lines) > manage.MaxImport || i.bytes > wholeBytes):
		return newProblem(http.StatusUnprocessableEntity, "too_many", fmt.Sprintf(
			"only root can import more than %d keys or %d MiB at once: send fewer at a "+
				"time, or use partial=1 without Idempotency-Key", manage.MaxImport,
			wholeBytes>>20))
	}
	return nil
}

// flush imports the added keys.
func (i *importRun) flush() error {
	var imported int
	var refused []manage.ImportRefusal
	var err error
	if i.whole {
		imported, refused, err = i.keys.ImportFrom(i.ctx, i.caller, i, i.partial, i.once)
	} else {
		imported, refused, err = i.keys.ImportKeys(i.ctx, i.caller, i.batch, i.partial, i.once)
		for _, s := range i.batch {
			i.created(s.Line, s.ID)
		}
	}
	clear(i.batch)
	i.batch, i.lines, i.bytes, i.kept = i.batch[:0], nil, 0, 0
	accountOf(i.ctx).freeTo(streamBytes)
	i.done.Imported += imported
	room := maxRefused - len(i.done.Refused)
	for _, r := range refused[:min(room, len(refused))] {
		r.Detail = cut(r.Detail, maxDetail)
		i.done.Refused = append(i.done.Refused, api.Refused(r))
	}
	if err == nil && len(refused) > room {
		err = newProblem(http.StatusUnprocessableEntity, "too_many_refused",
			fmt.Sprintf("more than %d keys are refused; the first are listed, and the lines "+
				"after %d were not read", maxRefused, i.line))
	}
	return err
}

// importSpec parses one key. It stores an error in the result, so that the line can be refused.
func (a *API) importSpec(line int, text []byte) manage.ImportSpec {
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

func (a *API) parseImport(text []byte) (spec manage.ImportSpec, err error) {
	if err := checkJSON(text); err != nil {
		return spec, err
	}
	if err := a.validate(a.importKey, text, "key"); err != nil {
		return spec, err
	}
	var wrong fields
	var k api.ImportKey
	if err := json.Unmarshal(text, &k); err != nil {
		// expires_at is the one field that validate does not check completely
		wrong.add("expires_at", "must be a time in the format of RFC 3339")
		return spec, wrong.err()
	}
	if spec.KeySpec, wrong = keySpec(&k.MintRequest); len(wrong) > 0 {
		return spec, wrong.err()
	}
	spec.Token = k.Token
	switch {
	case (k.Token == "") == (k.SHA256 == ""):
		wrong.add("token", "exactly one of token and sha256 is required")
	case k.SHA256 != "":
		digits := strings.ToLower(k.SHA256[:min(len(k.SHA256), 2*len(spec.Digest))])
		n, err := hex.Decode(spec.Digest[:], []byte(digits))
		if err != nil || n != len(spec.Digest) || len(k.SHA256) != 2*n {
			wrong.add("sha256", "must be 64 hex digits")
		}
	}
	return spec, wrong.err()
}

// maxLine is the maximum length of one key of an import in bytes.
const maxLine = maxBody

func tooLong(n int) error {
	return newProblem(http.StatusBadRequest, "syntax",
		fmt.Sprintf("line %d is longer than %d bytes", n, maxLine))
}

// readLines reads NDJSON, one key per line. It skips blank lines but counts them.
func readLines(r io.Reader, keep func(line int, text []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	n := 0
	for lines.Scan() {
		n++
		if text := bytes.TrimSpace(lines.Bytes()); len(text) > 0 {
			if err := keep(n, text); err != nil {
				return err
			}
		}
	}
	switch err := lines.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, bufio.ErrTooLong):
		return tooLong(n + 1)
	default:
		return bodyFailed(err)
	}
}

// A keyLimiter is a reader that limits the length of each key. Without it, a decoder would read to
// the end of a value of any length.
type keyLimiter struct {
	io.Reader
	left, line int
}

// next allows one more key, and the same length again for the read-ahead of the decoder.
func (k *keyLimiter) next(line int) { k.left, k.line = 2*maxLine, line }

func (k *keyLimiter) Read(b []byte) (int, error) {
	if k.left == 0 {
		return 0, tooLong(k.line)
	}
	n, err := k.Reader.Read(b[:min(len(b), k.left)])
	k.left -= n
	return n, err
}

// readKeys reads {"keys": […]} one key at a time. The line of a key is its position in keys,
// counted from 1.
func readKeys(r io.Reader, keep func(line int, text []byte) error) error {
	in := &keyLimiter{Reader: r}
	in.next(1)
	d := json.NewDecoder(in)
	for _, want := range []json.Token{json.Delim('{'), "keys", json.Delim('[')} {
		t, err := d.Token()
		if err != nil {
			return bodyFailed(err)
		}
		if t != want {
			var wrong fields
			wrong.add("keys", `the body must be {"keys": […]} and nothing else`)
			return wrong.err()
		}
	}
	for n := 1; d.More(); n++ {
		in.next(n)
		var text json.RawMessage
		if err := d.Decode(&text); err != nil {
			return bodyFailed(err)
		}
		if len(text) > maxLine {
			return tooLong(n)
		}
		if err := keep(n, text); err != nil {
			return err
		}
	}
	for range 2 { // the closing brackets
		t, err := d.Token()
		if err != nil {
			return bodyFailed(err)
		}
		if name, ok := t.(string); ok {
			var wrong fields
			if keystore.ContainsToken(name) {
				name = "body"
			}
			wrong.add(name, "%s", unknownOf([]string{"keys"}))
			return wrong.err()
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return newProblem(http.StatusBadRequest, "syntax", "the body must end after the JSON value")
	}
	return nil
}

// bodyFailed returns the problem of a body that could not be read to its end. It repeats nothing of
// the body.
func bodyFailed(err error) error {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return newProblem(http.StatusBadRequest, "syntax",
			fmt.Sprintf("the body is not valid JSON: syntax error at byte %d", syntax.Offset))
	}
	if isTooLarge(err) {
		return newProblem(http.StatusRequestEntityTooLarge, "too_large",
			"the body is longer than this server accepts")
	}
	return newProblem(http.StatusBadRequest, "incomplete_body", "the body is incomplete")
}

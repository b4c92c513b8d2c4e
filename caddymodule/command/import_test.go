package command

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const importPath = "POST /keys/import"

func TestImportCommand(t *testing.T) {
	ndjson := `{"name":"a","token":"` + cliToken + `"}` + "\n\n" + `{"name":"b"}`
	for name, row := range map[string]struct{ body, contentType string }{
		"lines after a byte order mark":    {"\ufeff" + ndjson, api.NDJSON},
		"document after a byte order mark": {"\ufeff{\"keys\":[{\"name\":\"a\"}]}", api.JSON},
		"lines":                            {ndjson, api.NDJSON},
		"document":                         {" {\n\t\"keys\" : [{\"name\":\"a\"}]}\n", api.JSON},
		"no keys":                          {`{"name":"keys"}`, api.NDJSON},
		"empty":                            {"", api.NDJSON},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "keys")
			if err := os.WriteFile(file, []byte(row.body), 0o600); err != nil {
				t.Fatal(err)
			}
			s := serveCLI(t, map[string][]cliAnswer{importPath: {{201, api.Imported{Imported: 2}}}})
			s.run("", "keys", "import", file).want(t, 0, "", "Imported 2, refused 0.")
			s.run(row.body, "keys", "import").want(t, 0, "", "Imported 2,")
			s.run(row.body, "keys", "import", "-").want(t, 0, "", "Imported 2,")
			for _, call := range s.requests() {
				if call.line != "POST /apikeys/v1/keys/import" ||
					call.body != strings.TrimPrefix(row.body, "\ufeff") ||
					call.header.Get("Content-Type") != row.contentType {
					t.Errorf("sent %+v", call.line)
				}
			}
		})
	}
}

func TestImportCommandRefused(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{importPath: {{422, api.Problem{
		Status: 422, Code: "refused", Detail: "Nothing was imported.",
		Refused: []api.Refused{{Line: 3, Code: "exists", Detail: "this token is known"}},
	}}}})
	r := s.run(`{"name":"a","token":"`+cliToken+`"}`, "keys", "import")
	r.want(t, 1, "", "Error: Nothing was imported.\nline 3: this token is known\n")
	noToken(t, r.err)
	s.run("", "keys", "import", filepath.Join(t.TempDir(), "none")).want(t, 1, "",
		"none: no such file")
}

// TestPartialImport checks that refused keys are reported with their line in the whole input.
func TestPartialImport(t *testing.T) {
	var lines, document strings.Builder
	document.WriteString(`{"keys":[`)
	for i := range 2 * batchKeys {
		fmt.Fprintf(&lines, "{\"name\":%q}\n", fmt.Sprint(i))
		if i%2 == 0 {
			lines.WriteString(" \r\n") // lines without a key count too
		}
		if i > 0 {
			document.WriteString(",\n")
		}
		fmt.Fprintf(&document, "{\n  \"name\": %q\n}", fmt.Sprint(i))
	}
	document.WriteString("]}\n")
	lines.WriteString("{\"name\":\"last\"}") // without a line end

	answers := []cliAnswer{
		{201, api.Imported{Imported: 999, Refused: []api.Refused{{Line: 4, Detail: "bad"}}}},
		{201, api.Imported{Imported: 998,
			Refused: []api.Refused{{Line: 1, Detail: "bad"}, {Line: 1000, Detail: "bad"}}}},
		{201, api.Imported{Imported: 1}},
	}
	for name, row := range map[string]struct {
		input   string
		calls   int
		refused []int
		total   int
	}{
		"lines":    {lines.String(), 3, []int{6, 1501, 3000}, 1998},
		"document": {document.String(), 2, []int{4, 1001, 2000}, 1997},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveCLI(t, map[string][]cliAnswer{importPath: answers})
			r := s.run(row.input, "keys", "import", "--partial")
			want := []string{fmt.Sprintf("Imported %d, refused 3.", row.total)}
			for _, n := range row.refused {
				want = append(want, fmt.Sprintf("line %d: bad\n", n))
			}
			r.want(t, 1, "", want...)
			if len(s.requests()) != row.calls {
				t.Fatalf("%d batches", len(s.requests()))
			}
			n := 0
			for _, call := range s.requests() {
				if call.line != "POST /apikeys/v1/keys/import?partial=1" ||
					call.header.Get("Content-Type") != api.NDJSON {
					t.Errorf("sent %s as %s", call.line, call.header.Get("Content-Type"))
				}
				for line := range strings.Lines(call.body) {
					var key struct{ Name string }
					if err := json.Unmarshal([]byte(line), &key); err != nil ||
						key.Name != fmt.Sprint(n) && key.Name != "last" {
						t.Fatalf("key %d is %q, %v", n, line, err)
					}
					n++
				}
			}
			if n != len(row.refused)+row.total {
				t.Errorf("sent %d keys", n)
			}
			s = serveCLI(t, map[string][]cliAnswer{importPath: answers})
			r = s.run(row.input, "keys", "import", "--partial", "--json")
			var done api.Imported
			if err := json.Unmarshal([]byte(r.out), &done); err != nil ||
				done.Imported != row.total || len(done.Refused) != 3 ||
				done.Refused[2].Line != row.refused[2] || r.err != "" {
				t.Errorf("--json: %v, %+v", err, done)
			}
		})
	}
}

func TestPartialImportEnds(t *testing.T) {
	good := cliAnswer{201, api.Imported{Imported: 1}}
	for name, row := range map[string]struct {
		input   string
		answers []cliAnswer
		status  int
		want    string
	}{
		"complete": {`{"keys":[{"name":"a"}]}`, []cliAnswer{good}, 0,
			"Imported 1, refused 0."},
		"empty document": {`{"keys":[]}`, []cliAnswer{good}, 0, "Imported 0, refused 0."},
		"empty":          {"", []cliAnswer{good}, 0, "Imported 0, refused 0."},
		"cut off":        {`{"keys":[{"name":"a"}`, []cliAnswer{good}, 1, "after 1 keys"},
		"cut off in a key": {`{"keys":[{"name":"a"},{"token":"` + cliToken, []cliAnswer{good}, 1,
			"key 2 of the document must be JSON"},
		"data after the document": {`{"keys":[{"name":"a"}]} {`, []cliAnswer{good}, 1,
			"the document must end with ]} after 1 keys"},
		"other fields": {`{"keys":[{"name":"a"}],"x":1}`, []cliAnswer{good}, 1,
			"the document must end with ]} after 1 keys"},
		"not a list": {`{"keys":"` + cliToken + `"}`, []cliAnswer{good}, 1,
			"the document must be"},
		"connection breaks": {`{"name":"a"}`, []cliAnswer{{0, nil}}, 1,
			"Imported 0, refused 0, up to line 0."},
		"server refuses": {`{"name":"a"}`,
			[]cliAnswer{problem(403, "insufficient_permission", "You may not.")}, 1,
			"You may not."},
		"unknown line in the answer": {`{"name":"a"}`,
			[]cliAnswer{{201, api.Imported{Refused: []api.Refused{{Line: 77, Detail: "odd"}}}}}, 1,
			"line 77: odd"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveCLI(t, map[string][]cliAnswer{importPath: row.answers})
			r := s.run(row.input, "keys", "import", "--partial")
			r.want(t, row.status, "", row.want)
			noToken(t, r.err)
		})
	}
}

// reportAlways makes imports report every step of their progress.
func reportAlways(t *testing.T) {
	before := progressInterval
	progressInterval = 0
	t.Cleanup(func() { progressInterval = before })
}

func TestImportProgress(t *testing.T) {
	reportAlways(t)
	input := strings.Repeat("{}\n", 2*batchKeys+1)
	answers := map[string][]cliAnswer{importPath: {
		{201, api.Imported{Imported: batchKeys - 1,
			Refused: []api.Refused{{Line: 1, Detail: "bad"}}}},
		{201, api.Imported{Imported: batchKeys}},
		{201, api.Imported{Imported: 1}},
	}}
	r := serveCLI(t, answers).run(input, "keys", "import", "--partial", "--progress")
	r.want(t, 1, "", fmt.Sprintf("%d lines read, %d imported, 1 refused, ", 2*batchKeys,
		2*batchKeys-1))
	if strings.ContainsAny(r.err, "\r\x1b") {
		t.Errorf("terminal control characters without a terminal: %q", r.err)
	}
	serveCLI(t, answers).run(input, "keys", "import", "--progress").want(t, 1, "",
		fmt.Sprintf("all sent: %d lines, 0.0 MiB", 2*batchKeys+1))
	for _, quiet := range [][]string{{"keys", "import"}, {"keys", "import", "--partial"}} {
		if r := serveCLI(t, answers).run(input, quiet...); strings.Contains(r.err, "…") {
			t.Errorf("progress without --progress: %s", r.err)
		}
	}
}

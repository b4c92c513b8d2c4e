package caddymodule_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-apikeys/caddy-apikeys/caddymodule"
)

var update = flag.Bool("update", false, "rewrite testdata/*.caddyfiletest with the current output")

// The lines of a *.caddyfiletest that end a Caddyfile, as in Caddy's own tests, and a case.
const (
	endOfCaddyfile = "----------\n"
	endOfCase      = "==========\n"
)

// TestCaddyfiles adapts each Caddyfile in testdata and compares the JSON, or the error in files
// named *_invalid. A Caddyfile must be formatted. DIR in the output is the folder of this package.
func TestCaddyfiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var adapted []string
			for want := range strings.SplitSeq(string(text), endOfCase) {
				input, _, _ := strings.Cut(want, endOfCaddyfile)
				if *update {
					input = string(caddyfile.Format([]byte(input)))
				}
				got := input + endOfCaddyfile + adapt(t, input, strings.HasSuffix(name, "_invalid"))
				if got != want && !*update {
					t.Errorf("got\n%s\nwant (-update rewrites this)\n%s", got, want)
				}
				adapted = append(adapted, got)
			}
			if *update {
				err := os.WriteFile(file, []byte(strings.Join(adapted, endOfCase)), 0o644)
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// adapt returns the JSON of a Caddyfile, or its error, with a newline at the end.
func adapt(t *testing.T, input string, wantError bool) string {
	t.Helper()
	if string(caddyfile.Format([]byte(input))) != input {
		t.Errorf("this Caddyfile is not formatted:\n%s", input)
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input),
		map[string]any{"filename": "Caddyfile"})
	if (err != nil) != wantError {
		t.Errorf("%s\nis adapted with the error %v", input, err)
	}
	var output bytes.Buffer
	if err != nil {
		output.WriteString(err.Error())
		// The password in all these Caddyfiles.
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats a password: %v", err)
		}
	} else if err := json.Indent(&output, config, "", "\t"); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(output.String(), dir, "DIR") + "\n"
}

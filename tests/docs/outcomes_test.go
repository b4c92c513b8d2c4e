package docs

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

var outcomeRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]*) \\| (?:`([a-z_]+)` )?\\|")

// TestOutcomes compares the table of docs/troubleshooting.md with the outcomes that exist.
func TestOutcomes(t *testing.T) {
	type row struct{ status, code string }
	listed := map[string]row{}
	_, section, _ := strings.Cut(pages(t)["docs/troubleshooting.md"], "## Outcomes\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, match := range outcomeRow.FindAllStringSubmatch(section, -1) {
		listed[match[1]] = row{match[2], match[3]}
	}
	for i := range keystore.NumOutcomes {
		o := keystore.Outcome(i)
		want := row{"the API's", o.Code()}
		if o.Status() != 0 {
			want.status = strconv.Itoa(o.Status())
		}
		if got := listed[o.String()]; got != want {
			t.Errorf("%v has status and code %v, the page says %v", o, want, got)
		}
		delete(listed, o.String())
	}
	for name := range listed {
		t.Errorf("there is no outcome %s", name)
	}
}

// TestDoctorChecks compares the checks of the doctor with those that docs/troubleshooting.md lists.
func TestDoctorChecks(t *testing.T) {
	result := gate.Start(t, gate.Config{}).APIKeys(t, "", "doctor", "--json")
	var report struct{ Checks []struct{ Check string } }
	if err := json.Unmarshal([]byte(result.Stdout), &report); err != nil || len(report.Checks) < 8 {
		t.Fatalf("%v\n%s%s", err, result.Stdout, result.Stderr)
	}
	listed := map[string]bool{}
	for _, fragments := range firstCells(t, "## Findings of `caddy apikeys doctor`", "\n## ") {
		listed[fragments[0]] = true
	}
	for _, c := range report.Checks {
		if !listed[c.Check] {
			t.Errorf("the page does not list the check %s", c.Check)
		}
	}
}

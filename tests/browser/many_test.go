package browser

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// manyKeys is one more than the console can sort by a column other than the creation time.
const manyKeys = 10_001

// TestManyKeys pages through a table of keys, sorts it and searches it. tests/bench measures a
// million keys.
func TestManyKeys(t *testing.T) {
	t.Parallel()
	// With the race detector, the import would take minutes on a busy machine.
	g := gate.Start(t, gate.Config{Site: site, Binary: gate.Client(t)})
	_, token := member(t, g, "ada", everywhere)
	g.Namespace(t, "few", gate.JSON{})
	var lines strings.Builder
	for i := range manyKeys {
		digest := sha256.Sum256(fmt.Appendf(nil, "key %d", i))
		fmt.Fprintf(&lines, `{"name":"Key %05d","access":"read_only","sha256":"%s"}`+"\n", i,
			hex.EncodeToString(digest[:]))
	}
	if r := g.Call(t, "POST", "/keys/import", lines.String(),
		"Content-Type: application/x-ndjson"); r.Status != 201 {
		t.Fatalf("importing: %v", r)
	}

	page := signedIn(t, g, token, chromium.Look{})
	seen := map[string]int{}
	names := regexp.MustCompile(`Key \d{5}`)
	for number := range 4 { // all have the same creation time, so their order is unknown
		if number > 0 {
			page.Click("Next page")
		}
		list := names.FindAllString(page.Text(), -1)
		for _, name := range list {
			if before, again := seen[name]; again {
				t.Errorf("%s is on page %d and on page %d", name, before, number)
			}
			seen[name] = number
		}
		if len(list) != 50 {
			t.Errorf("page %d shows %d keys", number, len(list))
		}
	}
	address := page.Address()
	page.Back()
	page.Click("Next page")
	if page.Address() != address {
		t.Errorf("going back and to the next page leads to %s, want %s", page.Address(), address)
	}
	page.Click("First page")
	if first := names.FindString(page.Text()); seen[first] != 0 {
		t.Errorf("the first page begins with %s, which was on page %d", first, seen[first])
	}

	page.Click("Name") // the column header
	page.Sees("Too many keys to sort")
	page.Click("Created") // the only possible order
	if address := page.Address(); !strings.HasSuffix(address, "sort=created_at") {
		t.Errorf("the oldest keys are at %s", address)
	}
	for i, name := range []string{"b", "C", "a"} {
		g.Mint(t, gate.JSON{"name": "Sorted " + name, "namespace": "few", "access": "read_only",
			"expires_at": fmt.Sprintf("2040-01-0%dT00:00:00Z", i+1)})
	}
	sorted := regexp.MustCompile(`Sorted (\w)`)
	order := func() (names string) {
		for _, match := range sorted.FindAllStringSubmatch(page.Text(), -1) {
			names += match[1]
		}
		return names
	}
	page.Open("/apikeys/keys?namespace=few")
	for _, step := range []struct{ head, want string }{{"Name", "abC"}, {"Name", "Cba"},
		{"Expires", "bCa"}, {"Expires", "aCb"}, {"Created", "aCb"}, {"Created", "bCa"}} {
		page.Click(step.head)
		if got := order(); got != step.want {
			t.Errorf("after a click on %s: %s, want %s", step.head, got, step.want)
		}
	}
	page.Show(chromium.Look{Width: 360})
	page.Choose("Sort by", "Name, A to Z", "Filter")
	if got := order(); got != "abC" {
		t.Errorf("sorted in a small window: %s", got)
	}
	page.Show(chromium.Look{})
	page.Open("/apikeys/keys")

	page.Fill("Search", "Key 00007")
	page.Submit("Search")
	page.Sees("Key 00007")
	if list := names.FindAllString(page.Text(), -1); len(list) != 2 { // the filter and the key
		t.Errorf("a search for one name finds %v", list)
	}
	page.Click("Key 00007")
	page.Sees("Imported")
}

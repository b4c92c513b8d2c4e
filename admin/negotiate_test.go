package admin

import "testing"

func TestNegotiate(t *testing.T) {
	for accept, want := range map[string]string{
		"":                                 "a/json",
		"*/*":                              "a/json",
		"b/csv":                            "b/csv",
		"B/CSV ; header=present":           "b/csv",
		"b/*":                              "b/csv",
		"a/*":                              "a/json",
		"a/lines, */*;q=0.1":               "a/lines",
		"a/json;q=0.2,b/csv;q=0.3":         "b/csv",
		"a/json, b/csv":                    "a/json", // the server's choice
		"a/*;q=0.5, a/json;q=0":            "a/lines",
		"*/*, a/json;q=0.1, a/lines;q=0.9": "b/csv",
		"a/json;q=0, */*;q=0.5":            "a/lines",
		"text/html":                        "a/json", // nothing is acceptable
		"b/csv;q=0":                        "a/json",
		"b/csv;q=2, a/lines;q=0.001":       "a/lines", // no such weight
		"b/csv;q=x":                        "a/json",
		"b/csv;q=NaN":                      "a/json",
		"b/csv;q, ,;,/":                    "a/json",
		"a/lines;q=1.000, b/csv;q=0.999":   "a/lines",
		"b/csv/x, a/lines/":                "a/json",
	} {
		if got := negotiate(accept, "a/json", "a/lines", "b/csv"); got != want {
			t.Errorf("%q: %s, want %s", accept, got, want)
		}
	}
}

package caddymodule

import (
	"strings"
	"testing"
)

// TestExpectedHeaders checks which sources are refused because the server drops the header.
func TestExpectedHeaders(t *testing.T) {
	const underscore, dot = "expected_underscore_headers", "expected_dot_headers"
	for _, test := range []struct {
		name             string
		underscores, dot []string
		merged           bool
		want             string // part of the error; empty for none
	}{
		{"X-Key", nil, nil, false, ""},
		{"x_key", nil, nil, false, underscore},
		{"x_key", []string{"X_Key"}, nil, false, ""},
		{"x_key", []string{"x_*"}, nil, false, ""},
		{"x_key", []string{"y_key"}, nil, false, underscore},
		{"x_key", nil, []string{"x_key"}, false, underscore},
		{"x.key", nil, []string{"x.key"}, false, ""},
		{"x.key", nil, []string{"x.*"}, false, ""},
		{"x.key", []string{"x*"}, nil, false, dot},
		{"x_y.key", []string{"x_y.key"}, nil, false, ""},
		{"x_y.key", nil, []string{"x_y.key"}, false, ""},
		{"x_y.key", []string{"x_*"}, []string{"x_*"}, false, "an underscore and a dot"},
		// The server prefers the header that it expects to the one with hyphens.
		{"X-Key", []string{"x_key"}, nil, false, "because the server expects x_key"},
		{"X-Key", nil, []string{"x.key"}, false, "because the server expects x.key"},
		{"X-Key", []string{"x_*"}, nil, false, "because the server expects x_*"},
		{"X-Key", []string{"x_key"}, nil, true, ""}, // perhaps of another server
		{"X-Key", []string{"y_key"}, nil, false, ""},
		{"x-y_z", []string{"x_*"}, nil, false, underscore},
		{"x-y.z", []string{"x_*"}, nil, false, dot},
	} {
		e := &expectedHeaders{ExpectedUnderscoreHeaders: test.underscores,
			ExpectedDotHeaders: test.dot, merged: test.merged}
		err := e.check(test.name)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s of a server that expects %q and %q: %v", test.name, test.underscores, test.dot,
				err)
		}
	}
	var unknown *expectedHeaders
	if err := unknown.check("x_key"); err != nil {
		t.Errorf("of an unknown server: %v", err)
	}
}

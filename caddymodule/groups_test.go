package caddymodule

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestGroupNames(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{nil, ""}, {"", ""}, {"  ", ""}, {",", ""}, {"ops", "ops"},
		{"ops,dev", "ops|dev"}, {" ops , dev,", "ops|dev"}, {"ops dev\tqa", "ops|dev|qa"},
		{"Domain Admins,Dev Team", "Domain Admins|Dev Team"}, // spaces in names beside commas
		{`["ops","Domain Admins","a,b",""]`, "ops|Domain Admins|a,b"}, {"[]", ""}, {` ["ops"] `, "ops"},
		{`["ops",null]`, "ops"},
		// Invalid JSON has no names: part of a text could be the name of another group.
		{`["ops"`, ""}, {`["ops",1]`, ""}, {`[["ops"]]`, ""}, {"[ops dev]", ""}, {`["ops"],dev`, ""},
		{[]string{"ops", "a,b", ""}, "ops|a,b"}, {42, "42"},
		{[]any{"ops", "Domain Admins", ""}, "ops|Domain Admins"}, {[]any{"ops", 1}, ""},
		// A name that differs from another in white space is another one.
		{[]string{" ops", "dev\n"}, " ops|dev\n"}, {[]any{"ops "}, "ops "}, {`["ops "]`, "ops "},
		{"\u00a0ops", "\u00a0ops"}, {"ops\u2003,dev", "ops\u2003|dev"},
		{"qa\u3000ops\u0085dev", "qa\u3000ops\u0085dev"}, {`["\u00a0ops"]`, "\u00a0ops"},
		{map[string]any{"a": "x ops y"}, "map[a:x ops y]"}, {[]any{}, ""},
	} {
		if got := strings.Join(groupNames(c.value), "|"); got != c.want {
			t.Errorf("%q: %q, want %q", c.value, got, c.want)
		}
	}
}

func FuzzGroupNames(f *testing.F) {
	for _, text := range []string{"", "a,b c", `["a","b"]`, "[", "a\x00b", "\xff,"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range groupNames(text) {
			if name == "" || !json.Valid([]byte(text)) && strings.Trim(name, " \t") != name {
				t.Errorf("%q has the name %q", text, name)
			}
			if !strings.Contains(text, name) && !json.Valid([]byte(text)) {
				t.Errorf("%q does not contain %q", text, name)
			}
		}
	})
}

func TestGroupNamesKeepTheirArgument(t *testing.T) {
	list := []string{" a", "", "b"}
	groupNames(list)
	if !slices.Equal(list, []string{" a", "", "b"}) {
		t.Errorf("the value of the placeholder is now %q", list)
	}
}

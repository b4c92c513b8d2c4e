package keystore

import (
	"strings"
	"testing"
)

func TestPermissionLength(t *testing.T) {
	longest := strings.Repeat("x", maxPermission-len(":read")) + ":read"
	if _, err := ParsePermission(longest); err != nil {
		t.Error(err)
	}
	if _, err := ParsePermission("x" + longest); err == nil {
		t.Errorf("a permission of %d characters is accepted", maxPermission+1)
	}
}

func TestValidOperation(t *testing.T) {
	for name, want := range map[string]bool{
		"search": true, "Get-Order.1": true, "reads": true,
		"read": false, "write": false, "": false, "-a": false, ".a": false, "_a": false, "a b": false,
	} {
		if got := ValidOperation(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestValidNames(t *testing.T) {
	longest := strings.Repeat("x", MaxNameLen)
	for name, want := range map[string]bool{
		"a": true, "0": true, "Acme": true, "a.b_c~d-e": true, longest: true,
		"": false, longest + "x": false, ".a": false, "_a": false, "~a": false, "-a": false,
		"a b": false, "a/b": false, "a:b": false, "*": false, "é": false, "a\x00": false,
	} {
		if ValidName(name) != want || ValidNamespaceID(name) != want || ValidRoleName(name) != want {
			t.Errorf("%q: not %v", name, want)
		}
	}
	if ValidNamespaceID(HomeNamespace) || !ValidRoleName(HomeNamespace) {
		t.Errorf("%s is reserved only as the id of a namespace", HomeNamespace)
	}
}

// TestNeedString checks that the text of a need is the permission that allows it.
func TestNeedString(t *testing.T) {
	for _, test := range []struct {
		need Need
		want string
	}{
		{Need{Class: Read}, "read"},
		{Need{Class: Write}, "write"},
		{Need{Class: UnknownClass}, "*"},
		{Need{Class: Write, Resource: "orders"}, "orders:write"},
		{Need{Class: Read, Resource: "orders", Operation: "search"}, "orders:search"},
		{Need{Class: Read, Resource: "orders", Undeclared: true}, ""},
	} {
		if got := test.need.String(); got != test.want {
			t.Errorf("%+v: %q, want %q", test.need, got, test.want)
		}
		if test.want != "" && !perms(t, test.want).Allows(test.need) {
			t.Errorf("%q does not allow %+v", test.want, test.need)
		}
	}
}

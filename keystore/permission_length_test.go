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

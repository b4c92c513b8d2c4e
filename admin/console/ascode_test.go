package console

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDerivePython: the page of a key shows the program that the tests of docs/derived.md run.
func TestDerivePython(t *testing.T) {
	page, err := os.ReadFile("../../docs/derived.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), fmt.Sprintf(derivePython, "default")) {
		t.Error("derivePython differs from derive.py in docs/derived.md")
	}
}

package command

import (
	"strings"
	"testing"
)

// TestCommandErrorsShowNoPassword gives addresses with a password to flags.
func TestCommandErrorsShowNoPassword(t *testing.T) {
	const hidden = "hunter2"
	for _, argument := range []string{
		"https://u:" + hidden + "@127.0.0.1:1", "https:u:" + hidden + "@h",
		"https://u:" + hidden + "@h:x", "u:" + hidden + "@h:x",
		"ftp://u:" + hidden + "@h", "https://h/?password=" + hidden, "https://u:" + hidden + " @h",
		"http/u:" + hidden + "@h:1",
	} {
		for _, flag := range []string{"--server", "--address"} {
			if ran := runCLI("token\n", "doctor", flag, argument); ran.status == 0 ||
				strings.Contains(ran.err+ran.out, hidden) {
				t.Errorf("%s %s: %+v", flag, argument, ran)
			}
		}
	}
}

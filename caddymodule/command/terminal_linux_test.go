package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// A terminalUser uses the command at a pseudo-terminal.
type terminalUser struct {
	keyboard *os.File // the user's end
	tty      *os.File // the command's end
	mu       sync.Mutex
	screen   bytes.Buffer  // everything that was written to the terminal
	written  chan struct{} // receives a value when screen changes
}

func newTerminalUser(t *testing.T) *terminalUser {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	u := &terminalUser{keyboard: master, tty: tty, written: make(chan struct{}, 1)}
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		_, _ = io.Copy(u, master)
	}()
	t.Cleanup(func() {
		tty.Close() // ends the copy, because no one else has the terminal open
		<-seen
		master.Close()
	})
	return u
}

func (u *terminalUser) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	select {
	case u.written <- struct{}{}:
	default:
	}
	return u.screen.Write(b)
}

func (u *terminalUser) shown() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.screen.String()
}

// sees waits until text is on the screen.
func (u *terminalUser) sees(t *testing.T, text string) {
	t.Helper()
	late := time.After(30 * time.Second)
	for !strings.Contains(u.shown(), text) {
		select {
		case <-u.written:
		case <-late:
			t.Fatalf("%q was not shown: %s", text, u.shown())
		}
	}
}

func (u *terminalUser) types(t *testing.T, text string) {
	t.Helper()
	if _, err := u.keyboard.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func (u *terminalUser) echoes(t *testing.T) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(u.tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// start starts the command at the terminal. The channel receives its exit status.
func (u *terminalUser) start(ctx context.Context, out io.Writer, args ...string) <-chan int {
	root := cliCommand()
	root.SetIn(u.tty)
	root.SetOut(out)
	root.SetErr(u.tty)
	root.SetArgs(append([]string{"apikeys"}, args...))
	status := make(chan int, 1)
	go func() {
		if root.ExecuteContext(ctx) != nil {
			status <- 1
		} else {
			status <- 0
		}
	}()
	return status
}

func TestConfirmCommandAtTerminal(t *testing.T) {
	for answer, want := range map[string]int{"y\n": 0, "Yes\n": 0, "n\n": 1, "\n": 1, "yep\n": 1,
		"\x04": 1} {
		s := serveCLI(t, map[string][]cliAnswer{"POST /keys/" + cliID +
			"/revoke": {changed(complete)}, "GET /keys/" + cliID: {{200, cliKey}}})
		u := newTerminalUser(t)
		status := u.start(t.Context(), io.Discard, "keys", "revoke", cliID, "--address", s.address)
		u.sees(t, "Revoke key "+cliID+" (CI) in namespace acme permanently? [y/N] ")
		if len(s.requests()) > 1 {
			t.Fatal("revoked before it was confirmed")
		}
		u.types(t, answer)
		if got := <-status; got != want || len(s.requests()) != 2-want {
			t.Errorf("%q: status %d, %d calls", answer, got, len(s.requests()))
		}
	}
}

func TestVerifyCommandAtTerminal(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{"POST /verify": {{200,
		api.Verdict{Outcome: "ok", Status: 200}}}})
	u := newTerminalUser(t)
	var out bytes.Buffer
	status := u.start(t.Context(), &out, "verify", "--address", s.address)
	u.sees(t, "Token to verify: ")
	for u.echoes(t) { // the command writes the prompt before it turns off the echo
		time.Sleep(time.Millisecond)
	}
	u.types(t, cliToken+"\n")
	if got := <-status; got != 0 || out.String() != "ok\n" || s.requests()[0].body != `{"token":"`+
		cliToken+`"}` {
		t.Errorf("status %d, %q", got, out.String())
	}
	noToken(t, u.shown())
}

// TestInterruptedCommandAtTerminal checks that Ctrl-C at a prompt leaves the terminal with its echo
// turned on.
func TestInterruptedCommandAtTerminal(t *testing.T) {
	s := serveCLI(t, nil)
	u := newTerminalUser(t)
	ctx, interrupt := context.WithCancel(t.Context())
	status := u.start(ctx, io.Discard, "verify", "--address", s.address)
	u.sees(t, "Token to verify: ")
	for u.echoes(t) {
		time.Sleep(time.Millisecond)
	}
	interrupt()
	if got := <-status; got != 1 || !u.echoes(t) || len(s.requests()) > 0 {
		t.Errorf("status %d, echo %v", got, u.echoes(t))
	}
	u.sees(t, "interrupted: nothing was changed")
	u.types(t, "\n") // ends the abandoned read
}

// TestWaitForImportAtTerminal checks that an import reports that it is waiting for the server.
func TestWaitForImportAtTerminal(t *testing.T) {
	reportAlways(t)
	u := newTerminalUser(t)
	seen := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-seen
		w.Header().Set("Content-Type", api.JSON)
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"imported":1,"refused":[]}`)
	}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	status := u.start(t.Context(), io.Discard, "keys", "import", file, "--address",
		server.Listener.Addr().String())
	u.sees(t, "\rall sent: 1 lines, 0.0 MiB; waiting for the server …\x1b[K\r")
	u.sees(t, "waiting for the server … ") // followed by the time
	close(seen)
	if got := <-status; got != 0 {
		t.Errorf("status %d", got)
	}
	u.sees(t, "\r\x1b[KImported 1, refused 0.\r\n")
}

// TestImportAtTerminal checks that the progress overwrites one line and that refusals have their
// own lines.
func TestImportAtTerminal(t *testing.T) {
	reportAlways(t)
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte(strings.Repeat("{}\n", 3*batchKeys)), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serveCLI(t, map[string][]cliAnswer{importPath: {
		{201, api.Imported{Imported: batchKeys}},
		{201, api.Imported{Imported: batchKeys - 1,
			Refused: []api.Refused{{Line: 7, Detail: "bad"}}}},
	}})
	u := newTerminalUser(t)
	status := u.start(t.Context(), io.Discard, "keys", "import", "--partial", file, "--address",
		s.address)
	u.sees(t, fmt.Sprintf("Imported %d, refused 2.\r\n", 3*batchKeys-2))
	if got := <-status; got != 1 {
		t.Errorf("status %d", got)
	}
	want := regexp.MustCompile(`^\r1000 lines read, 1000 imported, 0 refused, \d+/s …\x1b\[K\r\x1b\[Kline 1007: bad\r\n` +
		`\r2000 lines read, 1999 imported, 1 refused, \d+/s …\x1b\[K\r\x1b\[Kline 2007: bad\r\n` +
		`\r3000 lines read, 2998 imported, 2 refused, \d+/s …\x1b\[K\r\x1b\[KImported 2998, refused 2.\r\n$`)
	if !want.MatchString(u.shown()) {
		t.Errorf("the screen shows %q", u.shown())
	}
}

// TestUsageCommandAtTerminal checks that bars are drawn, but only on a terminal.
func TestUsageCommandAtTerminal(t *testing.T) {
	s := serveCLI(t, map[string][]cliAnswer{
		"GET /keys/" + cliID + "/usage": {{200, cliUsage("")}},
		"GET /usage":                    {{200, cliUsage(cliID)}},
	})
	for _, row := range []struct{ arg, want string }{
		{cliID, "█ \r\n\r\nTIME "}, {"--top=5", "  1.5 MB  █ \r\ntotal "},
	} {
		u := newTerminalUser(t)
		status := u.start(t.Context(), u.tty, "usage", row.arg, "--address", s.address)
		u.sees(t, row.want)
		if got := <-status; got != 0 {
			t.Errorf("%s: status %d", row.arg, got)
		}
	}
}

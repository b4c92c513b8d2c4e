package gate

import (
	"bufio"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

var prometheusListens = regexp.MustCompile(`msg="Listening on" address=(\S+)`)

// Prometheus runs Debian's Prometheus with the prometheus.yml in dir until the end of the test, and
// returns its host:port when it is ready. Its lifecycle and admin APIs are enabled.
func Prometheus(t testing.TB, dir string) string {
	t.Helper()
	path, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatal("prometheus is not installed: run `make deps`, or apt-get install prometheus")
	}
	cmd := exec.Command(path, "--config.file=prometheus.yml", "--storage.tsdb.path=data",
		"--web.listen-address=127.0.0.1:0",
		"--web.enable-lifecycle", "--web.enable-admin-api")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	says, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	var addr string // logged before or after "ready", by another goroutine of Prometheus
	var ready bool
	var said strings.Builder
	lines := bufio.NewScanner(says)
	for lines.Scan() {
		fmt.Fprintln(&said, lines.Text())
		if found := prometheusListens.FindStringSubmatch(lines.Text()); found != nil {
			addr = found[1]
		}
		if strings.Contains(lines.Text(), "Server is ready to receive web requests") {
			ready = true
		}
		if ready && addr != "" {
			go func() { // otherwise Prometheus would block
				for lines.Scan() {
				}
			}()
			return addr
		}
	}
	t.Fatalf("starting prometheus:\n%s", said.String())
	return ""
}

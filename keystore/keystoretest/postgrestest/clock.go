//go:build unix

package postgrestest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// StartWithClock is like Start, for a server whose wall clock SetClock can set. Its monotonic clock
// is that of the machine. PostgreSQL measures some times by the wall clock: a statement_timeout is
// longer if the clock is set back meanwhile.
func StartWithClock(settings ...string) (*Server, error) {
	library, err := libfaketime()
	if err != nil {
		return nil, err
	}
	return start(library, settings)
}

// libfaketime returns the value of LD_PRELOAD. It asks the program faketime, because the path
// depends on the distribution and the architecture.
func libfaketime() (string, error) {
	program, err := exec.LookPath("faketime")
	if err != nil {
		return "", errors.New("faketime is not installed: run `make deps` or " +
			"`apt-get install faketime`")
	}
	path, err := exec.Command(program, "-f", "+0", "printenv", "LD_PRELOAD").Output()
	if err != nil {
		return "", fmt.Errorf("asking faketime for the path of its library: %w", err)
	}
	return string(bytes.TrimSpace(path)), nil
}

// environment returns the environment of the server's processes, or nil for that of this process.
func (s *Server) environment() []string {
	if s.faketime == "" {
		return nil
	}
	return append(os.Environ(),
		"LD_PRELOAD="+s.faketime,
		"FAKETIME_TIMESTAMP_FILE="+s.clockFile(),
		"FAKETIME_NO_CACHE=1",
		"FAKETIME_DONT_FAKE_MONOTONIC=1",
		"NO_FAKE_STAT=1")
}

func (s *Server) clockFile() string { return filepath.Join(s.dir, "clock") }

// SetClock sets the wall clock of a server from StartWithClock to that of the machine plus ahead,
// which may be negative. It is effective when SetClock returns, and remains so after Halt and Run.
func (s *Server) SetClock(ahead time.Duration) error {
	if s.faketime == "" {
		return errors.New("the server was not started by StartWithClock")
	}
	next := s.clockFile() + ".new"
	if err := os.WriteFile(next, fmt.Appendf(nil, "%+.6f\n", ahead.Seconds()), 0o644); err != nil {
		return err
	}
	return os.Rename(next, s.clockFile()) // a partly written file would be another time
}

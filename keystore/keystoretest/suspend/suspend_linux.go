// Package suspend stops processes of tests.
package suspend

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Child stops a child process of this process with SIGSTOP, and returns when all its threads have
// stopped. The signal alone is not enough: on a busy machine, threads run on for a while. SIGCONT
// continues the process.
func Child(p *os.Process) error {
	if err := p.Signal(unix.SIGSTOP); err != nil {
		return fmt.Errorf("stopping process %d: %w", p.Pid, err)
	}
	for {
		// With WNOWAIT, a process that is already stopped is reported again.
		err := unix.Waitid(unix.P_PID, p.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return fmt.Errorf("waiting until process %d has stopped: %w", p.Pid, err)
		}
	}
}

//go:build unix && !linux

package suspend

import (
	"os"
	"syscall"
)

// Child stops a child process of this process with SIGSTOP. It does not wait until all its threads
// have stopped.
func Child(p *os.Process) error { return p.Signal(syscall.SIGSTOP) }

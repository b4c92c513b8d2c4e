//go:build unix && !solaris && !aix

package sqldb

import (
	"os"
	"syscall"
)

const canLock = true

// lockExclusive takes the lock, which belongs to the open file, unless another has it.
func lockExclusive(f *os.File) bool {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

//go:build unix && !solaris && !aix

package sqldb

import (
	"fmt"
	"os"
	"syscall"
)

// canLock is true: locks show whether a process is running.
const canLock = true

// lockExclusive takes an exclusive lock, unless another open file holds an exclusive or shared one.
// Closing the file releases the lock.
func lockExclusive(f *os.File) bool {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

// lockShared takes a shared lock, unless another open file holds an exclusive one.
func lockShared(f *os.File) bool {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil
}

// fileID identifies a file on this machine for as long as it exists or is open, whatever its name.
func fileID(info os.FileInfo) string {
	stat := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

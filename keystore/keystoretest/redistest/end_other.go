//go:build unix && !linux

package redistest

import "syscall"

// endWithParent does nothing: the server survives when this process is killed.
func endWithParent(*syscall.SysProcAttr) {}

//go:build unix && !linux

package postgrestest

import "syscall"

// endWithParent does nothing: the server survives when this process is killed.
func endWithParent(*syscall.SysProcAttr) {}

//go:build unix && !linux

package redistest

import "syscall"

// Elsewhere a server outlives a process that is killed.
func endWithUs(*syscall.SysProcAttr) {}

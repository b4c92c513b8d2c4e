//go:build unix && !linux

package postgrestest

import "syscall"

// Elsewhere a server outlives a process that is killed.
func endWithUs(*syscall.SysProcAttr) {}

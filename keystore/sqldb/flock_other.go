//go:build !unix || solaris || aix

package sqldb

import "os"

// Without flock a process that has ended is not known from one that is silent.
const canLock = false

func lockExclusive(*os.File) bool { return false }

func lockShared(*os.File) bool { return false }

func fileID(os.FileInfo) string { return "" }

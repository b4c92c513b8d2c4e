//go:build !unix || solaris || aix

package sqldb

import "os"

// canLock is false: without flock, a process that has ended looks like one that is silent.
const canLock = false

func lockExclusive(*os.File) bool { return false }

func lockShared(*os.File) bool { return false }

func fileID(os.FileInfo) string { return "" }

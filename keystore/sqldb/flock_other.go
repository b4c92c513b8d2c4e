//go:build !unix || solaris || aix

package sqldb

import "os"

// canLock is false: without flock, an ended process cannot be distinguished from a silent one.
const canLock = false

func lockExclusive(*os.File) bool { return false }

func lockShared(*os.File) bool { return false }

func fileID(os.FileInfo) string { return "" }

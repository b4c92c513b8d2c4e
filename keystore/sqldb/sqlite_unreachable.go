package sqldb

import (
	"errors"
	"io/fs"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A fileError is an error of the operating system about a file of an SQLite database.
type fileError struct{ error }

func (e fileError) Unwrap() error { return e.error }

// unreachableSQLite reports whether an error itself says that a file, its directory or its disk is
// temporarily unusable: the disk is mounted late or full, or another process holds the lock. A file
// that is not a database, is damaged or has a newer schema does not recover.
//
//nolint:errorlint // anywhere visits the wrapped errors
func unreachableSQLite(err error) bool {
	switch e := err.(type) {
	case *sqlite.Error:
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
			sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
			return true
		}
	case fileError:
		number, _ := errors.AsType[syscall.Errno](e)
		switch number {
		case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EROFS, syscall.EIO:
			return true
		}
		return errors.Is(e, fs.ErrPermission) || errors.Is(e, fs.ErrNotExist)
	case othersFilesError:
		return true
	}
	return err == keystore.ErrReplaced
}

package sqldb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// An openFile is a file as it was when this process opened it.
type openFile struct {
	path string
	info os.FileInfo
}

// check returns [keystore.ErrReplaced] unless the file still has its name.
func (f openFile) check() error {
	// Not os.Open: closing the file would drop the POSIX locks that SQLite holds on it.
	info, err := os.Stat(f.path)
	problem := "is not the file that was opened"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		problem = "was removed"
	case err != nil:
		return err
	case os.SameFile(info, f.info):
		return nil
	}
	return fmt.Errorf("%w: %s %s; stop every Caddy that uses this database, check its files, "+
		"and start again", keystore.ErrReplaced, f.path, problem)
}

// files are the files of a database: the database file, its write-ahead log and the log's index.
// SQLite keeps using the files it opened even after other files have taken their names, but a
// process that opens the database later uses the others. As long as one connection is open, SQLite
// itself neither removes nor replaces a file. A nil files, for a database without files, is always
// intact.
type files []openFile

// sqliteFiles returns the paths of the files of a database.
func sqliteFiles(path string) []string { return []string{path, path + "-wal", path + "-shm"} }

// statFiles returns the files of a database that is open and has been read from.
func statFiles(path string) (files, error) {
	var all files
	for _, path := range sqliteFiles(path) {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		all = append(all, openFile{path, info})
	}
	return all, nil
}

// fileIDs identifies the files that now have the names of a database's files.
func fileIDs(path string) string {
	var ids []string
	for _, path := range sqliteFiles(path) {
		id := "missing"
		if info, err := os.Stat(path); err == nil {
			id = fileID(info)
		}
		ids = append(ids, id)
	}
	return strings.Join(ids, " ")
}

func (fs files) check() error {
	for _, f := range fs {
		if err := f.check(); err != nil {
			return err
		}
	}
	return nil
}

// written returns when the log was last written, or the zero time if that is unknown. Every change
// is written to the log before other processes can see it.
func (fs files) written() time.Time {
	// NTFS may note the time only when the last handle is closed.
	if fs == nil || runtime.GOOS == "windows" {
		return time.Time{}
	}
	info, err := os.Stat(fs[1].path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// closable reports whether SQLite may close the files. The last connection copies the log into the
// database and then removes log and index by name. That would destroy the log and index of another
// process that has opened the new files.
func (fs files) closable() bool {
	if fs == nil {
		return true
	}
	for _, f := range fs[1:] {
		if info, err := os.Stat(f.path); err == nil && !os.SameFile(info, f.info) {
			return false
		}
	}
	return true
}

// intact returns [keystore.ErrReplaced] if a file of the database, or the lock file of a node of
// this handle, is not the one that was opened.
func (d *DB) intact() error {
	if err := d.files.check(); err != nil {
		return err
	}
	return d.locks.check()
}

// emptyLog copies the log into the database if a file has lost its name. Otherwise a removed log
// would be lost when the process ends, and the log of a replaced database would stay beside the new
// file, where the next process would apply it.
func (d *DB) emptyLog() {
	if d.files.check() != nil {
		// An error leaves the files as they are.
		_, _ = d.writer.ExecContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)")
	}
}

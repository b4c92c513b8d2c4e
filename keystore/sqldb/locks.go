package sqldb

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// locks show other processes on the machine whether the process of a node is running. Before its
// row exists, each node takes an exclusive lock on a small file beside the database. The system
// releases the lock however the process ends. A missing file proves nothing, and neither does a
// copy: each lock file contains its own identity and the identities of the database files that the
// node has open.
type locks struct {
	base  string // path of the database; empty: no locks
	files string // identity of its files

	mu   sync.Mutex
	held map[string]*lockFile
}

type lockFile struct {
	openFile
	f *os.File
}

func (l *lockFile) remove() { os.Remove(l.path) }
func (l *lockFile) close()  { l.f.Close() }

func (l *locks) path(incarnation string) string {
	return l.base + lockInfix + url.PathEscape(incarnation)
}

// lockInfix separates the database's name and the incarnation in the name of a lock file.
const lockInfix = "-node-"

// acquire takes the lock of a node of this handle. fresh is false if the node already holds it.
func (l *locks) acquire(incarnation string) (fresh bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.base == "" || l.held[incarnation] != nil {
		return false, nil
	}
	path := l.path(incarnation)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	info, err := f.Stat()
	if err == nil && !lockExclusive(f) {
		err = fmt.Errorf("locking %s: another process holds the lock", path)
	}
	if err == nil {
		// Only now, because other processes ignore an empty file.
		_, err = fmt.Fprintln(f, fileID(info), l.files)
	}
	if err != nil {
		os.Remove(path)
		f.Close()
		return false, err
	}
	if l.held == nil {
		l.held = map[string]*lockFile{}
	}
	l.held[incarnation] = &lockFile{openFile{path, info}, f}
	return true, nil
}

// check returns [keystore.ErrReplaced] if the lock file of a node of this handle is not the one
// that it locked.
func (l *locks) check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, file := range l.held {
		if err := file.check(); err != nil {
			return err
		}
	}
	return nil
}

// checkOthers returns an error if a running node has database files open that no longer have their
// names. No other node sees its changes, and SQLite may apply its log to our files.
func (l *locks) checkOthers() error {
	if l.base == "" {
		return nil
	}
	entries, err := os.ReadDir(filepath.Dir(l.base))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), filepath.Base(l.base)+lockInfix) {
			continue
		}
		file, files := openLock(filepath.Join(filepath.Dir(l.base), e.Name()))
		if file == nil {
			continue
		}
		running := files != fileIDs(l.base) && !lockShared(file.f)
		file.close()
		if running {
			return advisedError{
				"files of the database were replaced, and another running Caddy has the former " +
					"ones open: stop every Caddy that uses this database, check its files, and " +
					"start again",
				othersFilesError(file.path),
			}
		}
	}
	return nil
}

// An othersFilesError is the path of the lock of a process that has other files open.
type othersFilesError string

func (e othersFilesError) Error() string { return string(e) + " is locked" }

// openLock opens a node's lock file and returns the identity of the files that the node has open.
// It returns nil if the file is missing, a copy, or not written yet.
func openLock(path string) (*lockFile, string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, ""
	}
	info, err := f.Stat()
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, 1024))
	}
	itself, files, _ := bytes.Cut(bytes.TrimSpace(text), []byte(" "))
	if err != nil || string(itself) != fileID(info) {
		f.Close()
		return nil, ""
	}
	return &lockFile{openFile{path, info}, f}, string(files)
}

// release releases the lock of a node of this handle whose row was deleted. It ignores other nodes.
func (l *locks) release(incarnation string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if file := l.held[incarnation]; file != nil {
		file.remove()
		file.close()
		delete(l.held, incarnation)
	}
}

// releaseAll releases all locks. It leaves the files of nodes that were not removed, so that other
// processes see that their locks are free.
func (l *locks) releaseAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, file := range l.held {
		file.close()
	}
	l.held = nil
}

// takeOver returns the lock of a node whose process has certainly ended, or nil.
func (l *locks) takeOver(incarnation string) *lockFile {
	l.mu.Lock()
	held := l.held[incarnation] != nil
	l.mu.Unlock()
	if held || l.base == "" {
		return nil
	}
	file, _ := openLock(l.path(incarnation))
	if file != nil && !lockExclusive(file.f) {
		file.close()
		return nil
	}
	return file
}

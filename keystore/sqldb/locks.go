package sqldb

import (
	"fmt"
	"net/url"
	"os"
	"sync"
)

// locks tell, on one machine, whether the process of a node lives: from before its row exists each holds an exclusive
// lock on a small file beside the database, which the system gives back however the process ends. A file that is
// missing says nothing.
type locks struct {
	base string // path of the database; empty: no locks

	mu   sync.Mutex
	held map[string]*lockFile
}

type lockFile struct {
	path string
	f    *os.File
}

func (l *lockFile) remove() { os.Remove(l.path) }
func (l *lockFile) close()  { l.f.Close() }

func (l *locks) path(incarnation string) string {
	return l.base + "-node-" + url.PathEscape(incarnation)
}

// acquire takes the lock of a node of this handle. fresh is false when it has it already.
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
	if !lockExclusive(f) {
		f.Close()
		return false, fmt.Errorf("%s cannot be locked", path)
	}
	if l.held == nil {
		l.held = map[string]*lockFile{}
	}
	l.held[incarnation] = &lockFile{path, f}
	return true, nil
}

// release gives back the lock of a node of this handle, whose row is gone. Another's it leaves alone.
func (l *locks) release(incarnation string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if file := l.held[incarnation]; file != nil {
		file.remove()
		file.close()
		delete(l.held, incarnation)
	}
}

// releaseAll leaves the files of nodes that were not removed, for others to see that nobody holds them.
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
	own := l.held[incarnation] != nil
	l.mu.Unlock()
	if own || l.base == "" {
		return nil
	}
	path := l.path(incarnation)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	if !lockExclusive(f) {
		f.Close()
		return nil
	}
	return &lockFile{path, f}
}

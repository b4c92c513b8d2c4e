package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

const (
	// DefaultMemory is the memory in bytes that all requests together may use for bodies and lists.
	DefaultMemory = 256 << 20
	// idleTimeout is the longest pause of a client while its body is read.
	idleTimeout = 30 * time.Second
	// bodyCopies and listCopies estimate the memory of a request. A body is held as sent, as
	// decoded JSON and as the objects made from it; a list as objects and as encoded JSON.
	bodyCopies, listCopies = 4, 3
	// streamBytes is reserved for the buffers of a streamed body. A longer line takes more.
	streamBytes = 64 << 10
	// smallBody is the part of a body that is not counted. A connection needs as much anyway, and a
	// request that revokes access fits, so it never waits for others.
	smallBody = 16 << 10
)

// memory is the budget that all requests share. It is safe for concurrent use.
type memory struct {
	mu          sync.Mutex
	used, limit int64
}

// take reserves n bytes and reports whether the budget had room for them.
func (m *memory) take(n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.used+n > m.limit {
		return false
	}
	m.used += n
	return true
}

// usage returns the reserved bytes and the limit.
func (m *memory) usage() (used, limit int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used, m.limit
}

// give returns n bytes to the budget.
func (m *memory) give(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used -= n
}

// SetMemory sets the memory in bytes that all requests together may use. Requests that would exceed
// it get 429, or 413 if they need more than that alone.
func (a *API) SetMemory(limit int64) {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	a.memory.limit = limit
}

// Memory returns the memory in bytes that requests use, and the limit.
func (a *API) Memory() (used, limit int64) { return a.memory.usage() }

// An account tracks the memory that one request has reserved. It is not safe for concurrent use.
type account struct {
	memory *memory
	used   int64
	body   *bodyReader // nil if no body is read
}

type accountKey struct{}

// withAccount opens an account for a request. The caller closes it once the answer has been
// written.
func withAccount(ctx context.Context, m *memory) (context.Context, *account) {
	acct := &account{memory: m}
	return context.WithValue(ctx, accountKey{}, acct), acct
}

func accountOf(ctx context.Context) *account { return ctx.Value(accountKey{}).(*account) }

func (c *account) close() { c.freeTo(0) }

// freeTo returns all but n bytes to the budget.
func (c *account) freeTo(n int64) {
	if c.used > n {
		c.memory.give(c.used - n)
		c.used = n
	}
}

// take reserves n more bytes for the request.
func (c *account) take(n int64) error {
	if c.memory.take(n) {
		c.used += n
		return nil
	}
	_, limit := c.memory.usage()
	if c.used+n > limit {
		return newProblem(http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf(
			"this request needs more than the %d bytes of memory that all requests share "+
				"(request_memory in the configuration): send or request less at a time, and use "+
				"partial=1 for imports", limit))
	}
	return newProblem(http.StatusTooManyRequests, "busy", fmt.Sprintf(
		"running requests use the %d bytes of memory that all requests share: try again once "+
			"they have finished", limit))
}

// stopReading lets net/http answer without waiting for the rest of a body that will not be read.
func (c *account) stopReading() {
	if c.body != nil && !c.body.ended {
		_ = c.body.ctx.SetReadDeadline(time.Unix(1, 0))
	}
}

// A bodyReader reads a body and reserves memory for the bytes beyond smallBody. It fails if the
// client pauses for the duration idle.
type bodyReader struct {
	io.Reader
	ctx     huma.Context
	idle    time.Duration
	account *account
	copies  int64 // the number of copies of the body in memory
	read    int64
	ended   bool
}

func (b *bodyReader) Read(p []byte) (int, error) {
	// A deadline can only fail to be set if there is no connection: the body is in memory then. The
	// deadline is cleared after the read, because net/http would otherwise abort the request.
	_ = b.ctx.SetReadDeadline(time.Now().Add(b.idle))
	n, err := b.Reader.Read(p)
	_ = b.ctx.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return n, newProblem(http.StatusRequestTimeout, "timeout",
			fmt.Sprintf("no part of the body arrived for %s", b.idle))
	}
	b.ended = errors.Is(err, io.EOF)
	small := max(0, smallBody-b.read)
	b.read += int64(n)
	if full := b.account.take(b.copies * max(0, int64(n)-small)); full != nil {
		return 0, full
	}
	return n, err
}

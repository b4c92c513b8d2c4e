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
	// DefaultMemory is how many bytes of memory all requests together may use for bodies and lists.
	DefaultMemory = 256 << 20
	// idleTimeout is how long a client may send nothing of a body that is being read.
	idleTimeout = 30 * time.Second
	// A body is in memory as it was sent, as JSON and as what becomes of it. A list is there as it was
	// read and as it is sent.
	bodyCopies, listCopies = 4, 3
	// streamBytes is what the reading of a stream takes, besides a line that is longer.
	streamBytes = 64 << 10
	// smallBody is how much of a body is not accounted for. A change that takes access away fits, so
	// that it never waits for others, and a connection takes as much anyway.
	smallBody = 16 << 10
)

// memory is what requests may use together. It is safe for concurrent use.
type memory struct {
	mu         sync.Mutex
	used, most int64
}

// take reserves n bytes, unless too many are in use.
func (m *memory) take(n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.used+n > m.most {
		return false
	}
	m.used += n
	return true
}

func (m *memory) give(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used -= n
}

// SetMemory sets how many bytes of memory requests may use together. Requests that would exceed it
// get 429.
func (a *API) SetMemory(most int64) {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	a.memory.most = most
}

// Memory returns how many bytes of memory requests use, and may use.
func (a *API) Memory() (used, most int64) {
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	return a.memory.used, a.memory.most
}

// An account is what one request uses of the memory. It is for one goroutine.
type account struct {
	memory *memory
	used   int64
	body   *bodyReader // nil: the request has none, or nobody has asked for it
}

type accountKey struct{}

// withAccount opens an account for a request. The caller closes it when the answer was written.
func withAccount(ctx context.Context, m *memory) (context.Context, *account) {
	own := &account{memory: m}
	return context.WithValue(ctx, accountKey{}, own), own
}

func accountOf(ctx context.Context) *account { return ctx.Value(accountKey{}).(*account) }

func (c *account) close() { c.freeTo(0) }

// freeTo gives back what is more than n bytes.
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
	c.memory.mu.Lock()
	most := c.memory.most
	c.memory.mu.Unlock()
	if c.used+n > most {
		return newProblem(http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf(
			"this request alone needs more than the %d bytes of memory that all requests may use "+
				"(request_memory in the configuration): send or ask for less at a time; an import can be sent with partial=1", most))
	}
	return newProblem(http.StatusTooManyRequests, "busy", fmt.Sprintf(
		"requests that are running use the %d bytes of memory that they may use together: "+
			"try again when they have finished", most))
}

// stopReading keeps net/http from waiting for the rest of a body that nobody wants before it answers.
func (c *account) stopReading() {
	if c.body != nil && !c.body.ended {
		_ = c.body.ctx.SetReadDeadline(time.Unix(1, 0))
	}
}

// A bodyReader reads a body from a client that has to keep sending. It reserves memory for what it
// reads beyond smallBody.
type bodyReader struct {
	io.Reader
	ctx     huma.Context
	idle    time.Duration
	account *account
	copies  int64 // that are made of it
	read    int64
	ended   bool
}

func (b *bodyReader) Read(p []byte) (int, error) {
	// A writer without deadlines has the body in memory. The deadline must not outlast the reading:
	// net/http would end the request by it.
	_ = b.ctx.SetReadDeadline(time.Now().Add(b.idle))
	n, err := b.Reader.Read(p)
	_ = b.ctx.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return n, newProblem(http.StatusRequestTimeout, "timeout",
			fmt.Sprintf("nothing was received of the body for %s", b.idle))
	}
	b.ended = errors.Is(err, io.EOF)
	small := max(0, smallBody-b.read)
	b.read += int64(n)
	if full := b.account.take(b.copies * max(0, int64(n)-small)); full != nil {
		return 0, full
	}
	return n, err
}

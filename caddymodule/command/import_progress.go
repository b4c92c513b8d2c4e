package command

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// progressInterval is how often an import reports its progress. Tests shorten it.
var progressInterval = time.Second

// A progress reports the progress of an import. On a terminal it overwrites one line, elsewhere it
// writes lines if --progress is given. It may be used concurrently.
type progress struct {
	cli     *cli
	enabled bool
	inPlace bool
	begun   time.Time

	mu    sync.Mutex // the HTTP client may read the body even after the answer
	shown time.Time  // time of the last report
	done  chan struct{}
}

func (c *cli) newProgress(requested bool) *progress {
	_, inPlace := terminal(c.err)
	now := time.Now()
	return &progress{cli: c, enabled: requested || inPlace, inPlace: inPlace, begun: now,
		shown: now, done: make(chan struct{})}
}

// tell reports the progress. If throttled is true, it reports at most once per interval.
func (p *progress) tell(throttled bool, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.enabled || p.ended() || throttled && time.Since(p.shown) < progressInterval {
		return
	}
	p.shown = time.Now()
	if p.inPlace {
		fmt.Fprintf(p.cli.err, "\r"+format+"\x1b[K", args...)
	} else {
		p.cli.say(format, args...)
	}
}

// wait reports what the import is waiting for, and for how long, until end is called.
func (p *progress) wait(what string) {
	p.tell(false, "%s …", what)
	if !p.enabled {
		return
	}
	begun, interval := time.Now(), max(progressInterval, time.Millisecond)
	go func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-p.done:
				return
			case <-tick.C:
				p.tell(false, "%s … %s", what, time.Since(begun).Round(interval))
			}
		}
	}()
}

// say writes a line that is not overwritten.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	p.cli.say(format, args...)
}

// end stops reporting.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended() {
		p.wipe()
		close(p.done)
	}
}

func (p *progress) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wipe clears the line that is overwritten.
func (p *progress) wipe() {
	if p.inPlace && p.shown != p.begun {
		fmt.Fprint(p.cli.err, "\r\x1b[K")
	}
}

// rate returns n per second since the beginning.
func (p *progress) rate(n int) int {
	return int(float64(n) / max(time.Since(p.begun).Seconds(), 0.001))
}

// sending is a request body that reports how much of it has been sent.
type sending struct {
	io.Reader
	progress     *progress
	byLine       bool // each line is a key
	lines, bytes int
	sent         bool
}

func (s *sending) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	s.bytes += n
	s.lines += bytes.Count(b[:n], []byte{'\n'})
	amount := fmt.Sprintf("%.1f MiB", float64(s.bytes)/(1<<20))
	if s.byLine {
		amount = fmt.Sprintf("%d lines, %s", s.lines, amount)
	}
	switch {
	case err != io.EOF:
		s.progress.tell(true, "sent %s, %d KiB/s …", amount, s.progress.rate(s.bytes)>>10)
	case !s.sent:
		s.sent = true
		s.progress.wait("all sent: " + amount + "; waiting for the server")
	}
	return n, err
}

package command

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// progressInterval is how often an import says how far it has come. Tests shorten it.
var progressInterval = time.Second

// A progress shows how far an import has come: at a terminal in one line that changes, elsewhere,
// if asked for, line by line.
type progress struct {
	cli     *cli
	shows   bool
	inPlace bool
	begun   time.Time

	mu    sync.Mutex // the body of a request is read elsewhere, perhaps still after the answer
	shown time.Time
	over  chan struct{} // closed at the end
}

func (c *cli) newProgress(asked bool) *progress {
	_, inPlace := terminal(c.err)
	now := time.Now()
	return &progress{cli: c, shows: asked || inPlace, inPlace: inPlace, begun: now, shown: now,
		over: make(chan struct{})}
}

// tell shows what has been done, unless it did so a moment ago and there is more to come.
func (p *progress) tell(more bool, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.shows || p.ended() || more && time.Since(p.shown) < progressInterval {
		return
	}
	p.shown = time.Now()
	if p.inPlace {
		fmt.Fprintf(p.cli.err, "\r"+format+"\x1b[K", args...)
	} else {
		p.cli.say(format, args...)
	}
}

// wait shows what is waited for, and every second for how long, until the end.
func (p *progress) wait(what string) {
	p.tell(false, "%s …", what)
	if !p.shows {
		return
	}
	begun, interval := time.Now(), max(progressInterval, time.Millisecond)
	go func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-p.over:
				return
			case <-tick.C:
				p.tell(false, "%s … %s", what, time.Since(begun).Round(interval))
			}
		}
	}()
}

// say writes a line that stays.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	p.cli.say(format, args...)
}

// end has nothing shown any more.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended() {
		p.wipe()
		close(p.over)
	}
}

func (p *progress) ended() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

func (p *progress) wipe() {
	if p.inPlace && p.shown != p.begun {
		fmt.Fprint(p.cli.err, "\r\x1b[K")
	}
}

// rate is how many a second n since the beginning are.
func (p *progress) rate(n int) int {
	return int(float64(n) / max(time.Since(p.begun).Seconds(), 0.001))
}

// sending is a body that tells how much of it has been read.
type sending struct {
	io.Reader
	progress     *progress
	byLine       bool // a line is a key
	lines, bytes int
	sent         bool
}

func (s *sending) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	s.bytes += n
	s.lines += bytes.Count(b[:n], []byte{'\n'})
	much := fmt.Sprintf("%.1f MiB", float64(s.bytes)/(1<<20))
	if s.byLine {
		much = fmt.Sprintf("%d lines, %s", s.lines, much)
	}
	switch {
	case err != io.EOF:
		s.progress.tell(true, "sent %s, %d KiB/s …", much, s.progress.rate(s.bytes)>>10)
	case !s.sent:
		s.sent = true
		s.progress.wait("all sent: " + much + "; the server is at it")
	}
	return n, err
}

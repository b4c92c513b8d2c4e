package faults

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"
)

// Access is what one secret of one key opens: reading or writing.
type Access string

// Request is one use of an access. All times of a history are Unix nanoseconds on the one machine
// that everything runs on.
type Request struct {
	Send   int64  `json:"send"` // before its first byte
	Recv   int64  `json:"recv"` // after the last of the answer
	Access Access `json:"access"`
	Node   int    `json:"node"`
	Status int    `json:"status"` // 0: no answer
}

// Change is one change of keys. Changes of one access do not overlap, and after one whose outcome
// is not known nothing gives the access again.
type Change struct {
	Call   int64    `json:"call"`
	Return int64    `json:"return"`
	What   string   `json:"what"`
	Node   int      `json:"node"`
	Gives  []Access `json:"gives,omitempty"`
	Takes  []Access `json:"takes,omitempty"`
	Status int      `json:"status"` // 0: no answer
	Done   bool     `json:"done"`   // it answered that it is in force on every node
}

// Stream is an answer that went on, such as server-sent events.
type Stream struct {
	Open   int64  `json:"open"`
	Last   int64  `json:"last"` // when the upstream sent the last event that came through
	End    int64  `json:"end"`
	Access Access `json:"access"`
	Node   int    `json:"node"`
}

// Fault is a time in which something was broken.
type Fault struct {
	Begin   int64   `json:"begin"`
	End     int64   `json:"end"`  // 0: not in this history
	Node    int     `json:"node"` // -1: all
	What    string  `json:"what"`
	Excuses Excuses `json:"excuses"`
}

// Excuses says what requests of a live key may see during a fault: nothing but success unless it is
// named here.
type Excuses struct {
	Unavailable bool `json:"unavailable,omitempty"` // 503
	NoAnswer    bool `json:"no_answer,omitempty"`
	// LateCut is for a process that cannot ask the database: it cuts by a timer what it has open,
	// once its lease is over (docs/protocol.md).
	LateCut bool `json:"late_cut,omitempty"`
	// Stopped is for one that does not run at all: it cuts when it goes on.
	Stopped bool `json:"stopped,omitempty"`
}

// What each kind of fault excuses.
var (
	storeAway = Excuses{Unavailable: true, LateCut: true}
	nodeAway  = Excuses{Unavailable: true, NoAnswer: true}
	stopped   = Excuses{Unavailable: true, NoAnswer: true, Stopped: true}
	// Caddy ends connections that outlive the old configuration's grace period
	reloading = Excuses{NoAnswer: true}
	// Redis, whatever it does; the database's clock and settings; work that takes long
	nothing = Excuses{}
	// A node that was given up meanwhile, or starts, cannot join until the standby is back.
	noStandby = Excuses{Unavailable: true}
)

// History is what happened in one run, in no order.
type History struct {
	Requests []Request
	Changes  []Change
	Streams  []Stream
	Faults   []Fault
}

// Recorder makes a History, in memory and in a file with a JSON object a line. It is safe for
// concurrent use.
type Recorder struct {
	mu      sync.Mutex
	history History
	file    *os.File
	out     *bufio.Writer
}

// Record begins a history.
func Record(path string) (*Recorder, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &Recorder{file: file, out: bufio.NewWriter(file)}, nil
}

// Close ends the file, if it has not ended, and returns what was recorded.
func (h *Recorder) Close() (*History, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		return &h.history, nil
	}
	err := errors.Join(h.out.Flush(), h.file.Close())
	h.file = nil
	return &h.history, err
}

func (h *Recorder) request(r Request) { add(h, &h.history.Requests, "request", r) }
func (h *Recorder) change(c Change)   { add(h, &h.history.Changes, "change", c) }
func (h *Recorder) stream(s Stream)   { add(h, &h.history.Streams, "stream", s) }

// fault notes that one begins, and returns what to call when it is over.
func (h *Recorder) fault(node int, what string, e Excuses) (over func()) {
	f := Fault{Begin: now(), Node: node, What: what, Excuses: e}
	h.mu.Lock()
	i := len(h.history.Faults)
	h.history.Faults = append(h.history.Faults, f)
	h.mu.Unlock()
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.history.Faults[i].End = now()
		h.line("fault", h.history.Faults[i])
	}
}

// stall notes a fault of all nodes that is noticed when it is over.
func (h *Recorder) stall(begin int64, what string) {
	add(h, &h.history.Faults, "fault",
		Fault{Begin: begin, End: now(), Node: allNodes, What: what,
			Excuses: Excuses{Unavailable: true, NoAnswer: true, LateCut: true}})
}

func add[T any](h *Recorder, to *[]T, kind string, event T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*to = append(*to, event)
	h.line(kind, event)
}

func (h *Recorder) line(kind string, event any) {
	text, _ := json.Marshal(map[string]any{kind: event}) // plain structs
	h.out.Write(append(text, '\n'))                      // an error stays until Flush
}

func now() int64 { return time.Now().UnixNano() }

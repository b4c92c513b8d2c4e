package faults

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"
)

// Access is reading or writing with one token of one key.
type Access string

// Request is one use of an access. All times of a history are Unix nanoseconds of the same machine.
type Request struct {
	Send   int64  `json:"send"` // before the first byte
	Recv   int64  `json:"recv"` // after the last byte of the response
	Access Access `json:"access"`
	Node   int    `json:"node"`
	Status int    `json:"status"` // 0 without a response
}

// Change is one change of keys. Changes of one access do not overlap. After a change with an
// unknown outcome, no other change gives the access again.
type Change struct {
	Call   int64    `json:"call"`
	Return int64    `json:"return"`
	What   string   `json:"what"`
	Node   int      `json:"node"`
	Gives  []Access `json:"gives,omitempty"`
	Takes  []Access `json:"takes,omitempty"`
	Status int      `json:"status"` // 0 without a response
	Done   bool     `json:"done"`   // whether the response said that every node has applied it
}

// Stream is a response without an end, such as server-sent events.
type Stream struct {
	Open   int64  `json:"open"`
	Last   int64  `json:"last"` // when the upstream sent the last event that was received
	End    int64  `json:"end"`
	Access Access `json:"access"`
	Node   int    `json:"node"`
}

// Fault is a time in which something was broken.
type Fault struct {
	Begin   int64   `json:"begin"`
	End     int64   `json:"end"`  // 0 if the fault did not end
	Node    int     `json:"node"` // -1 for all nodes
	What    string  `json:"what"`
	Excuses Excuses `json:"excuses"`
}

// Excuses says which responses other than success a valid key may receive during a fault.
type Excuses struct {
	Unavailable bool `json:"unavailable,omitempty"` // 503
	NoAnswer    bool `json:"no_answer,omitempty"`
	// LateCut allows a process that cannot reach the database to cut its streams only when its
	// lease expires (docs/protocol.md).
	LateCut bool `json:"late_cut,omitempty"`
	// Stopped allows a stopped process to cut its streams only when it continues.
	Stopped bool `json:"stopped,omitempty"`
}

// The excuses of each kind of fault.
var (
	// A lease that expires cuts running requests, and those that come later get 503.
	storeDown = Excuses{Unavailable: true, NoAnswer: true, LateCut: true}
	nodeDown  = Excuses{Unavailable: true, NoAnswer: true}
	stopped   = Excuses{Unavailable: true, NoAnswer: true, Stopped: true}
	// Caddy closes connections that outlive the grace period of the former configuration.
	reloading = Excuses{NoAnswer: true}
	// nothing is for faults of Redis, the database clock, settings and bulk work.
	nothing = Excuses{}
	// A node that was removed meanwhile, or starts, cannot join until the standby is back.
	noStandby = Excuses{Unavailable: true}
)

// History holds the events of one run, in no particular order.
type History struct {
	Requests []Request
	Changes  []Change
	Streams  []Stream
	Faults   []Fault
}

// Recorder records a History in memory and in a file with one JSON object per line. It is safe for
// concurrent use.
type Recorder struct {
	mu      sync.Mutex
	history History
	file    *os.File
	out     *bufio.Writer
}

// Record creates the file and returns its Recorder.
func Record(path string) (*Recorder, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &Recorder{file: file, out: bufio.NewWriter(file)}, nil
}

// Close closes the file, unless it is closed, and returns the history.
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

// fault records the beginning of a fault and returns the function that records its end.
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

// stall records a fault of all nodes that was noticed when it was over.
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
	text, _ := json.Marshal(map[string]any{kind: event}) // plain structs have no error
	h.out.Write(append(text, '\n'))                      // Flush returns the error
}

func now() int64 { return time.Now().UnixNano() }

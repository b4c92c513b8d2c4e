package manage

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// reportLimit bounds, for each client, the reports that cost something but end nothing: a query for
// a credential without a tag, which anyone can invent, or a transaction that only adds a row.
var reportLimit = keystore.RateLimit{Requests: 100, Per: 10 * time.Second, Burst: MaxLeaks}

const (
	maxLeakClients = 4096 // others share a limit
	maxLeakKeys    = 4096 // about which a node remembers reports
	maxLeakWaits   = 8
)

// leakReports is the state of a node for reports of leaked tokens. The zero value is ready to use.
type leakReports struct {
	mu      sync.Mutex
	clients map[string]keystore.Meter
	// told has the reports that this node has passed to the database, so that the key, whoever
	// reports it how often, costs no more transactions than there may be rows.
	told map[toldKey]toldReports
	// settled has the records of tokens whose end is in force everywhere. A node reads another
	// record after each change of the key, such as one that made it active in between.
	settled map[*keystore.Record]bool
	waiting int // reports that wait for the end of a key that an earlier one has ended
}

// A toldKey is a key; signed and other reports have rows of their own.
type toldKey struct {
	key    string
	signed bool
}

type toldReports struct {
	last time.Time
	urls []string // see leak.place
}

// admit reports whether a client may send one more report that costs something. Senders that have
// proven who they are share a limit.
func (l *leakReports) admit(c Caller, signed bool, now time.Time) bool {
	client := "signed"
	if !signed {
		client = c.from
		if a, err := netip.ParseAddr(client); err == nil && a.Unmap().Is6() {
			network, _ := a.WithZone("").Prefix(64) // of which a client has as many as it likes
			client = network.String()
		}
	}
	at := now.UnixMicro()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients == nil {
		l.clients = make(map[string]keystore.Meter)
	}
	if _, known := l.clients[client]; !known && len(l.clients) >= maxLeakClients {
		maps.DeleteFunc(l.clients, func(_ string, m keystore.Meter) bool { return m.TAT <= at })
		if len(l.clients) >= maxLeakClients && !signed {
			client = ""
		}
	}
	m := l.clients[client]
	if !m.Fits(&reportLimit, at) {
		return false
	}
	l.clients[client] = m.Add(&reportLimit, at, 1)
	return true
}

// fresh reports whether a report may add a row.
func (l *leakReports) fresh(k toldKey, place string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	told := l.told[k]
	return now.Sub(told.last) >= leaksKept ||
		len(told.urls) < maxLeakRows && !slices.Contains(told.urls, place)
}

func (l *leakReports) note(k toldKey, place string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	told, known := l.told[k]
	if now.Sub(told.last) >= leaksKept {
		told.urls = nil
	}
	if l.told == nil || !known && len(l.told) >= maxLeakKeys {
		l.told = make(map[toldKey]toldReports)
	}
	if len(told.urls) < maxLeakRows && !slices.Contains(told.urls, place) {
		told.urls = append(told.urls, place)
	}
	l.told[k] = toldReports{now, told.urls}
}

func (l *leakReports) isSettled(r *keystore.Record) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled[r]
}

func (l *leakReports) settle(records []*keystore.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled == nil || len(l.settled) >= maxLeakKeys {
		l.settled = make(map[*keystore.Record]bool)
	}
	for _, r := range records {
		l.settled[r] = true
	}
}

// beginWait bounds the reports that wait at a time.
func (l *leakReports) beginWait() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == maxLeakWaits {
		return false
	}
	l.waiting++
	return true
}

func (l *leakReports) endWait() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
}

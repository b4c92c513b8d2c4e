package manage

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// reportLimit bounds, for each client, the reports that cost something but take no access away.
// They cost a query for a credential without a tag, which anyone can invent, or a transaction that
// only adds a row.
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
	// written has the reports that this node has written to the database. So a key that is reported
	// often causes no more transactions than it may have rows.
	written map[reportedKey]writtenReports
	// settled has the records of tokens that all nodes refuse. If the key changes, for example
	// because somebody activates it again, the node reads another record.
	settled map[*keystore.Record]bool
	waiting int // reports that wait until all nodes refuse a token that this node already refuses
}

// A reportedKey identifies the rows of a key: signed and other reports have rows of their own.
type reportedKey struct {
	key    string
	signed bool
}

type writtenReports struct {
	last time.Time
	urls []string // see leak.place
}

// admit reports whether a client may send one more report that costs something. All signed reports
// share one limit.
func (l *leakReports) admit(c Caller, signed bool, now time.Time) bool {
	client := "signed"
	if !signed {
		client = c.from
		if a, err := netip.ParseAddr(client); err == nil && a.Unmap().Is6() {
			network, _ := a.WithZone("").Prefix(64) // a client can use any address of its /64
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
func (l *leakReports) fresh(k reportedKey, place string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	written := l.written[k]
	return now.Sub(written.last) >= leaksKept ||
		len(written.urls) < maxLeakRows && !slices.Contains(written.urls, place)
}

func (l *leakReports) note(k reportedKey, place string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	written, known := l.written[k]
	if now.Sub(written.last) >= leaksKept {
		written.urls = nil
	}
	if l.written == nil || !known && len(l.written) >= maxLeakKeys {
		l.written = make(map[reportedKey]writtenReports)
	}
	if len(written.urls) < maxLeakRows && !slices.Contains(written.urls, place) {
		written.urls = append(written.urls, place)
	}
	l.written[k] = writtenReports{now, written.urls}
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

// beginWait registers a waiting report. It returns false if too many are waiting.
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

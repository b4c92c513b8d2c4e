package failover

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// reminded is how long before their expiry the gates remind of keys. All keys are minted to expire
// soon after that.
const reminded = 24 * time.Hour

// A receiver gets all events of the gates.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	events []string // ids, in the order of their first arrival
}

func newReceiver(t testing.TB) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(
		func(_ http.ResponseWriter, q *http.Request) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if id := q.Header.Get("webhook-id"); !slices.Contains(r.events, id) {
				r.events = append(r.events, id)
			}
		}))
	t.Cleanup(r.Close)
	return r
}

// options makes gates report to the receiver.
func (r *receiver) options() string {
	return fmt.Sprintf("remind %v\nwebhook %s {\nsecret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"+
		"allow_private\n}\n", reminded, r.URL)
}

func (r *receiver) received() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// list returns all items of a list. It fails while the gate has no lease, for example.
func (r *run) list(path string) (items []gate.JSON, ok bool) {
	for more := ""; ; {
		answer := r.gates[0].Try(r.t.Context(), "GET", path+more, nil)
		page, ok := answer.JSON()["items"].([]any)
		if !ok {
			return nil, false
		}
		for _, item := range page {
			items = append(items, item.(gate.JSON))
		}
		cursor, ok := answer.JSON()["next_cursor"].(string)
		if !ok {
			return items, true
		}
		more = "&cursor=" + cursor
	}
}

// checkReminders waits until there is a reminder of each key, and fails if there are two.
func (r *run) checkReminders() {
	r.t.Helper()
	given := make(map[any]int)
	r.until("each key has its reminder", func() bool {
		time.Sleep(500 * time.Millisecond)
		rows, ok := r.list("/audit?action=key.expiring&limit=1000")
		keys, also := r.list("/keys?status=active&limit=1000")
		if !ok || !also {
			return false
		}
		clear(given)
		for _, row := range rows {
			given[row["object"]]++
		}
		return !slices.ContainsFunc(keys,
			func(k gate.JSON) bool { return given[k["id"]] == 0 && !r.late(k) })
	})
	for id, n := range given {
		if n > 1 {
			r.t.Errorf("%d reminders of key %v", n, id)
		}
	}
	r.t.Logf("%d keys have their reminder", len(given))
	if len(given) == 0 {
		r.t.Error("the run proves nothing about reminders")
	}
}

// late reports whether a failover may have delayed the mint of a key until after its reminder was
// due: see Reminders in docs/lifetimes.md.
func (r *run) late(k gate.JSON) bool {
	text, _ := k["expires_at"].(string)
	expires, _ := time.Parse(time.RFC3339, text)
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.keys, func(known key) bool { return known.ID == k["id"] })
	return i < 0 || !r.keys[i].minted.Before(expires.Add(-reminded))
}

// checkEvents waits until the receiver has the events of all rows of the audit log, and fails if it
// got them in another order. It ignores events whose rows a failover has lost.
func (r *run) checkEvents() {
	r.t.Helper()
	var want []string
	var rows []gate.JSON
	r.until("the audit log can be read", func() (ok bool) {
		rows, ok = r.list("/audit?limit=1000")
		return ok
	})
	logged := make(map[string]bool)
	for _, row := range slices.Backward(rows) {
		id := fmt.Sprintf("evt_%.0f_%.16s", row["seq"], row["hash"])
		want, logged[id] = append(want, id), true
	}
	r.until("all events have arrived", func() bool {
		return slices.Contains(r.receiver.received(), want[len(want)-1])
	})
	got := r.receiver.received()
	// Rows that were added since are after the last one.
	got = got[:1+slices.Index(got, want[len(want)-1])]
	got = slices.DeleteFunc(got, func(id string) bool { return !logged[id] })
	// The gates were under load before the first of them delivered.
	want = want[slices.Index(want, got[0]):]
	if !slices.Equal(got, want) {
		r.t.Errorf("received %v, want %v", got, want)
	}
	r.t.Logf("%d events arrived in order", len(got))
}

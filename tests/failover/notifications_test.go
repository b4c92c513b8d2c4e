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
	events []string // ids, each where it came first
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

// list returns all items of a list.
func (r *run) list(path string) (items []gate.JSON) {
	r.t.Helper()
	for more := ""; ; {
		answer := r.gates[0].Call(r.t, "GET", path+more, nil)
		page, ok := answer.JSON()["items"].([]any)
		if !ok {
			r.t.Fatalf("%s: %v", path, answer)
		}
		for _, item := range page {
			items = append(items, item.(gate.JSON))
		}
		cursor, ok := answer.JSON()["next_cursor"].(string)
		if !ok {
			return items
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
		clear(given)
		for _, row := range r.list("/audit?action=key.expiring&limit=1000") {
			given[row["object"]]++
		}
		return !slices.ContainsFunc(r.list("/keys?status=active&limit=1000"),
			func(k gate.JSON) bool { return given[k["id"]] == 0 && !late(k) })
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

// late reports whether a failover has delayed the mint of a key until after its reminder was due.
func late(k gate.JSON) bool {
	var times [2]time.Time
	for i, field := range []string{"created_at", "expires_at"} {
		text, _ := k[field].(string)
		times[i], _ = time.Parse(time.RFC3339, text)
	}
	return times[1].Sub(times[0]) < reminded
}

// checkEvents waits until the receiver has all events, and fails if they are not those of the audit
// log in its order.
func (r *run) checkEvents() {
	r.t.Helper()
	var want []string
	for _, row := range slices.Backward(r.list("/audit?limit=1000")) {
		want = append(want, fmt.Sprintf("evt_%.0f_%.16s", row["seq"], row["hash"]))
	}
	r.until("all events have arrived", func() bool {
		return slices.Contains(r.receiver.received(), want[len(want)-1])
	})
	got := r.receiver.received()
	// The gates were under load before the first of them delivered.
	want = want[max(0, slices.Index(want, got[0])):]
	if got = got[:min(len(got), len(want))]; !slices.Equal(got, want) {
		r.t.Errorf("received %v, want %v", got, want)
	}
	r.t.Logf("%d events arrived in order", len(got))
}

package node_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A usageLog is a database whose usage is in memory.
type usageLog struct {
	keystore.Database
	cut            atomic.Bool // AddUsage returns an error
	unacknowledged atomic.Bool // AddUsage adds a batch and returns an error

	mu         sync.Mutex
	calls      []keystore.UsageBatch
	counts     map[keystore.UsageRow]keystore.UsageCounts // by rows without counts
	maintained []keystore.UsageKept
	more       int // how often MaintainUsage has more to do
}

// openLogged opens a node of a new fleet whose usage is logged.
func openLogged(t testing.TB, s node.Settings) (*manage.Keystore, *usageLog, *fleet.Faulty) {
	db := &usageLog{counts: make(map[keystore.UsageRow]keystore.UsageCounts)}
	k, f := fleet.New(t).OpenWith(fleet.Observer{}, s, fleet.Open,
		func(f *fleet.Faulty) { db.Database, f.Database = f.Database, db })
	return k, db, f
}

func (db *usageLog) AddUsage(_ context.Context, b keystore.UsageBatch) error {
	if db.cut.Load() {
		return fleet.ErrCut
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	seen := slices.ContainsFunc(db.calls,
		func(other keystore.UsageBatch) bool { return other.Number >= b.Number })
	b.Rows = slices.Clone(b.Rows)
	db.calls = append(db.calls, b)
	for _, r := range b.Rows {
		counts := r.UsageCounts
		r.UsageCounts = keystore.UsageCounts{}
		if sum, double := db.counts[r]; !seen {
			if double {
				counts.Add(&sum)
			}
			db.counts[r] = counts
		}
	}
	if db.unacknowledged.Load() {
		return fleet.ErrCut
	}
	return nil
}

func (db *usageLog) MaintainUsage(_ context.Context, k keystore.UsageKept) (bool, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.maintained = append(db.maintained, k)
	db.more--
	return db.more >= 0, nil
}

// all returns the counts by rows without counts.
func (db *usageLog) all() map[keystore.UsageRow]keystore.UsageCounts {
	db.mu.Lock()
	defer db.mu.Unlock()
	return maps.Clone(db.counts)
}

func (db *usageLog) requests() (n int64) {
	for _, counts := range db.all() {
		n += counts.Requests
	}
	return n
}

// lookUp returns the answer for a token.
func lookUp(t testing.TB, k *manage.Keystore, token string) node.Answer {
	t.Helper()
	a, err := k.Lookup(t.Context(), token, time.Now())
	if err != nil || a.Record == nil {
		t.Fatal(a.Outcome, err)
	}
	return a
}

func TestUsageCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, db, _ := openLogged(t, node.Settings{})
		key, token := fleet.Mint(t, k, manage.KeySpec{Name: "used"})
		a := lookUp(t, k, token)
		begin := k.Now().Truncate(time.Minute)
		for _, u := range []node.Use{
			{Operation: "read", Units: 2, Status: 200, BytesIn: 3, BytesOut: 5,
				Took: 10 * time.Millisecond},
			{Operation: "read", Units: 1, Status: 101, BytesIn: 1, BytesOut: 1, Took: time.Minute},
			{Operation: "read", Units: 1, BytesIn: 4, BytesOut: 0, Took: time.Second}, // cut
			{Operation: "read", Status: 999, Took: time.Second},
			{Operation: "read", Outcome: keystore.Limited, Units: 7, Status: 429, BytesIn: 7,
				BytesOut: 7, Took: time.Hour},
			{Operation: "orders:write", Also: true, Status: 200},
			{Operation: "read", Also: true},
		} {
			u.Ended = time.Now()
			k.CountUse(a, u)
		}
		time.Sleep(5 * time.Second)
		id := keystore.UsageRow{Begin: begin, Key: key.ID, Namespace: "default",
			Owner: key.Owner, Operation: "read"}
		limited, also := id, id
		limited.Outcome, also.Operation = keystore.Limited, "orders:write"
		want := map[keystore.UsageRow]keystore.UsageCounts{
			id: {Requests: 4, Units: 4, Status: [5]int64{1, 1}, BytesIn: 8, BytesOut: 6,
				Latency: [6]int64{0: 1, 5: 1}},
			limited: {Requests: 1},
			also:    {},
		}
		if got := db.all(); !maps.Equal(got, want) {
			t.Errorf("%+v,\nwant %+v", got, want)
		}
		if s := k.UsageStats(); s.Pending != 0 || s.Written != 1 || s.Failed != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestUsageMinuteIsTheEnd checks that a request counts in the minute in which it ended, by the
// database's clock.
func TestUsageMinuteIsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &usageLog{counts: make(map[keystore.UsageRow]keystore.UsageCounts)}
		k, _ := fleet.New(t).OpenWith(fleet.Observer{}, node.Settings{}, fleet.Open,
			func(f *fleet.Faulty) {
				db.Database, f.Database = f.Database, db
				f.Ahead.Store(int64(90 * time.Minute))
			})
		_, token := fleet.Mint(t, k, manage.KeySpec{})
		a := lookUp(t, k, token)
		time.Sleep(100 * time.Second)
		end := time.Now()
		time.Sleep(61 * time.Second)
		k.CountUse(a, node.Use{Ended: end})
		time.Sleep(5 * time.Second)
		want := end.Add(90 * time.Minute).UTC().Truncate(time.Minute)
		for row := range db.all() {
			if !row.Begin.Equal(want) {
				t.Errorf("counts in %v, want %v", row.Begin, want)
			}
		}
		if n := db.requests(); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestUsageIsRepeatedUnchanged checks that a batch which may have been added is repeated as it was,
// even if the same key is used meanwhile.
func TestUsageIsRepeatedUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, db, _ := openLogged(t, node.Settings{})
		_, token := fleet.Mint(t, k, manage.KeySpec{})
		a := lookUp(t, k, token)
		db.unacknowledged.Store(true)
		for range 3 {
			k.CountUse(a, node.Use{Ended: time.Now()})
			time.Sleep(5 * time.Second)
		}
		if s := k.UsageStats(); s.Pending == 0 || s.Failed < 3 {
			t.Errorf("%+v", s)
		}
		db.unacknowledged.Store(false)
		time.Sleep(5 * time.Second)
		if n := db.requests(); n != 3 {
			t.Errorf("%d requests are counted, want 3", n)
		}
		first := db.calls[0]
		if first.Number != 1 || first.Writer == "" {
			t.Errorf("%+v", first)
		}
		for _, b := range db.calls {
			if b.Writer != first.Writer || b.Number == 1 && !slices.Equal(b.Rows, first.Rows) {
				t.Errorf("%+v, want %+v", b, first)
			}
		}
	})
}

// TestUsageOfManyKeys checks the size of batches.
func TestUsageOfManyKeys(t *testing.T) {
	k, db, _ := openLogged(t, node.Settings{})
	_, token := fleet.Mint(t, k, manage.KeySpec{})
	a := lookUp(t, k, token)
	for i := range 2*keystore.MaxUsageRows + 1 {
		k.CountUse(a, node.Use{Operation: fmt.Sprint(i), Ended: time.Now()})
	}
	k.FlushUsage(t.Context())
	var sizes []int
	for i, b := range db.calls {
		sizes = append(sizes, len(b.Rows))
		if b.Number != int64(i)+1 {
			t.Errorf("batch %d has the number %d", i+1, b.Number)
		}
	}
	if want := []int{keystore.MaxUsageRows, keystore.MaxUsageRows, 1}; !slices.Equal(sizes, want) {
		t.Errorf("batches of %v rows, want %v", sizes, want)
	}
}

func TestUsageIsWrittenByClose(t *testing.T) {
	var db *usageLog
	t.Run("node", func(t *testing.T) {
		var k *manage.Keystore
		k, db, _ = openLogged(t, node.Settings{})
		_, token := fleet.Mint(t, k, manage.KeySpec{})
		k.CountUse(lookUp(t, k, token), node.Use{Ended: time.Now()})
	})
	if n := db.requests(); n != 1 {
		t.Errorf("%d requests are counted, want 1", n)
	}
}

// TestUsageOff checks that a reload stops and resumes counting, and that last uses are still
// written, but not their addresses.
func TestUsageOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		off := node.Settings{Usage: node.UsageSettings{Off: true}}
		k, db, _ := openLogged(t, off)
		key, token := fleet.Mint(t, k, manage.KeySpec{})
		a := lookUp(t, k, token)
		count := func() {
			k.CountUse(a, node.Use{Ended: time.Now()})
			time.Sleep(3 * time.Minute)
		}
		k.Used(a.Record, a.Narrowing, a.Now, client)
		count()
		if n := len(db.all()) + len(db.maintained); n != 0 {
			t.Errorf("%d calls for usage", n)
		}
		found, err := k.FindKey(t.Context(), fleet.Root, key.ID)
		if err != nil || found.LastUsedAt.IsZero() || found.LastUsedFrom.IsValid() {
			t.Errorf("%+v, %v", found, err)
		}
		k.Configure(node.Settings{})
		count()
		k.Configure(off)
		count()
		if n := db.requests(); n != 1 {
			t.Errorf("%d requests are counted, want 1", n)
		}
	})
}

// TestMembersAreNotCounted checks that members' own tokens are not in usage.
func TestMembersAreNotCounted(t *testing.T) {
	k, db, _ := openLogged(t, node.Settings{})
	member, err := k.CreateMember(t.Context(), fleet.Root, keystore.Member{Name: "Ada"})
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _, err := k.NewMemberToken(t.Context(), fleet.Root, member.ID, manage.TokenSpec{},
		manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.LookupMember(t.Context(), secret.Reveal(), time.Now())
	if err != nil || a.Record == nil {
		t.Fatal(a.Outcome, err)
	}
	k.CountUse(a, node.Use{Ended: time.Now()})
	k.FlushUsage(t.Context())
	if n := db.requests(); n != 0 {
		t.Errorf("%d requests are counted", n)
	}
}

// TestUsageOfConcurrentRequests checks that no request is lost between cells and flushes.
func TestUsageOfConcurrentRequests(t *testing.T) {
	k, db, _ := openLogged(t, node.Settings{})
	const requests, workers = 20_000, 4
	var work sync.WaitGroup
	for w := range workers {
		_, token := fleet.Mint(t, k, manage.KeySpec{})
		work.Go(func() {
			a := lookUp(t, k, token)
			for i := range requests {
				if i%100 == w {
					a = lookUp(t, k, token) // also without a cache entry
				}
				k.CountUse(a, node.Use{Operation: [2]string{"read", "write"}[i%2],
					Ended: time.Now()})
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		k.FlushUsage(t.Context())
	}
	if n := db.requests(); n != requests*workers {
		t.Errorf("%d requests are counted, want %d", n, requests*workers)
	}
}

// TestUsageIsMaintained checks that a node continues with small steps while there is something to
// do, and passes on its settings.
func TestUsageIsMaintained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := keystore.UsageKept{Minutes: time.Hour}
		k, db, _ := openLogged(t, node.Settings{})
		k.Configure(node.Settings{Usage: node.UsageSettings{Kept: &kept}})
		db.mu.Lock()
		db.more = 100
		db.mu.Unlock()
		time.Sleep(90 * time.Second) // the first call is at most a minute after the start
		db.mu.Lock()
		defer db.mu.Unlock()
		if n := len(db.maintained); n < 101 || n > 103 {
			t.Errorf("%d calls, want 101 and perhaps the next one", n)
		}
		for _, k := range db.maintained {
			if k != kept {
				t.Errorf("%+v, want %+v", k, kept)
			}
		}
	})
}

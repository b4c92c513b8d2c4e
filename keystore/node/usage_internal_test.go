package node

import (
	"fmt"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestUseCellSize checks that cells of different keys share no cache line.
func TestUseCellSize(t *testing.T) {
	if size := unsafe.Sizeof(useCell{}); size != 256 {
		t.Errorf("a cell has %d bytes, want 256", size)
	}
}

// TestUsageIsBounded checks what is kept of usage in a long outage of the database: minutes are
// merged into hours, then into days, and then the oldest are dropped.
func TestUsageIsBounded(t *testing.T) {
	monday := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name          string
		minutes, keys int
		most          int
		rows, dropped int
		step          time.Duration // rows begin at its multiples after monday
	}{
		{"no more than fits", 240, 2, 480, 480, 0, time.Minute},
		{"hours", 240, 2, 479, 8, 0, time.Hour},
		{"hours fit exactly", 240, 2, 8, 8, 0, time.Hour},
		{"days", 36 * 60, 2, 71, 4, 0, 24 * time.Hour},
		{"dropped", 36 * 60, 10, 12, 12, 8, 24 * time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newUsageBook()
			for i := range test.minutes {
				for key := range test.keys {
					b.add(&useRow{minute: monday.Unix()/60 + int64(i), key: fmt.Sprint(key),
						counts: keystore.UsageCounts{Requests: 1}})
				}
			}
			if dropped := b.bound(test.most); dropped != test.dropped || len(b.rows) != test.rows {
				t.Errorf("%d rows and %d dropped, want %d and %d", len(b.rows), dropped, test.rows,
					test.dropped)
			}
			var sum int64
			newest := 0
			for k, counts := range b.rows {
				begin := time.Unix(k.begin, 0)
				if begin.Sub(monday)%test.step != 0 {
					t.Errorf("a row begins at %v", begin)
				}
				if begin.Sub(monday) >= 24*time.Hour {
					newest++
				}
				sum += counts.Requests
			}
			if want := int64(test.minutes * test.keys); test.dropped == 0 && sum != want {
				t.Errorf("%d requests, want %d", sum, want)
			}
			if test.dropped > 0 && newest != test.keys {
				t.Errorf("%d rows of the last day, want %d", newest, test.keys)
			}
			// Later rows join the merged ones, until all are written.
			before := len(b.rows)
			b.add(&useRow{minute: monday.Unix()/60 + int64(test.minutes) - 1, key: "0"})
			if len(b.rows) != before {
				t.Errorf("%d rows after another use of the last minute", len(b.rows))
			}
			for b.prepare() {
				b.next.Rows = nil
			}
			b.add(&useRow{minute: monday.Unix()/60 + 61})
			for k := range b.rows {
				if k.begin != monday.Unix()+61*60 {
					t.Errorf("a row begins at %v", time.Unix(k.begin, 0))
				}
			}
		})
	}
}

// TestUsageMemory checks the memory of rows that wait for the database, and that it is free when
// they are written.
func TestUsageMemory(t *testing.T) {
	const rows = 100_000
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	b := newUsageBook()
	before := heap()
	record := &keystore.Record{KeyID: "k"}
	for minute := range int64(rows) {
		c := new(useCell)
		c.rows = c.first[:0]
		c.add(record, minute, &Use{})
		b.add(&c.rows[0])
	}
	if each := (heap() - before) / rows; each > 320 {
		t.Errorf("a row needs %d bytes", each)
	}
	for b.prepare() {
		b.next.Rows = nil
	}
	if left := heap() - before; left > 1<<20 {
		t.Errorf("%d bytes are in use when all is written", left)
	}
	runtime.KeepAlive(b)
}

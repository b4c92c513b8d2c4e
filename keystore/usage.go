package keystore

import "time"

// LatencyBounds are the upper bounds of the counts of [UsageCounts.Latency]. The last count has
// none.
var LatencyBounds = [...]time.Duration{
	10 * time.Millisecond, 50 * time.Millisecond, 250 * time.Millisecond, time.Second,
	5 * time.Second,
}

// UsageCounts are sums over requests with the same outcome. For refused requests, only Requests is
// set.
type UsageCounts struct {
	Requests int64
	Units    int64 // charged, see [Quota]; at most MaxUnits
	// Status counts responses by class: 1xx (only 101) first, 5xx last. A response that was cut
	// before its status was sent has none.
	Status [5]int64
	// BytesIn and BytesOut are the bytes of the bodies that were transferred; for a tunnel, all
	// bytes.
	BytesIn, BytesOut int64
	// Latency counts responses by the time until they ended: see LatencyBounds.
	Latency [len(LatencyBounds) + 1]int64
}

// Add adds other counts.
func (c *UsageCounts) Add(other *UsageCounts) {
	c.Requests += other.Requests
	c.Units = AddUnits(c.Units, other.Units)
	c.BytesIn += other.BytesIn
	c.BytesOut += other.BytesOut
	for i, n := range other.Status {
		c.Status[i] += n
	}
	for i, n := range other.Latency {
		c.Latency[i] += n
	}
}

// UsageKept is how long usage is kept, by the length of its buckets. Zero means forever.
type UsageKept struct {
	Minutes, Hours, Days, Months time.Duration
}

// DefaultUsageKept is the default of UsageKept.
var DefaultUsageKept = UsageKept{Minutes: 48 * time.Hour, Hours: 35 * 24 * time.Hour,
	Days: 400 * 24 * time.Hour}

// Of returns how long buckets of a length are kept. Zero means forever.
func (k UsageKept) Of(p Period) time.Duration {
	switch p {
	case Minute:
		return k.Minutes
	case Hour:
		return k.Hours
	case Day:
		return k.Days
	}
	return k.Months
}

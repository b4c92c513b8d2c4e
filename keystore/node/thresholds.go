package node

import (
	"sync"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A QuotaThreshold says that 80 % or 100 % of a quota have been reached in one period. Used is the
// number of units that nodes may spend or have spent.
type QuotaThreshold struct {
	keystore.QuotaThreshold // see ParseQuota
	Used                    int64
	Units                   int64 // the limit
}

// thresholds are the shares of a quota that are reported, in percent.
var thresholds = [...]int{100, 80}

// maxThresholds is the maximum number of thresholds that wait for TakeThresholds. Those beyond it
// are reported when the node next reserves units of the quota.
const maxThresholds = 10_000

// A thresholdBook collects thresholds until TakeThresholds returns them.
type thresholdBook struct {
	mu      sync.Mutex
	waiting map[string]QuotaThreshold // by quota: the highest of the latest period
}

// reached returns the highest threshold that a number of granted units reaches, or zero.
func reached(granted, limit int64) int {
	for _, percent := range thresholds {
		if float64(granted) >= float64(limit)*float64(percent)/100 {
			return percent
		}
	}
	return 0
}

// add reports whether there was room for a threshold.
func (b *thresholdBook) add(t QuotaThreshold) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.waiting[t.Quota]; !known && len(b.waiting) >= maxThresholds {
		return false
	}
	if b.waiting == nil {
		b.waiting = make(map[string]QuotaThreshold)
	}
	b.waiting[t.Quota] = t
	return true
}

// note reports the threshold that a grant has reached, once for each bucket and period. It reports
// none of a period that has ended: if the ledger has forgotten the period, the grant says that the
// whole quota is used.
func (l *limiter) note(
	b *quotaBucket, r *keystore.Reservation, g keystore.QuotaGrant, now int64,
) {
	percent := reached(g.Total, r.Limit)
	if percent == 0 || now >= r.End.UnixNano() || l.reportsThresholds == nil ||
		!l.reportsThresholds() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.counts(r) && percent > int(b.noted) && l.thresholds.add(QuotaThreshold{
		keystore.QuotaThreshold{Quota: r.Quota, Begin: r.Begin, End: r.End, Percent: percent},
		min(g.Total, r.Limit), r.Limit}) {
		b.noted = int8(percent)
	}
}

// TakeThresholds removes and returns at most limit thresholds that quotas have reached on this
// node. Other nodes may return the same ones. Without [Settings.Thresholds] there are none.
func (n *Node) TakeThresholds(limit int) []QuotaThreshold {
	b := &n.limiter.thresholds
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []QuotaThreshold
	for name, t := range b.waiting {
		if len(list) == limit {
			break
		}
		list = append(list, t)
		delete(b.waiting, name)
	}
	return list
}

// ReturnThresholds puts back thresholds that could not be written, so that TakeThresholds returns
// them again. It drops those of quotas for which another threshold is waiting.
func (n *Node) ReturnThresholds(list []QuotaThreshold) {
	b := &n.limiter.thresholds
	for _, t := range list {
		b.mu.Lock()
		_, newer := b.waiting[t.Quota]
		b.mu.Unlock()
		if !newer {
			b.add(t)
		}
	}
}

package keystore

import (
	"context"
	"time"
)

// QuotaLedger is the part of a [Database] that counts the units granted to nodes, for each quota
// and period. It takes no revision. It waits for transactions of other parts only if the database
// has a single writer.
type QuotaLedger interface {
	// Reserve grants units of quotas in one transaction and returns a grant for each reservation,
	// in the same order. No two reservations may have the same quota and period. If Reserve fails,
	// it may have granted units, which nobody may spend, and may have added Booked. It grants
	// nothing in a period that ended more than a day before the stored time, and deletes such
	// periods: see NoteTime. A database clock that is ahead for a moment deletes none.
	Reserve(ctx context.Context, reservations []Reservation) ([]QuotaGrant, error)
	// NearQuotas returns the quotas that are granted to at least a share, from 0 to 1, in the
	// current period by the database's clock, those with the largest share first. limit is the
	// maximum number of quotas.
	NearQuotas(ctx context.Context, share float64, limit int) ([]QuotaUse, error)
}

// QuotaThresholds is the part of a [Tx] that remembers which thresholds of quotas were reported.
type QuotaThresholds interface {
	// NoteQuotaThresholds stores thresholds of different quotas. It returns the quotas of those that
	// are new: the first of their period, or higher than the stored one. It also deletes a few
	// thresholds of periods that ended more than a day before the stored time: see NoteTime.
	NoteQuotaThresholds(list []QuotaThreshold) (news []string, err error)
}

// A QuotaThreshold is a share of a quota that is used in one period.
type QuotaThreshold struct {
	Quota      string // as in Reservation
	Begin, End time.Time
	Percent    int
}

// A QuotaUse is how much of a quota is granted in one period.
type QuotaUse struct {
	Quota      string // as in Reservation
	Begin, End time.Time
	Units      int64 // the limit at the last reservation
	Granted    int64 // may exceed Units
}

// A Reservation asks for units of one quota in one period.
type Reservation struct {
	Quota string    // identifies the quota, at most 200 bytes
	Begin time.Time // of the period
	End   time.Time // of the period; its row may be deleted a day later
	Limit int64     // units in the period
	// Want is the number of units to grant, but at most the units left divided by Share. The grant
	// is larger if the Waiting requests need more. It never exceeds the units left.
	Want, Share int64
	// Waiting lists the units that each waiting request needs, smallest first. The grant covers as
	// many of them as fit into the units left plus Held, the units the node already has. If none
	// fits, the grant is zero.
	Waiting []int64
	Held    int64
	// Booked is the number of units spent without a grant or, if negative, of granted units that
	// are returned. It is always added, even beyond the limit.
	Booked int64
}

// A QuotaGrant is the answer to a reservation.
type QuotaGrant struct {
	Units int64 // granted
	Total int64 // granted to all nodes in the period, including these
}

// Grant returns the answer to a reservation. granted is the number of units that were already
// granted in its period.
func (r *Reservation) Grant(granted int64) QuotaGrant {
	granted = max(0, AddUnits(granted, max(0, r.Booked))+min(0, r.Booked))
	left := max(0, r.Limit-granted)
	need, units := r.need(left), int64(0)
	if need > 0 || len(r.Waiting) == 0 {
		units = min(left, max(need-r.Held, min(r.Want, left/max(1, r.Share))))
	}
	return QuotaGrant{Units: units, Total: granted + units}
}

// need returns the units of the waiting requests that fit. For the others, the node gets none: it
// could not use them, and requests in other nodes would be refused.
func (r *Reservation) need(left int64) (sum int64) {
	for _, units := range r.Waiting {
		if units > left+r.Held-sum {
			break
		}
		sum += units
	}
	return sum
}

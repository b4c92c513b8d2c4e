package keystore

import (
	"context"
	"time"
)

// QuotaLedger is the part of a [Database] that counts, by quota and period, how many units have been
// granted to nodes. It takes no revision. It waits for transactions of other parts only if the
// database allows a single writer.
type QuotaLedger interface {
	// Reserve grants units of quotas, in one transaction, and returns a grant for each reservation,
	// in their order. No two reservations have the same quota and period. After an error, units may
	// have been granted, which nobody may spend, and Booked may have been added. Reserve grants
	// nothing in a period that ended more than a day ago, by the database's clock, and forgets such
	// periods.
	Reserve(ctx context.Context, reservations []Reservation) ([]QuotaGrant, error)
}

// A Reservation asks for units of one quota in one period.
type Reservation struct {
	Quota string    // identifies the quota, at most 200 bytes
	Begin time.Time // of the period
	End   time.Time // of the period; the row may be forgotten a day later
	Limit int64     // units in the period
	// Want is how many units to grant if at least Share times as many are left. Fewer than Want are
	// granted when less is left: the Share-th part, but at least Need, and never more than are left.
	// If less than Need is left, all that is left is granted.
	Want, Need, Share int64
	// Booked are units that were spent without a grant. They are added in any case, even beyond the
	// limit. If negative, they are units of earlier grants that are returned.
	Booked int64
}

// A QuotaGrant is the answer to a reservation.
type QuotaGrant struct {
	Units int64 // granted
	Total int64 // granted to all nodes in the period, including these
}

// Grant returns the answer to a reservation, given what has been granted in its period so far.
func (r *Reservation) Grant(granted int64) QuotaGrant {
	granted = max(0, granted+r.Booked)
	left := max(0, r.Limit-granted)
	units := min(left, max(r.Need, min(r.Want, left/max(1, r.Share))))
	return QuotaGrant{Units: units, Total: granted + units}
}

package keystore

import (
	"context"
	"time"
)

// ReminderFinder is the part of a [Database] that finds the keys to which reminders apply. None of
// its methods returns revoked keys or members' own tokens.
type ReminderFinder interface {
	// ReminderPositions returns the stored positions of all reminders, by their time before the
	// expiry of a key.
	ReminderPositions(ctx context.Context) (map[time.Duration]ExpiryPosition, error)
	// ExpiringKeys returns the positions of at most limit keys that come after a position and
	// expire at a time or before it, in this order.
	ExpiringKeys(ctx context.Context, after ExpiryPosition, until time.Time, limit int) (
		[]ExpiryPosition, error)
	// UnusedKeys examines a few thousand keys after a cursor, oldest first, and returns those that
	// are active at f.Now and match f. next is the cursor of the following keys, empty after the
	// last.
	UnusedKeys(ctx context.Context, f UnusedFilter, cursor string) (keys []UnusedKey, next string,
		err error)
}

// An ExpiryPosition is the place of a key in the order of expiry, then id.
type ExpiryPosition struct {
	ExpiresAt time.Time
	ID        string
}

// AfterExpiry returns the position after all keys that expire at a time or before it.
func AfterExpiry(at time.Time) ExpiryPosition {
	return ExpiryPosition{at, "\x7f"} // ids are visible ASCII
}

// An UnusedFilter selects keys that nobody uses.
type UnusedFilter struct {
	Now time.Time
	// Since selects keys that were neither used nor created after it.
	Since time.Time
	// Reported also selects keys that were reported with [ReminderWriter.NoteUnused] and not
	// inactivated.
	Reported bool
}

// An UnusedKey is a key that nobody uses.
type UnusedKey struct {
	ID, Namespace string
	Since         time.Time    // of its last use, or of its creation if it was never used
	Reported      UnusedReport // the last one, or the zero value
}

// ReminderWriter is the part of a [Tx] that records which reminders were added to the audit log.
// The same transaction adds and records a reminder, so each is added once.
type ReminderWriter interface {
	// ReminderPosition returns a stored position, or the zero value.
	ReminderPosition(before time.Duration) (ExpiryPosition, error)
	// SetReminderPosition stores the position of the last key for which the reminder was added.
	SetReminderPosition(before time.Duration, p ExpiryPosition) error
	// ReportedUnused returns what NoteUnused has stored about keys, by id.
	ReportedUnused(ids []string) (map[string]UnusedReport, error)
	// NoteUnused stores that keys were reported as unused, until they are deleted.
	NoteUnused(reports map[string]UnusedReport) error
}

// An UnusedReport says that a key was reported as unused.
type UnusedReport struct {
	Since       time.Time // of its last use, or of its creation if it was never used
	Inactivated bool      // the key was made inactive because of it
}

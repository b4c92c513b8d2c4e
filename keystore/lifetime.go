package keystore

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Bounds of the times in a [Lifecycle] and of the configured times of reminders. MaxLifetime is
// about a century, so that databases can still store the time that is this long before now.
const (
	MinLifetime = time.Second
	// MinInactivate is the shortest time after which unused keys are inactivated.
	MinInactivate = time.Hour
	MaxLifetime   = 36500 * 24 * time.Hour
)

// A Lifecycle has the rules of a namespace for the lifetime of the keys whose home it is.
type Lifecycle struct {
	// MaxLifetime is the time within which new keys must expire; zero means no limit. Existing keys
	// keep their expiry.
	MaxLifetime time.Duration
	// Idle says what happens to keys that nobody uses. Zero leaves it to the deployment.
	Idle IdleRule
	// OnLeak is what happens to a key whose token is reported as leaked; empty means LeakNotify.
	OnLeak LeakAction
}

// An IdleRule says what happens to a key that has not been used for the time After. For a key that
// was never used, the time begins with its creation.
type IdleRule struct {
	After time.Duration
	Then  IdleAction
}

// IdleAction is what happens to an idle key.
type IdleAction string

// Actions for idle keys.
const (
	IdleNotify     IdleAction = "notify"     // adds a row to the audit log
	IdleInactivate IdleAction = "inactivate" // also makes the key inactive
)

// LeakAction is what happens to a leaked key.
type LeakAction string

// Actions for leaked keys. Each also adds a row to the audit log.
const (
	LeakNotify     LeakAction = "notify"
	LeakInactivate LeakAction = "inactivate"
	LeakRevoke     LeakAction = "revoke"
)

// ValidLifetime reports whether d is within the bounds, in whole microseconds.
func ValidLifetime(d time.Duration) bool {
	return d >= MinLifetime && d <= MaxLifetime && d%time.Microsecond == 0
}

var errLifetime = errors.New("must be a time from 1s to 36500d, such as 90d or 12h, in whole " +
	"microseconds")

// ParseLifetime parses a number of days such as 90d, a Go duration such as 12h, or days followed by
// a duration such as 1d12h. The result is a [ValidLifetime].
func ParseLifetime(s string) (time.Duration, error) {
	var whole time.Duration
	rest := s
	if number, after, ok := strings.Cut(s, "d"); ok {
		days, err := strconv.ParseUint(number, 10, 16) // refuses signs
		if err != nil {
			return 0, errLifetime
		}
		whole, rest = time.Duration(days)*24*time.Hour, after
	}
	if rest != "" {
		part, err := time.ParseDuration(rest)
		if err != nil || part < 0 || part > MaxLifetime {
			return 0, errLifetime
		}
		whole += part
	}
	if !ValidLifetime(whole) {
		return 0, errLifetime
	}
	return whole, nil
}

// LifetimeText returns a time in the form that [ParseLifetime] reads, in days if it is a number of
// days. It is empty for zero.
func LifetimeText(d time.Duration) string {
	const day = 24 * time.Hour
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return DurationText(d)
}

// DurationText returns the shortest form of a Go duration, such as 1h instead of 1h0m0s. It is
// empty for zero.
func DurationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

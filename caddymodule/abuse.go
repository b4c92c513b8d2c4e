package caddymodule

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// AbuseConfig limits how often one address may send an invalid key. Beyond the limit, the answer is
// 429 instead of 401. Valid keys still pass. Imported keys, and tokens derived from any key, pass
// only while this process has the key cached. All IPv6 addresses of a /64 count as one.
type AbuseConfig struct {
	// Number of invalid keys that an address may send in `per`.
	Failures int64 `json:"failures"`

	// The time in which an address may send this number of invalid keys, 1s to 24h.
	Per caddy.Duration `json:"per"`
}

// limit returns the limit of one address.
func (c *AbuseConfig) limit() (keystore.RateLimit, error) {
	limit := keystore.RateLimit{Requests: c.Failures, Per: time.Duration(c.Per), Burst: c.Failures}
	if c.Failures < 1 || limit.Defect() != "" {
		return limit, errAbuse
	}
	return limit, nil
}

var errAbuse = fmt.Errorf("abuse: must be a number of failures from 1 to %d per duration from 1s "+
	"to 24h, such as 20/1m", int64(keystore.MaxRate))

func parseAbuse(a *App, d *caddyfile.Dispenser, args []string) error {
	number, per, _ := strings.Cut(strings.Join(args, " "), "/")
	failures, ok := parseCount(number)
	duration, err := caddy.ParseDuration(per)
	a.Abuse = &AbuseConfig{Failures: failures, Per: caddy.Duration(duration)}
	if _, defect := a.Abuse.limit(); !ok || err != nil || defect != nil {
		return d.WrapErr(errAbuse)
	}
	return nil
}

// An abuseLimit applies the option `abuse`. A nil pointer means no limit.
type abuseLimit struct {
	keystore.RateLimit
	failures *failures
}

// fails says which outcomes count as failures: those of an invalid credential.
var fails = [keystore.NumOutcomes]bool{
	keystore.Malformed: true, keystore.Unknown: true, keystore.Rotated: true,
	keystore.Revoked: true, keystore.Expired: true, keystore.Inactive: true,
	keystore.OwnerDisabled: true,
}

// failed reports whether an outcome of a call counts as a failure. An untimely derived token is not
// a guess: it may come from a client with a wrong clock.
func (c *call) failed(outcome keystore.Outcome) bool { return fails[outcome] && !c.untimely }

// suspects reports whether a call comes from an address that is over the limit.
func (a *abuseLimit) suspects(c *call) bool {
	return a != nil && a.failures.wait(c.request.client, c.now, &a.RateLimit) > 0
}

// judge counts a call with an invalid credential. It returns the outcome of the call, which is
// [keystore.Limited] if its address is over the limit.
func (a *abuseLimit) judge(c *call, outcome keystore.Outcome) keystore.Outcome {
	switch {
	case a == nil || c.repeated:
	case c.failed(outcome):
		if c.retry = a.failures.add(c.request.client(), c.now, &a.RateLimit); c.retry > 0 {
			return keystore.Limited
		}
	case outcome == keystore.Limited && c.suspect && c.limits.Terms == nil: // not looked up
		c.retry = a.failures.wait(c.request.client, c.now, &a.RateLimit)
	}
	return outcome
}

const (
	// maxFailing is the maximum number of addresses whose failures are counted. They take 34 bytes
	// each.
	maxFailing  = failureSets * failureWays
	failureSets = 2048
	failureWays = 8
)

// failures counts the failures of addresses in constant memory. If the set of a new address is
// full, the address replaces the one that has failed least. Addresses are spread over the sets by a
// secret hash. Requests with valid keys take no lock.
type failures struct {
	seed  maphash.Seed
	epoch time.Time    // times are microseconds since then
	quiet atomic.Int64 // from then on, no address is over the limit
	sets  [failureSets]failureSet
}

// A failureSet has the failures of a few addresses.
type failureSet struct {
	mu      sync.Mutex
	limit   atomic.Pointer[keystore.RateLimit] // with which they were counted; nil before the first
	entries [failureWays]failureEntry
}

// setLimit converts the failures of a set if a reload has changed the limit. The caller holds the
// lock.
func (f *failures) setLimit(s *failureSet, to *keystore.RateLimit, micros int64) {
	from := s.limit.Swap(to)
	if from == nil || *from == *to {
		return
	}
	for i := range s.entries {
		e := &s.entries[i]
		e.meter = e.meter.Within(from, to, micros)
		f.setUntil(e, to)
	}
}

// setUntil sets when an address is no longer over the limit. The caller holds the lock of its set.
func (f *failures) setUntil(e *failureEntry, limit *keystore.RateLimit) (until int64) {
	until = e.meter.After(limit, 1)
	e.until.Store(until)
	for quiet := f.quiet.Load(); until > quiet && !f.quiet.CompareAndSwap(quiet, until); {
		quiet = f.quiet.Load()
	}
	return until
}

// A failureEntry has the failures of one address. Writers hold the lock of its set.
type failureEntry struct {
	address atomic.Uint64 // its hash; 0 for an unused entry
	until   atomic.Int64  // when it is no longer over the limit
	meter   keystore.Meter
}

// processFailures returns the failures that all configurations of the process share. They survive
// reloads.
var processFailures = sync.OnceValue(newFailures)

// newFailures returns an empty failures.
func newFailures() *failures {
	return &failures{seed: maphash.MakeSeed(), epoch: time.Now()}
}

// micros returns a time in microseconds, above 0. It uses the monotonic clock.
func (f *failures) micros(now time.Time) int64 {
	return max(0, now.Sub(f.epoch).Microseconds()) + 1
}

// hash identifies an address: an IPv4 address or the /64 of an IPv6 address.
func (f *failures) hash(address netip.Addr) uint64 {
	address = address.Unmap().WithZone("")
	if address.Is6() {
		address = netip.PrefixFrom(address, 64).Masked().Addr()
	}
	bytes := address.As16()
	return max(1, maphash.Bytes(f.seed, bytes[:]))
}

// wait returns the time until an address is no longer over the limit, or 0. It calls client only if
// any address is over the limit.
func (f *failures) wait(
	client func() netip.Addr, now time.Time, limit *keystore.RateLimit,
) time.Duration {
	micros := f.micros(now)
	if micros >= f.quiet.Load() {
		return 0
	}
	address := client()
	if !address.IsValid() {
		return 0
	}
	hash := f.hash(address)
	set := &f.sets[hash%failureSets]
	if from := set.limit.Load(); from != nil && *from != *limit {
		set.mu.Lock()
		f.setLimit(set, limit, micros)
		set.mu.Unlock()
	}
	for i := range set.entries {
		e := &set.entries[i]
		if e.address.Load() != hash {
			continue
		}
		until := e.until.Load()
		if e.address.Load() == hash { // else another address has replaced it meanwhile
			return max(0, time.Duration(until-micros)*time.Microsecond)
		}
	}
	return 0
}

// add counts a failure of an address that is not over the limit, and returns 0. Otherwise it
// returns the time until the address is no longer over the limit. An invalid address is never over
// the limit.
func (f *failures) add(
	address netip.Addr, now time.Time, limit *keystore.RateLimit,
) time.Duration {
	if !address.IsValid() {
		return 0
	}
	micros, hash := f.micros(now), f.hash(address)
	set := &f.sets[hash%failureSets]
	set.mu.Lock()
	defer set.mu.Unlock()
	f.setLimit(set, limit, micros)
	e := &set.entries[0]
	for i := range set.entries {
		other := &set.entries[i]
		if other.address.Load() == hash {
			e = other
			break
		}
		if other.meter.TAT < e.meter.TAT {
			e = other
		}
	}
	if e.address.Load() != hash {
		e.address.Store(0)
		e.meter = keystore.Meter{}
	}
	over := e.meter.Room(limit, micros) == 0
	if !over {
		e.meter = e.meter.Add(limit, micros, 1)
	}
	until := f.setUntil(e, limit)
	e.address.Store(hash)
	if !over {
		return 0
	}
	return time.Duration(until-micros) * time.Microsecond
}

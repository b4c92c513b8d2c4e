package failover

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/faults"
)

var (
	long = flag.Bool("faults.long", false,
		"break the primary 50 times, with the smallest ttl that Patroni supports in production")
	times = flag.Int("faults.failovers", 0,
		"how many times to break the primary; 0: once in each way, or 50 times in the long run")
	seed  = flag.Uint64("faults.seed", 0, "seed of the order of faults; 0 chooses one")
	lease = flag.Duration("faults.lease", 0, "lease of the gates; 0: 3 s, or 6 s in the long run")
)

// kinds are the ways to break a primary.
var kinds = []string{"killed", "paused", "partitioned"}

// TestFailover breaks the primary in each way. No request may be accepted after a complete revoke
// of its key, no valid key may be refused, and no acknowledged change may be lost. There must be one
// reminder of each key, and all events must arrive in order.
func TestFailover(t *testing.T) {
	timing, count := timing{ttl: 5, loopWait: 1, retryTimeout: 2}, len(kinds)
	usual := 3 * time.Second
	if *long {
		// Patroni does not accept a smaller ttl.
		timing.ttl, timing.loopWait, timing.retryTimeout, count = 20, 2, 9, 50
		usual = 6 * time.Second
	}
	*lease = cmp.Or(*lease, usual)
	if *times != 0 {
		count = *times
	}
	if *seed == 0 {
		*seed = 1 + rand.Uint64N(1_000_000)
	}
	t.Logf("-faults.seed %d repeats this order", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))

	r := start(t, timing, *lease, 3)
	var plan []string
	for len(plan) < count {
		order := slices.Clone(kinds)
		random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		plan = append(plan, order...)
	}
	var outages []outage
	for i, kind := range plan[:count] {
		o := r.failover(kind, random)
		t.Logf("%d/%d %v", i+1, count, o)
		outages = append(outages, o)
		if *long { // the oracle excuses nothing later
			time.Sleep(settling(*lease).Node + *lease)
		}
	}
	found, h := r.finish()
	r.checkReminders()
	r.checkEvents()
	for _, v := range found[:min(len(found), 20)] {
		t.Error(v)
	}
	accepted, refused, done := 0, 0, 0
	for _, request := range h.Requests {
		switch request.Status {
		case 200:
			accepted++
		case 401, 403:
			refused++
		}
	}
	for _, c := range h.Changes {
		if c.Done {
			done++
		}
	}
	t.Logf("%d requests, %d accepted and %d refused; %d changes, %d of them complete; %d violations",
		len(h.Requests), accepted, refused, len(h.Changes), done, len(found))
	if accepted == 0 || refused == 0 || done == 0 {
		t.Error("the run proves nothing: it needs accepted and refused requests, and complete " +
			"changes")
	}
	t.Logf("ttl %d s, loop_wait %d s, retry_timeout %d s, lease %v:\n%s", timing.ttl,
		timing.loopWait, timing.retryTimeout, *lease, table(outages))
}

// outage has the measurements of one failover. Each list has an entry for each gate that reaches
// the new primary.
type outage struct {
	kind     string
	detail   string
	promoted time.Duration   // from the fault until Patroni shows another primary
	known    []time.Duration // how long requests with a cached key got 503
	unknown  []time.Duration // how long requests with keys that are not cached got 503
	// from the fault until a revoke that was repeated since then is complete
	revoke []time.Duration
}

func (o outage) String() string {
	return fmt.Sprintf("%s (%s): new primary after %v; 503 for known keys %v, for others %v; "+
		"revoke complete after %v",
		o.kind, o.detail, seconds(o.promoted), seconds(o.known...), seconds(o.unknown...),
		seconds(o.revoke...))
}

// table returns a Markdown table with a row for each kind.
func table(outages []outage) string {
	var b strings.Builder
	b.WriteString("| the primary is | times | another is primary after | 503 for keys that a gate " +
		"knows | 503 for other keys | a revoke is complete after |\n|---|--:|--:|--:|--:|--:|\n")
	for _, kind := range kinds {
		var n int
		var promoted, known, unknown, revoke []time.Duration
		for _, o := range outages {
			if o.kind != kind {
				continue
			}
			n++
			promoted = append(promoted, o.promoted)
			known, unknown, revoke = append(known, o.known...), append(unknown,
				o.unknown...), append(revoke, o.revoke...)
		}
		if n > 0 {
			fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s |\n", kind, n, summary(promoted),
				summary(known), summary(unknown), summary(revoke))
		}
	}
	return b.String()
}

// summary formats the median and the maximum.
func summary(d []time.Duration) string {
	if len(d) == 0 {
		return "–"
	}
	d = slices.SortedFunc(slices.Values(d), cmp.Compare)
	return fmt.Sprintf("%s, at most %s", seconds(d[len(d)/2]), seconds(d[len(d)-1]))
}

func seconds(d ...time.Duration) string {
	var text []string
	for _, d := range d {
		text = append(text, fmt.Sprintf("%.1f s", d.Seconds()))
	}
	return strings.Join(text, ", ")
}

// failover breaks the primary, waits for another primary, repairs the former one, waits until
// Patroni has recovered all members, and then uses all keys of the round on every gate.
func (r *run) failover(kind string, random *rand.Rand) outage {
	r.t.Helper()
	primary := r.healthy()
	// An isolated primary answers lookups for less than the ttl.
	lookUps := int(time.Duration(r.timing.ttl) * time.Second / lookUpEvery)
	known, unknown, victims := r.mint(0), r.mints(lookUps), r.mints(len(r.gates))
	for g := range r.gates {
		for _, k := range append(victims, known) {
			r.answered(g, k)
		}
	}
	o := outage{kind: kind, detail: primary.name}
	sides := make([]side, len(r.gates))
	repaired := r.fault("the primary is " + kind)
	begun := time.Now()
	var repair func()
	switch kind {
	case "killed":
		primary.keeper.kill()
		repair = primary.start
	case "paused":
		if err := primary.keeper.pause(); err != nil {
			r.t.Fatal(err)
		}
		repair = primary.keeper.resume
	case "partitioned":
		hang := random.IntN(2) == 0
		for g := range sides {
			sides[g] = side(random.IntN(3))
		}
		// At least one gate reaches the new primary.
		sides[random.IntN(len(sides))] = side(2 * random.IntN(2))
		o.detail += fmt.Sprintf(", gates on %v, hangs %v", sides, hang)
		primary.partition(hang, sides)
		repair = r.heal
	}
	hold := time.Duration(random.Int64N(int64(4 * time.Second)))

	probes := r.probe(known, unknown, victims, begun)
	r.until("another member is primary", func() bool { return r.leader(primary) != nil })
	o.promoted = time.Since(begun)
	time.Sleep(hold) // repair at different times after the failover
	repair()
	r.healthy()
	repaired()
	for g, p := range probes.stop() {
		if sides[g] != primarySide {
			o.known, o.unknown, o.revoke = append(o.known, p.known), append(o.unknown,
				p.unknown), append(o.revoke, p.revoke)
		}
	}
	r.useAllOfRound()
	return o
}

// settling is as in TestChaos of package faults.
func settling(lease time.Duration) faults.Settling {
	return faults.Settling{Node: 2 * lease, Cut: lease}
}

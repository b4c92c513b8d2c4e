package faults

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

var (
	seed     = flag.Uint64("faults.seed", 0, "seed of the random faults; 0 chooses one")
	duration = flag.Duration("faults.duration", 20*time.Second, "duration of the random faults")
)

// TestChaos injects a schedule of faults into a fleet under load, and judges the history.
func TestChaos(t *testing.T) {
	t.Parallel()
	const lease = 4 * time.Second
	// A renewal that hangs takes a third of a lease and the next one begins half a second later.
	// The rest is for a busy machine.
	settling := Settling{Node: 2 * lease, Cut: lease}
	if *seed == 0 {
		*seed = 1 + rand.Uint64N(1_000_000)
	}
	plan := Plan(*seed, *duration, 3, lease, settling.Node+lease)
	t.Logf("`make faults SEED=%d DURATION=%v` repeats this schedule", *seed, *duration)
	// A crash loses everything that the server has not written by itself.
	server := postgresWithClock(t, "wal_writer_delay=10s")
	a := newArena(t, setting{nodes: 3, lease: lease, postgres: server, site: chaosSite})
	standby := server.SynchronousStandby(t)
	begun := time.Now()
	l := startLoad(a)
	f := faults{arena: a, random: rand.New(rand.NewPCG(*seed, 1)), standby: standby, load: l}
	for _, e := range f.events(plan) {
		time.Sleep(time.Until(begun.Add(e.at)))
		t.Logf("%7.2fs %s", time.Since(begun).Seconds(), e.what)
		since := time.Now()
		e.do()
		// A step that takes long, such as a failover, delays the following ones.
		begun = begun.Add(time.Since(since))
	}
	time.Sleep(time.Until(begun.Add(*duration)))
	f.work.Wait()
	time.Sleep(settling.Node + lease) // requests without a fault
	l.stop()
	keys := append(l.keys(), a.mint(0))
	for i := range a.Nodes {
		for _, k := range keys {
			a.get(i, k)
			a.post(i, k)
		}
	}
	for _, g := range a.Nodes { // too long to be searched for each token
		logs, _ := filepath.Glob(filepath.Join(g.Dir, "access*"))
		for _, log := range logs {
			os.Remove(log)
		}
	}
	found := a.finish(settling)
	for _, v := range found[:min(len(found), 20)] {
		t.Error(v)
	}
	h := &a.history
	byStatus, changes, undone := map[int]int{}, 0, 0
	for _, r := range h.Requests {
		byStatus[r.Status]++
	}
	for _, c := range h.Changes {
		changes++
		if !c.Done {
			undone++
		}
	}
	t.Logf("%d requests (by status %v), %d streams, %d changes of which %d without a complete "+
		"answer, %d faults, %d violations",
		len(h.Requests), byStatus, len(h.Streams), changes, undone, len(h.Faults), len(found))
	if byStatus[200] == 0 || byStatus[401] == 0 || changes == undone || len(h.Streams) == 0 {
		t.Error("the run proves nothing: it needs accepted and refused requests, changes and " +
			"streams")
	}
}

func TestPlan(t *testing.T) {
	const hour = time.Hour
	one := Plan(7, hour, 3, 5*time.Second, 10*time.Second)
	if !slices.Equal(one, Plan(7, hour, 3, 5*time.Second, 10*time.Second)) {
		t.Error("one seed, two schedules")
	}
	if slices.Equal(one, Plan(8, hour, 3, 5*time.Second, 10*time.Second)) {
		t.Error("two seeds, one schedule")
	}
	chosen, nodes := map[string]bool{}, 3
	for _, s := range one {
		chosen[s.What] = true
		if s.Node >= nodes {
			t.Errorf("there is no node %d yet: %v", s.Node, s)
		}
		if s.What == "a node joins" {
			nodes++
		}
	}
	for _, kind := range faultKinds {
		if !chosen[kind.what] {
			t.Errorf("an hour has no fault %q", kind.what)
		}
	}
}

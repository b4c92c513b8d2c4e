package node_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// A usageStore is the database of one node of a usageModel.
type usageStore struct {
	keystore.Database
	cut            atomic.Bool // AddUsage and MaintainUsage fail
	unacknowledged atomic.Bool // AddUsage adds a batch and fails
	killed         atomic.Bool // the process does nothing any more
	unnumbered     bool        // the ablation: the number of a batch is ignored
}

func (s *usageStore) AddUsage(ctx context.Context, b keystore.UsageBatch) error {
	if s.cut.Load() || s.killed.Load() {
		return fleet.ErrCut
	}
	if s.unnumbered {
		b.Writer = keystore.RandomBase62(22)
	}
	err := s.Database.AddUsage(ctx, b)
	if s.unacknowledged.Load() {
		return fleet.ErrCut
	}
	return err
}

func (s *usageStore) MaintainUsage(ctx context.Context, k keystore.UsageKept) (bool, error) {
	if s.cut.Load() || s.killed.Load() {
		return false, fleet.ErrCut
	}
	return s.Database.MaintainUsage(ctx, k)
}

// A usageModel counts the requests that the nodes of a fleet have answered, in the minutes in which
// they ended by the database's clock.
type usageModel struct {
	fleet.Fleet
	random     *rand.Rand
	unnumbered bool
	ahead      time.Duration // of the database's clock
	nodes      []*usageNode
	tokens     []string
	counted    []counted
}

type usageNode struct {
	*manage.Keystore
	store  *usageStore
	faulty *fleet.Faulty
	// The last faults of the node began 10 s after unsure and ended at healed.
	unsure time.Time
	healed time.Time // zero if they have not ended
}

// unsureFrom returns the time since which the database may lack requests that the node has counted:
// 10 s ago, or earlier if the node has faults, or had some in the last 10 s.
func (n *usageNode) unsureFrom() time.Time {
	from := time.Now().Add(-10 * time.Second)
	if !n.unsure.IsZero() && (n.healed.IsZero() || !n.healed.Before(from)) {
		return n.unsure
	}
	return from
}

// counted is one request.
type counted struct {
	node  *usageNode
	at    time.Time
	row   keystore.UsageRow
	maybe bool // whether it may be lost, because the node was killed
}

func (m *usageModel) open() *usageNode {
	n := &usageNode{store: &usageStore{unnumbered: m.unnumbered}}
	n.Keystore, n.faulty = m.OpenWith(fleet.Observer{}, node.Settings{}, fleet.Open,
		func(f *fleet.Faulty) {
			n.store.Database, f.Database = f.Database, n.store
			f.Ahead.Store(int64(m.ahead))
		})
	return n
}

// step does something random.
func (m *usageModel) step() error {
	i := m.random.IntN(len(m.nodes))
	n := m.nodes[i]
	switch m.random.IntN(12) {
	case 0, 1, 2, 3:
		for range 1 + m.random.IntN(20) {
			if err := m.use(n); err != nil {
				return err
			}
		}
	case 4, 5, 6:
		time.Sleep(time.Duration(1+m.random.IntN(15_000)) * time.Millisecond)
	case 7:
		time.Sleep(time.Minute)
	case 8, 9:
		fault := []*atomic.Bool{&n.store.cut, &n.store.unacknowledged}[m.random.IntN(2)]
		n.unsure, n.healed = n.unsureFrom(), time.Time{}
		if fault.Store(!fault.Load()); !n.store.cut.Load() && !n.store.unacknowledged.Load() {
			n.healed = time.Now()
		}
	case 10:
		m.ahead += time.Duration(m.random.IntN(21)-10) * time.Second
		for _, n := range m.nodes {
			n.faulty.Ahead.Store(int64(m.ahead))
		}
	case 11:
		if m.random.IntN(4) == 0 {
			m.kill(i)
		}
	}
	return nil
}

// use sends a request to a node.
func (m *usageModel) use(n *usageNode) error {
	a, err := n.Lookup(context.Background(), m.tokens[m.random.IntN(len(m.tokens))], time.Now())
	if err != nil {
		return nil // the lease has expired, so there is no key to count
	}
	u := node.Use{Operation: []string{"read", "orders:list"}[m.random.IntN(2)], Units: 2,
		Status: 200, BytesIn: 1, BytesOut: 10, Took: time.Millisecond, Ended: time.Now()}
	row := keystore.UsageRow{Begin: n.Now().Truncate(time.Minute), Key: a.Record.KeyID,
		Namespace: a.Record.Namespace, Owner: a.Record.Owner, Operation: u.Operation}
	if m.random.IntN(3) == 0 {
		u.Outcome, row.Outcome = keystore.Limited, keystore.Limited
	}
	n.CountUse(a, u)
	m.counted = append(m.counted, counted{node: n, at: time.Now(), row: row})
	return nil
}

// kill ends a node without a last flush, and opens another one.
func (m *usageModel) kill(i int) {
	n := m.nodes[i]
	n.store.killed.Store(true)
	from := n.unsureFrom()
	for i := range m.counted {
		if c := &m.counted[i]; c.node == n && !c.at.Before(from) {
			c.maybe = true
		}
	}
	m.nodes[i] = m.open()
}

// agree checks that all steps have the same sum, however far they are rolled up.
func (m *usageModel) agree() error {
	var sums []int64
	for _, step := range keystore.Periods {
		list, err := m.nodes[0].Database().Usage(context.Background(),
			keystore.UsageQuery{Step: step})
		if err != nil {
			return err
		}
		var sum int64
		for _, s := range list {
			sum += s.Requests
		}
		sums = append(sums, sum)
	}
	if slices.Min(sums) != slices.Max(sums) {
		return fmt.Errorf("minutes, hours, days and months have different sums: %v", sums)
	}
	return nil
}

// check compares the usage of all steps with what was counted.
func (m *usageModel) check() (err error) {
	type cell struct {
		begin   time.Time
		group   string
		outcome keystore.Outcome
	}
	for _, step := range keystore.Periods {
		for _, by := range []keystore.UsageGroup{keystore.ByKey, keystore.ByOperation} {
			least, most := make(map[cell]int64), make(map[cell]int64)
			for _, c := range m.counted {
				at := cell{group: c.row.Key, outcome: c.row.Outcome}
				at.begin, _ = step.Of(c.row.Begin)
				if by == keystore.ByOperation {
					at.group = c.row.Operation
				}
				if most[at]++; !c.maybe {
					least[at]++
				}
			}
			sums, e := m.nodes[0].Database().Usage(context.Background(),
				keystore.UsageQuery{Step: step, By: by})
			err = errors.Join(err, e)
			found := make(map[cell]int64)
			for _, s := range sums {
				found[cell{s.Begin, s.Group, s.Outcome}] = s.Requests
				want := keystore.UsageCounts{Requests: s.Requests}
				if s.Outcome == keystore.OK {
					want.Units, want.BytesIn, want.BytesOut = 2*s.Requests, s.Requests, 10*s.Requests
					want.Status[1], want.Latency[0] = s.Requests, s.Requests
				}
				if s.UsageCounts != want {
					err = errors.Join(err, fmt.Errorf("%s: %+v, want %+v", step, s, want))
				}
			}
			for at := range most {
				if n := found[at]; n < least[at] || n > most[at] {
					err = errors.Join(err, fmt.Errorf("%s %+v: %d requests are counted, want %d to %d",
						step, at, n, least[at], most[at]))
				}
				delete(found, at)
			}
			if len(found) > 0 {
				err = errors.Join(err, fmt.Errorf("%s: nobody has sent %v", step, found))
			}
		}
	}
	return err
}

// run plays a random history that begins a few minutes before the end of a month.
func (m *usageModel) run(t *testing.T, seed uint64) error {
	m.Fleet, m.random = fleet.New(t), rand.New(rand.NewPCG(seed, 14))
	_, ends := keystore.Month.Of(time.Now())
	m.ahead = time.Until(ends) - time.Duration(1+m.random.IntN(4))*time.Minute
	m.nodes = []*usageNode{m.open(), m.open()}
	// Otherwise the database would learn the time after the first minute, and jump by a month.
	if err := m.nodes[0].Database().NoteTime(t.Context(), m.nodes[0].Now()); err != nil {
		return err
	}
	for range 3 {
		_, token := fleet.Mint(t, m.nodes[0].Keystore, manage.KeySpec{})
		m.tokens = append(m.tokens, token)
	}
	for i := range 100 {
		err := m.step()
		if i%10 == 0 {
			err = errors.Join(err, m.agree())
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	for _, n := range m.nodes {
		n.store.cut.Store(false)
		n.store.unacknowledged.Store(false)
	}
	time.Sleep(20 * time.Second)
	return m.check()
}

const usageSeeds = 2

// TestUsageAddsUp checks that each request counts once, in the minute in which it has ended, except
// those in the last 10 s of a process that is killed. Meanwhile there are outages of the database,
// commits without an acknowledgement, steps of clocks and roll-ups.
func TestUsageAddsUp(t *testing.T) {
	for seed := range uint64(usageSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if err := new(usageModel).run(t, seed); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestUsageNeedsBatchNumbers checks that TestUsageAddsUp detects batches that count twice.
func TestUsageNeedsBatchNumbers(t *testing.T) {
	for seed := range uint64(usageSeeds) {
		var err error
		synctest.Test(t, func(t *testing.T) {
			m := usageModel{unnumbered: true}
			err = m.run(t, seed)
		})
		if err != nil {
			return
		}
	}
	t.Error("no history shows that batches need their numbers")
}

package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	revokes         = 400
	propagationBar  = 50 * time.Millisecond
	trafficKeys     = 1000
	commitsMeasured = 1000
)

// benchmarkFleetRevoke measures how long revokes on three nodes take until they are complete. Each
// key is cached by all nodes when it is revoked, and used on all of them afterwards.
func benchmarkFleetRevoke(b *testing.B) {
	f := startFleet(b, 3, true)
	tokens := newTokens(trafficKeys)
	f.manager[0].importAll(b, tokens)
	for _, g := range f.Nodes {
		askAll(b, g, tokens, 4)
	}

	var t strings.Builder
	fmt.Fprintf(&t,
		"Three Caddys, one Redis. %s\n%d revokes per row, on each node in turn through its admin "+
			"endpoint, of keys that all three have cached. None of the\n"+
			"%d requests that were sent with these keys after the answer was accepted. "+
			"`propagation.ms` is from the answer, and counts from the commit.\n\n",
		aboutPostgres, revokes, 3*revokes)
	t.WriteString("| on all three nodes | requests/s | call to answer: p50 | p99 | " +
		"longest | `propagation.ms`: p50 | p99 | longest |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, row := range []struct {
		name        string
		conns, rate int
	}{
		{"quiet", 0, 0},
		{"300 requests per second each", 4, 300},
		{"as fast as possible over 4 connections each", 4, 0},
	} {
		end := func() sample { return sample{took: time.Second} }
		if row.conns > 0 {
			end = traffic(b, f.Nodes, tokens, row.conns, row.rate)
		}
		took, told := f.revokeSome(b, revokes)
		seen := end()
		p99 := quantile(took, 0.99)
		fmt.Fprintf(&t, "| %s | %.0f | %v | %v | %v | %v | %v | %v |\n", row.name, seen.perSecond(),
			tenths(quantile(took, 0.5)), tenths(p99), tenths(took[len(took)-1]),
			quantile(told, 0.5), quantile(told, 0.99), told[len(told)-1])
		if row.conns == 0 {
			report.bar("revoke until complete on three quiet nodes, p99", "≤ 50 ms",
				tenths(p99).String(), p99 <= propagationBar)
		}
	}
	low, middle, high := f.commitTimes(b)
	fmt.Fprintf(&t,
		"\nA commit of one changed row, inside the server and without other load, takes %v here "+
			"(p50; p1 %v, p99 %v of %d). A revoke waits for one such commit, so it waits for the "+
			"disk once;\n"+
			"the acknowledgements of nodes do not wait for the disk.\n", middle, low, high,
		commitsMeasured)
	report.section("Revoke until complete on three nodes", t.String())
	b.ReportMetric(0, "ns/op")
}

// revokeSome returns the durations of the calls and those that the responses report, each sorted.
func (f fleet) revokeSome(b *testing.B, n int) (took, told []time.Duration) {
	b.Helper()
	clients := make([]*client1, len(f.Nodes))
	for i, g := range f.Nodes {
		var err error
		if clients[i], err = dial(addr(g), time.Now().Add(10*time.Minute)); err != nil {
			b.Fatal(err)
		}
		defer clients[i].Close()
	}
	askEach := func(token, want string) {
		for i, c := range clients {
			if status, err := c.ask(bearer(token)); err != nil || status != want {
				b.Fatalf("node %d: %s %v, not %s", i, status, err, want)
			}
		}
	}
	for i := range n {
		id, token := f.manager[i%len(f.Nodes)].mint(b)
		askEach(token, "200")
		var answer struct {
			Propagation struct {
				Complete bool
				Nodes    int
				MS       int
			}
		}
		begin := time.Now()
		f.manager[(i+1)%len(f.Nodes)].call(b, "POST", "/keys/"+id+"/revoke",
			[]byte(`{"reason":"bench"}`), 200, &answer)
		took = append(took, time.Since(begin))
		told = append(told, time.Duration(answer.Propagation.MS)*time.Millisecond)
		if p := answer.Propagation; !p.Complete || p.Nodes != len(f.Nodes) {
			b.Fatalf("propagation %+v", p)
		}
		askEach(token, "401")
	}
	slices.Sort(took)
	slices.Sort(told)
	return took, told
}

// commitTimes measures transactions that change one row, one after the other.
func (f fleet) commitTimes(b *testing.B) (low, middle, high time.Duration) {
	b.Helper()
	f.query(b,
		"CREATE TABLE public.commits (n int); INSERT INTO public.commits VALUES (0); CREATE TABLE "+
			"public.times (micros float)")
	f.query(b, fmt.Sprintf(`DO $$ DECLARE began timestamptz; times float[]; BEGIN
		FOR i IN 1..%d LOOP
			began := clock_timestamp();
			UPDATE public.commits SET n = i;
			COMMIT;
			times := times || extract(epoch FROM clock_timestamp() - began)::float * 1e6;
		END LOOP;
		INSERT INTO public.times SELECT unnest(times);
	END $$`, commitsMeasured))
	at := func(q float64) time.Duration {
		micros := f.number(b,
			fmt.Sprintf("SELECT percentile_cont(%v) WITHIN GROUP (ORDER BY micros) FROM "+
				"public.times", q))
		return time.Duration(micros*1e3) * time.Nanosecond
	}
	return tens(at(0.01)), tens(at(0.5)), tens(at(0.99))
}

func tenths(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
func tens(d time.Duration) time.Duration   { return d.Round(10 * time.Microsecond) }

package bench

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

const profileLength = 5 * time.Second

// benchmarkProfiles shows where a process with api_key spends more CPU time than a stock one.
func benchmarkProfiles(b *testing.B) {
	upstream := startUpstream(b)
	plain, keys := startCaddy(b, stock, upstream), startCaddy(b, withKeys, upstream)
	keys.token = string(keys.Mint(b, gate.JSON{"name": "bench", "access": "read_only"}).Token)
	plain.token = keys.token
	turns := max(1, rounds/3)
	var t strings.Builder
	fmt.Fprintf(&t, "CPU profiles of the stock process and the one with `api_key` under the same "+
		"load, %d of %v each in turn (`/debug/pprof/profile` of the admin endpoint). A sample "+
		"counts for the innermost of its functions that has a row here. CPU time is in µs per "+
		"request: the process's CPU time, times the row's share of the samples. The error is the "+
		"standard error from the number of samples. These processes have no control: the ratios of "+
		"the tables above are the result, and this table only divides it.\n"+
		"The time of `reverse_proxy` and its logger is Caddy's own: [upstream.md](upstream.md) "+
		"describes how it could be less.\n", turns, profileLength)
	for _, r := range requests {
		if !r.goals {
			continue
		}
		var spent [2]profiled
		for range turns {
			spent[0].add(b, r, plain)
			spent[1].add(b, r, keys)
		}
		fmt.Fprintf(&t, "\n| %s | stock | with `api_key` | difference |\n|---|--:|--:|--:|\n",
			r.title)
		for _, p := range slices.Concat(places, []place{{name: elsewhere}}) {
			with, errWith := spent[1].micros(p.name)
			without, errWithout := spent[0].micros(p.name)
			fmt.Fprintf(&t, "| %s | %.1f | %.1f | %+.1f ± %.1f |\n", p.name, without, with,
				with-without, math.Hypot(errWith, errWithout))
		}
		without, with := spent[0].perRequest(), spent[1].perRequest()
		fmt.Fprintf(&t, "| all | %.1f | %.1f | %+.1f |\n", without, with, with-without)
	}
	report.section("Where the microseconds go", t.String())
	b.ReportMetric(0, "ns/op")
}

// profiled is the sum of several profiles of a process.
type profiled struct {
	samples  map[string]float64 // by place
	cpu      time.Duration
	requests int
}

// add sends a load to a process and profiles it meanwhile.
func (p *profiled) add(b *testing.B, r request, process *caddy) {
	b.Helper()
	type result struct {
		*profile.Profile
		err error
	}
	profiles := make(chan result, 1)
	l := r.load(process)
	l.length = profileLength
	before := cpu(b, process.Pid())
	go func() {
		got, err := cpuProfile(process)
		profiles <- result{got, err}
	}()
	got := mustRun(b, l)
	p.cpu += cpu(b, process.Pid()) - before
	p.requests += len(got.latencies)
	taken := <-profiles
	if taken.err != nil {
		b.Fatal(taken.err)
	}
	if p.samples == nil {
		p.samples = map[string]float64{}
	}
	for name, n := range samplesByPlace(taken.Profile) {
		p.samples[name] += n
	}
	process.emptyAccessLog(b, r.log)
}

func cpuProfile(process *caddy) (*profile.Profile, error) {
	answer, err := http.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%.0f",
		process.Admin, profileLength.Seconds()))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	return profile.ParseData(body)
}

func (p *profiled) perRequest() float64 { return micros(p.cpu) / float64(p.requests) }

// micros returns the CPU time per request in a place, and its standard error.
func (p *profiled) micros(place string) (micros, standardError float64) {
	all := 0.0
	for _, n := range p.samples {
		all += n
	}
	perSample := p.perRequest() / all
	return p.samples[place] * perSample, math.Sqrt(p.samples[place]) * perSample
}

func TestPlaceOf(t *testing.T) {
	const (
		ours   = "github.com/caddy-apikeys/caddy-apikeys/caddymodule"
		caddys = "github.com/caddyserver/caddy/v2/modules/caddyhttp"
		serve  = ours + ".(*Handler).ServeHTTP"
		encode = ours + "/redact.(*encoder).AddObject"
		proxy  = caddys + "/reverseproxy.(*Handler).ServeHTTP"
		log    = caddys + ".(*Server).logRequest"
	)
	for _, test := range []struct {
		want  string
		stack []string // the innermost function first
	}{
		{places[0].name, []string{"runtime.mapassign_faststr", serve, "net/http.(*conn).serve"}},
		{places[1].name, []string{encode, "go.uber.org/zap.(*Logger).With", proxy, serve}},
		{places[0].name, []string{"go.uber.org/zap.(*Logger).WithLazy", serve}},
		{places[2].name, []string{"runtime.mapassign_faststr", "net/http.Header.Clone", proxy, serve}},
		{places[3].name, []string{"internal/runtime/syscall.Syscall6", proxy, serve}},
		{places[3].name, []string{"net/http.(*response).Write", ours + ".(*countingWriter).Write",
			proxy, serve}},
		{places[4].name, []string{encode, log}},
		{places[5].name, []string{"runtime.scanobject", "runtime.gcAssistAlloc1", serve}},
		{elsewhere, []string{"internal/runtime/syscall.Syscall6", "net/http.(*conn).serve"}},
	} {
		if got := placeOf(test.stack); got != test.want {
			t.Errorf("%q counts for %q, not %q", test.stack, got, test.want)
		}
	}
}

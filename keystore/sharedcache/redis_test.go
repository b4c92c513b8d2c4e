//go:build unix

package sharedcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/redistest"
)

var ctx = context.Background()

func TestRedis(t *testing.T) {
	s := redistest.Start(t)
	keystoretest.TestSharedCache(t, func(t *testing.T) keystore.SharedCache {
		return open(t, "redis://"+s.Addr())
	})
	keystoretest.TestSharedRates(t, func(t *testing.T) keystore.SharedRates {
		return open(t, "redis://"+s.Addr())
	})
}

func TestSocket(t *testing.T) {
	s := redistest.New(t, "port 0", "unixsocket s")
	s.Ready = "ready to accept connections at"
	s.Run()
	r := open(t, "unix://"+s.Dir()+"/s?db=1")
	r.works(t)
}

func TestDatabaseNumber(t *testing.T) {
	s := redistest.Start(t)
	three := open(t, "redis://"+s.Addr()+"/3")
	three.works(t)
	zero := open(t, "redis://"+s.Addr())
	eventually(t, "the value is stored", func() bool {
		three.Put("name", []byte("value"), time.Minute)
		got, _ := three.Get(ctx, "name")
		return got != nil
	})
	if got := zero.answer(t, "name"); got != nil {
		t.Errorf("database 0 has a value of database 3: %q", got)
	}
}

// TestRestrictedUser: a user with four commands and access to the keystore's names is sufficient.
func TestRestrictedUser(t *testing.T) {
	const password = "s3cr3t/@:%"
	s := redistest.Start(t, "user default on nopass ~* +@all",
		"user apikeys on >"+password+
			" ~apikeys:* resetchannels -@all +getrange +set +evalsha +eval")
	user := open(t, "redis://apikeys:s3cr3t%2F%40%3A%25@"+s.Addr())
	user.works(t)
	wantNoneDenied(t, s)

	for _, url := range []string{"redis://apikeys:s3cr3t-not@", "redis://nobody:s3cr3t-not@"} {
		stranger := open(t, url+s.Addr())
		for range maxFailures {
			_, err := stranger.Get(ctx, "apikeys:{e}:name")
			if err == nil || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("%s: %v", url, err)
			}
		}
		if line := stranger.wantLine(t, "does not answer"); strings.Contains(line, "s3cr3t") ||
			!strings.Contains(line, "WRONGPASS") {
			t.Errorf("%s: %s", url, line)
		}
	}
}

// TestQuotedPassword: no error shows a password that the server quotes. Old servers quote commands
// that they do not support.
func TestQuotedPassword(t *testing.T) {
	addr := fakeServer(t, func(request string) string {
		return "-ERR unknown command: " + strings.ReplaceAll(request, "\r\n", " ")
	})
	r := open(t, "redis://user:s3cr3t@"+addr)
	for range maxFailures {
		if _, err := r.Get(ctx, "name"); err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%v", err)
		}
	}
	if line := r.wantLine(t, "does not answer"); strings.Contains(line, "s3cr3t") ||
		!strings.Contains(line, "[password]") {
		t.Error(line)
	}
}

// TestTimeoutOfSlowServer: the timeout bounds a Get as a whole, not each of its steps.
func TestTimeoutOfSlowServer(t *testing.T) {
	const timeout = time.Second // the maximum, because the machine may be slow
	addr := fakeServer(t, func(request string) string {
		time.Sleep(timeout * 2 / 3) // longer than the timeout in two steps
		if strings.Contains(request, "hello") {
			return "-ERR unknown command" // the client continues
		}
		return "+OK"
	})
	r := open(t, fmt.Sprintf("redis://%s/1?timeout=%s", addr, timeout)) // HELLO, SELECT, GETRANGE
	start := time.Now()
	_, err := r.Get(ctx, "name")
	if took := time.Since(start); err == nil || took > timeout*7/4 {
		t.Errorf("%v after %s", err, took)
	}
}

func TestTLS(t *testing.T) {
	dir := certificates(t)
	s := redistest.New(t, "port 0", "tls-port {port}", "tls-auth-clients yes",
		"tls-cert-file "+dir+"/ca.pem", "tls-key-file "+dir+"/key.pem",
		"tls-ca-cert-file "+dir+"/ca.pem")
	s.Run()
	r := open(t, fmt.Sprintf("rediss://%s?ca=%s/ca.pem&cert=%s/ca.pem&key=%s/key.pem", s.Addr(),
		dir, dir, dir))
	r.works(t)
	for name, url := range map[string]string{
		"without the authority": fmt.Sprintf("rediss://%s?cert=%s/ca.pem&key=%s/key.pem",
			s.Addr(), dir, dir),
		"without the certificate": fmt.Sprintf("rediss://%s?ca=%s/ca.pem", s.Addr(), dir),
		"without TLS":             "redis://" + s.Addr(),
	} {
		r := open(t, url)
		if _, err := r.Get(ctx, "name"); err == nil {
			t.Error("connected", name)
		}
	}
	for url, want := range map[string]string{
		"rediss://h?ca=/nowhere":                                   "/nowhere",
		"rediss://h?ca=" + dir + "/key.pem":                        "must contain a certificate",
		"rediss://h?cert=" + dir + "/key.pem&key=" + dir + "/gone": "cert and key",
	} {
		if _, err := OpenRedis(Options{URL: url}); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestSentinel(t *testing.T) {
	main := redistest.Start(t, "requirepass s3cr3t")
	redistest.Start(t, "requirepass s3cr3t", "masterauth s3cr3t",
		fmt.Sprintf("replicaof 127.0.0.1 %d", main.Port()))
	sentinel := redistest.New(t, "port {port}",
		"user guard on >gu4rd allchannels -@all +sentinel +subscribe +ping",
		fmt.Sprintf("sentinel monitor caches 127.0.0.1 %d 1", main.Port()),
		"sentinel auth-pass caches s3cr3t",
		"sentinel down-after-milliseconds caches 300",
		"sentinel failover-timeout caches 3000",
	)
	sentinel.Args, sentinel.Ready = []string{"--sentinel"}, "+slave slave"
	sentinel.Run()
	url := "redis-sentinel://:s3cr3t@" + sentinel.Addr() +
		"/caches?sentinel_user=guard&sentinel_password=gu4rd"
	r := open(t, url)
	r.works(t)
	wantNoneDenied(t, sentinel)
	keystoretest.TestSharedRates(t, func(t *testing.T) keystore.SharedRates { return open(t, url) })

	stranger := open(t, strings.Replace(url, "=gu4rd", "=n0t-gu4rd", 1))
	for range maxFailures {
		if _, err := stranger.Get(ctx, "name"); err == nil || strings.Contains(err.Error(), "n0t") {
			t.Errorf("with a wrong password for the sentinels: %v", err)
		}
	}
	stranger.wantLine(t, "does not answer")

	main.Kill()
	eventually(t, "the cache stops asking", func() bool {
		_, err := r.Get(ctx, "name")
		return errors.Is(err, errUnavailable)
	})
	r.wantLine(t, "answers again")
	r.works(t) // with the former replica
}

// clusterConfig returns the configuration of one server of a cluster. It chooses the port of the
// bus, because the default, which is 10000 higher than that of the server, may exceed 65535.
func clusterConfig(t *testing.T) []string {
	return []string{
		"cluster-enabled yes", fmt.Sprint("cluster-port ", freeport.For(t)),
		"cluster-node-timeout 1000", "cluster-require-full-coverage no",
		"user apikeys on >s3cr3t ~apikeys:* resetchannels -@all +getrange +set +evalsha +eval " +
			"+cluster|slots",
	}
}

func awaitCluster(t *testing.T, operators ...*redis.Client) {
	t.Helper()
	for _, o := range operators {
		eventually(t, "the cluster is up", func() bool {
			info, err := o.ClusterInfo(ctx).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") &&
				strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", len(operators))) &&
				strings.Contains(info, "cluster_slots_assigned:16384")
		})
	}
}

func TestClusterOfOne(t *testing.T) {
	s := redistest.Start(t, clusterConfig(t)...)
	operator := operator(t, s)
	if err := operator.ClusterAddSlotsRange(ctx, 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	awaitCluster(t, operator)
	// Nothing listens on one of the addresses.
	for _, url := range []string{s.Addr() + "?cluster=true",
		fmt.Sprintf("%s,127.0.0.1:%d", s.Addr(), freeport.For(t))} {
		r := open(t, "redis://apikeys:s3cr3t@"+url)
		r.works(t)
		wantNoneDenied(t, s)
		slowIsBounded(t, s, r)
	}
}

// TestCluster: values are distributed over the servers, are found after their slot has moved, and
// after a server has been killed and restarted.
func TestCluster(t *testing.T) {
	const names = 90
	name := func(i int) string { return fmt.Sprintf("apikeys:e:key:%d", i) }
	var servers []*redistest.Server
	var operators []*redis.Client
	for i := range 3 {
		s := redistest.Start(t, clusterConfig(t)...)
		o := operator(t, s)
		if err := o.ClusterAddSlotsRange(ctx, []int{0, 5461, 10923}[i],
			[]int{5460, 10922, 16383}[i]).Err(); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if err := operators[0].Do(ctx, "CLUSTER", "MEET", "127.0.0.1", s.Port(),
				busPort(s)).Err(); err != nil {
				t.Fatal(err)
			}
		}
		servers, operators = append(servers, s), append(operators, o)
	}
	awaitCluster(t, operators...)

	url := fmt.Sprintf("redis://apikeys:s3cr3t@%s,%s", servers[0].Addr(), servers[1].Addr())
	r := open(t, url)
	keystoretest.TestSharedRates(t, func(t *testing.T) keystore.SharedRates { return open(t, url) })
	for _, o := range operators {
		if err := o.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
	}
	find := func(i int) bool {
		got, err := r.Get(ctx, name(i))
		return err == nil && string(got) == fmt.Sprint("value ", i)
	}
	keep := func(i int) {
		t.Helper()
		eventually(t, name(i)+" is found", func() bool {
			r.Put(name(i), fmt.Append(nil, "value ", i), time.Hour)
			return find(i)
		})
	}
	for i := range names {
		keep(i)
	}
	for i, o := range operators {
		if n := o.DBSize(ctx).Val(); n == 0 || n == names {
			t.Errorf("server %d has %d of %d values", i, n, names)
		}
		wantNoneDenied(t, servers[i])
	}

	// A slot moves from the last server to the first without the client's knowledge.
	moved := 0
	for operators[2].Exists(ctx, name(moved)).Val() == 0 {
		moved++
	}
	slot := operators[0].ClusterKeySlot(ctx, name(moved)).Val()
	// The name of the limit contains that of the value as its hash tag, so both are in one slot.
	rate := keystore.Booking{
		Name: "apikeys:{" + name(moved) + "}:rate", Limit: minutely, Known: after(3),
	}
	r.booked(t, rate)
	id := func(i int) string { return operators[i].Do(ctx, "CLUSTER", "MYID").Val().(string) }
	for _, step := range []struct {
		on    int
		words []any
	}{
		{0, []any{"CLUSTER", "SETSLOT", slot, "IMPORTING", id(2)}},
		{2, []any{"CLUSTER", "SETSLOT", slot, "MIGRATING", id(0)}},
		{2, []any{"DEL", name(moved), rate.Name}},
		{0, []any{"CLUSTER", "SETSLOT", slot, "NODE", id(0)}},
		{2, []any{"CLUSTER", "SETSLOT", slot, "NODE", id(0)}},
		{1, []any{"CLUSTER", "SETSLOT", slot, "NODE", id(0)}},
	} {
		if err := operators[step.on].Do(ctx, step.words...).Err(); err != nil {
			t.Fatal(step, err)
		}
	}
	keep(moved)
	if operators[0].Exists(ctx, name(moved)).Val() != 1 {
		t.Error("the value is not on the server that has the slot")
	}
	r.booked(t, rate)
	if got := operators[0].Get(ctx, rate.Name).Val(); got != storedAt(after(3)) {
		t.Errorf("the server that has the slot has the TAT %q", got)
	}
	wantNoneDenied(t, servers[0])

	servers[1].Kill()
	for i := range names {
		if got, err := r.Get(ctx, name(i)); err == nil && got != nil &&
			string(got) != fmt.Sprint("value ", i) {
			t.Errorf("%s is %q while a server is dead", name(i), got)
		}
	}
	servers[1].Run()
	for i := range names {
		keep(i)
	}
}

// busPort is the port on which servers of a cluster talk to one another.
func busPort(s *redistest.Server) (port int) {
	_, rest, _ := strings.Cut(s.Config, "cluster-port ")
	_, _ = fmt.Sscan(rest, &port)
	return port
}

// TestHungServer: few calls are slow while a server hangs.
func TestHungServer(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr()+"?timeout=200ms")
	r.works(t)
	slowIsBounded(t, s, r)
}

// TestHungFromTheStart: few calls are slow if the server accepts connections but never answers.
func TestHungFromTheStart(t *testing.T) {
	dir := certificates(t)
	s := redistest.Start(t)
	s.Stop()
	for _, url := range []string{
		"redis://u:p@" + s.Addr() + "/1?timeout=200ms",
		"rediss://" + s.Addr() + "?timeout=200ms&ca=" + dir + "/ca.pem",
		"redis://" + s.Addr() + "?timeout=200ms&cluster=true",
		"redis-sentinel://" + s.Addr() + "/caches?timeout=200ms",
	} {
		r := open(t, url)
		if slow := slowCalls(r, 8, 20, 100*time.Millisecond); slow > 8+maxFailures {
			t.Errorf("%s: %d slow calls of 8 callers", url, slow)
		}
		r.Put("name", []byte("value"), time.Minute)
		start := time.Now()
		r.Close()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: Close took %s", url, took)
		}
	}
}

// slowIsBounded checks that few Gets are slow while a server is stopped.
func slowIsBounded(t *testing.T, s *redistest.Server, r cache) {
	t.Helper()
	earlier := r.failures.Load()
	s.Stop()
	const callers = 8
	if slow := slowCalls(r, callers, 50, r.timeout/2); slow > callers+maxFailures {
		t.Errorf("%d slow calls of %d callers", slow, callers)
	} else if slow == 0 {
		t.Error("the server was not stopped")
	}
	r.wantLine(t, "does not answer")
	if _, err := r.Get(ctx, "apikeys:{e}:name"); !errors.Is(err, errUnavailable) {
		t.Errorf("Get asked the server: %v", err)
	}
	before := r.failures.Load() - earlier
	if before == 0 || before > 2*(callers+maxFailures) {
		t.Errorf("%d calls of Failed", before)
	}
	eventually(t, "the server is probed in the background",
		func() bool { return r.failures.Load()-earlier > before })
	s.Continue()
	r.wantLine(t, "answers again")
	r.works(t)
}

// slowCalls counts the Gets that take longer than limit.
func slowCalls(r cache, callers, calls int, limit time.Duration) int {
	var slow atomic.Int32
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range calls {
				start := time.Now()
				_, _ = r.Get(ctx, "apikeys:{e}:name")
				r.Put("apikeys:{e}:name", []byte("value"), time.Minute)
				if time.Since(start) > limit {
					slow.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(slow.Load())
}

// TestKilledServer: the cache uses the server again after it was killed and restarted.
func TestKilledServer(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	r.works(t)
	s.Kill()
	eventually(t, "the cache stops asking the server", func() bool {
		_, err := r.Get(ctx, "apikeys:{e}:name")
		return errors.Is(err, errUnavailable)
	})
	r.wantLine(t, "does not answer")
	s.Run()
	r.wantLine(t, "answers again")
	if got := r.answer(t, "apikeys:{e}:name"); got != nil {
		t.Errorf("after the restart: %q", got)
	}
	r.works(t)
}

// TestFailuresInBetween: the cache asks a server that answers between failures.
func TestFailuresInBetween(t *testing.T) {
	var fails atomic.Bool
	addr := fakeServer(t, func(request string) string {
		if strings.Contains(request, "hello") || fails.Load() {
			return "-ERR unknown command" // the client continues after HELLO
		}
		return "+OK"
	})
	r := open(t, "redis://"+addr)
	for range 3 {
		fails.Store(false)
		r.answer(t, "name")
		fails.Store(true)
		for range maxFailures - 1 {
			if _, err := r.Get(ctx, "name"); err == nil || errors.Is(err, errUnavailable) {
				t.Errorf("the server was not asked: %v", err)
			}
		}
	}
}

// TestUnavailableAtFirst: the cache opens without its server, and uses it once it starts.
func TestUnavailableAtFirst(t *testing.T) {
	s := redistest.Start(t)
	s.Kill()
	r := open(t, "redis://"+s.Addr())
	for range maxFailures {
		if _, err := r.Get(ctx, "apikeys:{e}:name"); err == nil {
			t.Error("an answer without a server")
		}
	}
	s.Run()
	r.wantLine(t, "answers again")
	r.works(t)
}

// TestFlushedServer: a flushed server has no values.
func TestFlushedServer(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	eventually(t, "the value is stored", func() bool {
		r.Put("name", []byte("value"), time.Minute)
		got, _ := r.Get(ctx, "name")
		return got != nil
	})
	if err := operator(t, s).FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if got := r.answer(t, "name"); got != nil {
		t.Errorf("after FLUSHALL: %q", got)
	}
}

// TestFullServer: a server that rejects values still returns those that it has, and one log line
// reports it.
func TestFullServer(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	operator := operator(t, s)
	if err := operator.Set(ctx, "name", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := operator.ConfigSet(ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		r.Put("other", []byte("value"), time.Minute)
	}
	r.wantLine(t, "rejects values")
	if got := r.answer(t, "name"); string(got) != "value" {
		t.Errorf("%q", got)
	}
	select {
	case line := <-r.lines:
		t.Error("a second line:", line)
	default:
	}
}

// TestForeignValues: Get returns no value that is too long, empty or not a string.
func TestForeignValues(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	operator := operator(t, s)
	operator.Set(ctx, "longest", bytes.Repeat([]byte("x"), maxValue), 0)
	operator.Set(ctx, "large", bytes.Repeat([]byte("x"), 10<<20), 0)
	operator.Set(ctx, "empty", "", 0)
	operator.LPush(ctx, "list", "x")
	if got := r.answer(t, "longest"); len(got) != maxValue {
		t.Errorf("longest value: %d bytes", len(got))
	}
	for _, name := range []string{"large", "empty", "list"} {
		for range maxFailures { // none is a failure of the server
			if got := r.answer(t, name); got != nil {
				t.Errorf("%s: %d bytes", name, len(got))
			}
		}
	}
	r.works(t)
}

// TestPuts: invalid values are dropped, and the others, even the longest, expire at different times.
func TestPuts(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr())
	r.Put("large", make([]byte, maxValue+1), time.Minute)
	r.Put("empty", nil, time.Minute)
	r.Put("late", []byte("value"), 0)
	operator := operator(t, s)
	const n = 100
	value := make([]byte, maxValue)
	eventually(t, "all values are stored", func() bool {
		for i := range n {
			if name := fmt.Sprint("name", i); operator.Exists(ctx, name).Val() == 0 {
				r.Put(name, value[min(i, 1)*(maxValue-5):], time.Hour)
			}
		}
		return operator.DBSize(ctx).Val() == n
	})
	ttls := make(map[time.Duration]bool)
	for i := range n {
		ttl := operator.PTTL(ctx, fmt.Sprint("name", i)).Val()
		if ttl < 53*time.Minute || ttl > 66*time.Minute {
			t.Errorf("a value expires after %s", ttl)
		}
		ttls[ttl.Round(time.Minute)] = true
	}
	if len(ttls) < 5 {
		t.Errorf("all values expire together: %v", ttls)
	}
	for len(r.lines) > 0 {
		if line := <-r.lines; strings.Contains(line, "<nil>") {
			t.Error("a value that was stored is reported:", line)
		}
	}
}

// TestPutsDoNotWait: while the server hangs, the queue fills up and callers do not wait.
func TestPutsDoNotWait(t *testing.T) {
	s := redistest.Start(t)
	r := open(t, "redis://"+s.Addr()+"?timeout=1s")
	r.works(t)
	s.Stop()
	start := time.Now()
	for range 10 * maxQueue {
		r.Put("name", []byte("value"), time.Minute)
	}
	if took := time.Since(start); took > time.Second/2 {
		t.Errorf("%d Puts took %s", 10*maxQueue, took)
	}
}

// Package sharedcache is the [keystore.SharedCache] in Redis: one server, Sentinel or Cluster.
//
// It is made so that Redis cannot make anything slow. A Get takes no longer than one timeout,
// connecting included; after a few that failed in a row nobody asks any more, until one call in the
// background has had an answer. Puts go through a bounded queue.
package sharedcache

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	defaultTimeout = 50 * time.Millisecond
	// dialTimeout is not for anyone to wait: a dial goes on in the background, or a TLS handshake
	// that takes longer than the timeout would be begun again and again.
	dialTimeout = time.Second

	maxValue   = 64 << 10 // bytes of a value
	maxQueue   = 512      // values that wait to be put
	writers    = 4
	patience   = 3           // how many Gets may fail in a row before nobody asks any more
	probeEvery = time.Second // then the server is asked in the background, give or take half
	putsMutter = time.Minute // how often a log line may say that Puts fail
)

var (
	errAway   = errors.New("the shared cache does not answer at present")
	errClosed = errors.New("the shared cache is closed")
)

// Options say where Redis is and who wants to know how it is.
type Options struct {
	// URL names the server: see [CheckURL].
	URL string
	// Logger is told when Redis is given up, when it is back, and when it takes no values. Default
	// is none.
	Logger *slog.Logger
	// Failed is called for each call to Redis that fails; it must return at once. Default is none.
	Failed func()
}

// Redis is a [keystore.SharedCache].
type Redis struct {
	client  redis.UniversalClient
	timeout time.Duration
	secrets []string // what no error may show
	log     *slog.Logger
	onError func()

	failures atomic.Int32 // of Get, in a row
	away     atomic.Bool  // nobody asks; watch is waiting for the server
	lost     chan string  // wakes watch: the name that could not be read
	puts     chan put
	muttered atomic.Int64 // when a log line last said that Puts fail, in Unix nanoseconds

	ctx   context.Context // done: closed
	close context.CancelFunc
	done  sync.WaitGroup
}

type put struct {
	name  string
	value []byte
	ttl   time.Duration
}

var quietGoRedis = sync.OnceFunc(logging.Disable)

// OpenRedis returns the cache at a URL. It does not wait for the server, which may be away: an
// error says that the URL, or a file it names, is wrong, and shows no password.
func OpenRedis(o Options) (*Redis, error) {
	l, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if err := l.loadTLS(); err != nil {
		return nil, err
	}
	quietGoRedis() // it writes a line to standard error for each failure, past the program's log
	r := &Redis{
		client:  l.client(),
		timeout: l.timeout,
		secrets: l.secrets(),
		log:     o.Logger,
		onError: o.Failed,
		lost:    make(chan string, 1),
		puts:    make(chan put, maxQueue),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.onError == nil {
		r.onError = func() {}
	}
	r.ctx, r.close = context.WithCancel(context.Background())
	r.done.Go(r.watch)
	for range writers {
		r.done.Go(r.write)
	}
	return r, nil
}

// client makes the client of a location. All time limits are in the contexts of the calls, which
// bound waiting for a connection, making it, and redirections together.
func (l *location) client() redis.UniversalClient {
	o := &redis.UniversalOptions{
		Addrs: l.addrs, DB: l.db, Username: l.username, Password: l.password,
		MasterName: l.master, SentinelUsername: l.sentinelUsername,
		SentinelPassword:      l.sentinelPassword,
		TLSConfig:             l.tls,
		ContextTimeoutEnabled: true,
		DialTimeout:           dialTimeout,
		DialerRetries:         1,
		ReadTimeout:           l.timeout,
		WriteTimeout:          l.timeout,
		PoolTimeout:           l.timeout,
		MaxRetries:            -1,
		PipelinePoolSize:      -1,
		// Only GETRANGE and SET are needed, of a server or proxy of any age and an ACL user who may
		// do no more.
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if l.cluster {
		c := o.Cluster()
		// they ask the server for its COMMANDs, outside the call's context
		c.DisableRoutingPolicies = true
		return redis.NewClusterClient(c)
	}
	return redis.NewUniversalClient(o)
}

// Get returns what was put under a name, nil when there is nothing, within the timeout (50 ms
// unless the URL says otherwise).
func (r *Redis) Get(ctx context.Context, name string) ([]byte, error) {
	if r.away.Load() {
		return nil, errAway
	}
	value, err := r.get(ctx, name)
	switch {
	case err == nil:
		if r.failures.Load() != 0 {
			r.failures.Store(0)
		}
	case ctx.Err() != nil || r.ctx.Err() != nil: // not the server's fault
	case r.failures.Add(1) >= patience && r.away.CompareAndSwap(false, true):
		r.log.Warn("the shared cache does not answer: keys are looked up in the database until it "+
			"does", "error", err)
		r.lost <- name
	}
	return value, err
}

func (r *Redis) get(ctx context.Context, name string) ([]byte, error) {
	if r.ctx.Err() != nil {
		return nil, errClosed
	}
	callCtx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	// GETRANGE, because GET would fetch a value of any size that someone has put there.
	value, err := r.client.GetRange(callCtx, name, 0, maxValue).Bytes()
	switch {
	case err != nil && (ctx.Err() != nil || r.ctx.Err() != nil):
		return nil, r.conceal(err)
	case err != nil:
		return nil, r.failed(err)
	case len(value) == 0 || len(value) > maxValue:
		return nil, nil
	}
	return value, nil
}

// watch waits, whenever the server has been given up, for it to answer.
func (r *Redis) watch() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case name := <-r.lost:
			for {
				select {
				case <-r.ctx.Done():
					return
				case <-time.After(jitter(probeEvery, 0.5)):
				}
				if _, err := r.get(r.ctx, name); err == nil {
					break
				}
			}
			r.failures.Store(0)
			r.away.Store(false)
			r.log.Info("the shared cache answers again")
		}
	}
}

// Put keeps a value, which must not be changed any more, for ttl give or take a tenth. It is
// dropped if it is empty or longer than 64 KiB, if too many wait already, or if the server does not
// answer.
func (r *Redis) Put(name string, value []byte, ttl time.Duration) {
	if len(value) == 0 || len(value) > maxValue || ttl <= 0 || r.away.Load() || r.ctx.Err() != nil {
		return
	}
	select {
	case r.puts <- put{name, value, ttl}:
	default:
	}
}

func (r *Redis) write() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case p := <-r.puts:
			if r.away.Load() {
				continue
			}
			ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
			// Jitter, or what was put together would be missing together.
			err := r.client.Set(ctx, p.name, p.value,
				max(jitter(p.ttl, 0.1), time.Millisecond)).Err()
			cancel()
			if err != nil && r.ctx.Err() == nil {
				r.mutter(r.failed(err))
			}
		}
	}
}

// mutter logs that a Put failed, now and then. Puts can fail for long while Gets work: a full
// server, a replica.
func (r *Redis) mutter(err error) {
	now, last := time.Now().UnixNano(), r.muttered.Load()
	if now-last >= int64(putsMutter) && r.muttered.CompareAndSwap(last, now) {
		r.log.Warn("the shared cache takes no values", "error", err)
	}
}

// Close ends what is under way, within about one timeout.
func (r *Redis) Close() error {
	if r.ctx.Err() != nil {
		return nil
	}
	r.close()
	r.done.Wait()
	return r.conceal(r.client.Close())
}

func (r *Redis) failed(err error) error {
	r.onError()
	return r.conceal(err)
}

// conceal takes the passwords out of an error. Servers and proxies that do not know AUTH repeat its
// arguments.
func (r *Redis) conceal(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, secret := range r.secrets {
		if strings.Contains(text, secret) {
			text = strings.ReplaceAll(text, secret, "[password]")
			err = errors.New(text)
		}
	}
	return err
}

// jitter returns d, give or take up to a share of it.
func jitter(d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * (1 + share*(2*rand.Float64()-1)))
}

var _ keystore.SharedCache = (*Redis)(nil)

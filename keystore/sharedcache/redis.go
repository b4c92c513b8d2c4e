// Package sharedcache implements [keystore.SharedCache] and [keystore.SharedRates] with Redis: one
// server, Sentinel or Cluster.
//
// A slow Redis does not slow down callers. A Get or a Book takes no longer than one timeout,
// including the time to connect. After a few consecutive failures, they return an error immediately
// until a call in the background gets an answer. Puts go through a bounded queue. Start reading at
// [Redis.Get].
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
	// dialTimeout bounds a dial, which continues in the background after a call has timed out.
	// Otherwise a TLS handshake that takes longer than the timeout would never complete.
	dialTimeout = time.Second

	maxValue      = 64 << 10 // bytes of a value
	maxQueue      = 512      // number of waiting Puts
	writers       = 4
	maxFailures   = 3           // consecutive failures before callers stop asking the server
	probeInterval = time.Second // between probes of the server after that, plus or minus half
	logInterval   = time.Minute // between log lines about the same kind of rejected calls
)

var (
	errUnavailable = errors.New("the shared cache is unavailable")
	errClosed      = errors.New("the shared cache is closed")
)

// Options are the options of [OpenRedis].
type Options struct {
	// URL is the URL of the server: see [CheckURL].
	URL string
	// Logger logs when Redis becomes unavailable, when it is available again, and when it rejects
	// values or bookings. Default is none.
	Logger *slog.Logger
	// Failed is called for each failed call to Redis. It must return immediately. Default is none.
	Failed func()
}

// Redis is a [keystore.SharedCache] and a [keystore.SharedRates]. Its methods are safe for
// concurrent use.
type Redis struct {
	client  redis.UniversalClient
	timeout time.Duration
	secrets []string // passwords, which no error may show
	log     *slog.Logger
	onError func()

	failures    atomic.Int32 // consecutive failures of Get and Book
	unavailable atomic.Bool  // calls fail immediately; watch probes the server
	lost        chan string  // wakes watch: a name that could not be read or booked
	puts        chan put

	// The times of the last log lines about rejected calls, in Unix nanoseconds.
	putRejected, bookRejected atomic.Int64

	ctx   context.Context // ends with Close
	close context.CancelFunc
	done  sync.WaitGroup
}

type put struct {
	name  string
	value []byte
	ttl   time.Duration
}

var quietGoRedis = sync.OnceFunc(logging.Disable)

// OpenRedis returns the cache at a URL. It does not wait for the server, which may be unavailable.
// It returns an error, without passwords, if the URL or a file in it is invalid.
func OpenRedis(o Options) (*Redis, error) {
	l, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if err := l.loadTLS(); err != nil {
		return nil, err
	}
	quietGoRedis() // otherwise it writes a line to standard error for each failure
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

// client returns the client of a location. The context of a call bounds its time, including the wait
// for a connection, the dial and redirections.
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
		// Apart from HELLO, AUTH, SELECT and CLUSTER SLOTS, the client uses only GETRANGE, SET,
		// EVALSHA and EVAL, so that it works with old servers and proxies and with a user who may
		// run only these. Its script uses only GETRANGE and SET.
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if l.cluster {
		c := o.Cluster()
		// Routing policies would run COMMAND on the server, outside the call's context.
		c.DisableRoutingPolicies = true
		return redis.NewClusterClient(c)
	}
	return redis.NewUniversalClient(o)
}

// Get returns the value of a name, or nil if there is none. It returns an error if the server does
// not answer within the timeout in the URL, or immediately while the server is unavailable.
func (r *Redis) Get(ctx context.Context, name string) ([]byte, error) {
	if r.unavailable.Load() {
		return nil, errUnavailable
	}
	value, err := r.get(ctx, name)
	r.count(ctx, name, err)
	return value, err
}

func (r *Redis) get(ctx context.Context, name string) (value []byte, err error) {
	err = r.call(ctx, func(ctx context.Context) (err error) {
		// Not GET, which would fetch a value of any size that another program has stored.
		value, err = r.client.GetRange(ctx, name, 0, maxValue).Bytes()
		if redis.HasErrorPrefix(err, "WRONGTYPE") { // another program has stored it
			return nil
		}
		return err
	})
	if err != nil || len(value) == 0 || len(value) > maxValue {
		return nil, err
	}
	return value, nil
}

// call runs a call of the server, which ends after the timeout. It reports a failure to
// Options.Failed unless the caller has cancelled ctx.
func (r *Redis) call(ctx context.Context, do func(context.Context) error) error {
	if r.ctx.Err() != nil {
		return errClosed
	}
	callCtx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	err := do(callCtx)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil || r.ctx.Err() != nil:
		return r.conceal(err)
	}
	return r.failed(err)
}

// count counts consecutive failures of calls, and makes the server unavailable after a few. name is
// read to probe it.
func (r *Redis) count(ctx context.Context, name string, err error) {
	switch {
	case err == nil:
		if r.failures.Load() != 0 {
			r.failures.Store(0)
		}
	case ctx.Err() != nil || r.ctx.Err() != nil: // not a failure of the server
	case r.failures.Add(1) >= maxFailures && r.unavailable.CompareAndSwap(false, true):
		r.log.Warn("the shared cache does not answer; looking up keys in the database",
			"error", err)
		r.lost <- name
	}
}

// watch probes the server while it is unavailable.
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
				case <-time.After(jitter(probeInterval, 0.5)):
				}
				if _, err := r.get(r.ctx, name); err == nil {
					break
				}
			}
			r.failures.Store(0)
			r.unavailable.Store(false)
			r.log.Info("the shared cache answers again")
		}
	}
}

// Put stores a value for ttl, plus or minus a tenth. The caller must not change the value
// afterwards. Put returns immediately. It drops a value that is empty or longer than 64 KiB, and
// any value if the queue is full or the server is unavailable.
func (r *Redis) Put(name string, value []byte, ttl time.Duration) {
	if len(value) == 0 || len(value) > maxValue || ttl <= 0 || r.unavailable.Load() ||
		r.ctx.Err() != nil {
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
			if r.unavailable.Load() {
				continue
			}
			ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
			// Jitter keeps values that are stored together from expiring together.
			err := r.client.Set(ctx, p.name, p.value,
				max(jitter(p.ttl, 0.1), time.Millisecond)).Err()
			cancel()
			if err != nil && r.ctx.Err() == nil {
				if err = r.failed(err); due(&r.putRejected) {
					r.log.Warn("the shared cache rejects values", "error", err)
				}
			}
		}
	}
}

// due reports whether a rejected call has to be logged: at most one in logInterval. Puts and Books
// can be rejected for a long time while Gets work, because the server may be full or a replica.
func due(logged *atomic.Int64) bool {
	now, last := time.Now().UnixNano(), logged.Load()
	return now-last >= int64(logInterval) && logged.CompareAndSwap(last, now)
}

// Close cancels running calls and closes the client, within about one timeout.
func (r *Redis) Close() error {
	if r.ctx.Err() != nil {
		return nil //nolint:nilerr // it is closed already
	}
	r.close()
	r.done.Wait()
	return r.conceal(r.client.Close())
}

// failed reports a failed call to Options.Failed.
func (r *Redis) failed(err error) error {
	r.onError()
	return r.conceal(err)
}

// conceal removes passwords from an error. Servers and proxies that do not support AUTH quote its
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

// jitter returns d, plus or minus up to a share of it.
func jitter(d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * (1 + share*(2*rand.Float64()-1)))
}

var _ keystore.SharedCache = (*Redis)(nil)

package sqldb

import (
	"context"
	"crypto/tls"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// maxConnect is how long a server may take to answer, unless the URL says otherwise.
const maxConnect = 5 * time.Second

// postgres is a database, with its latest URL.
type postgres struct {
	identity string
	config   atomic.Pointer[pgx.ConnConfig]
}

var (
	_ driver.Connector = (*connector)(nil)
	_ io.Closer        = (*connector)(nil)
)

func newPostgres(dsn string) (*postgres, error) {
	config, identity, err := parsePostgres(dsn)
	if err != nil {
		return nil, err
	}
	p := &postgres{identity: identity}
	p.config.Store(config)
	return p, nil
}

// current returns the configuration. If there are several servers, it divides the remaining time of
// the context among them.
func (p *postgres) current(ctx context.Context) *pgx.ConnConfig {
	config := p.config.Load()
	if config.ConnectTimeout != 0 {
		return config
	}
	config = config.Copy()
	config.ConnectTimeout = maxConnect
	hosts := map[string]bool{fmt.Sprint(config.Host, " ", config.Port): true}
	for _, other := range config.Fallbacks { // some are the same server without TLS
		hosts[fmt.Sprint(other.Host, " ", other.Port)] = true
	}
	if deadline, bounded := ctx.Deadline(); bounded && len(hosts) > 1 {
		config.ConnectTimeout = max(time.Millisecond,
			min(maxConnect, time.Until(deadline)/time.Duration(len(hosts))))
	}
	return config
}

// A connector opens the connections of one pool. If a request gives up while its connection is
// being opened, the connector continues and gives the connection to the next request. Otherwise a
// pool could not grow if opening a connection takes longer than a request may wait, as it does over
// a slow network: a flood of lookups would keep all open connections busy, and every other lookup
// would fail. With several servers, each gets only its part of the request's time.
//
// It opens or offers at most as many such connections at a time as the pool may have connections.
// So requests that all give up at once cannot use up the connections of the server.
type connector struct {
	*postgres
	open  context.Context // ends when the pool is closed
	close context.CancelFunc
	spare chan driver.Conn
	slots chan struct{} // one for each connection that is being opened or offered
}

// spareLife is how long a connection whose request has given up stays open.
const spareLife = 30 * time.Second

// connector returns a connector for a pool of at most conns connections.
func (p *postgres) connector(conns int) *connector {
	c := &connector{postgres: p, spare: make(chan driver.Conn), slots: make(chan struct{}, conns)}
	c.open, c.close = context.WithCancel(context.Background())
	return c
}

// Connect implements [driver.Connector].
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	select {
	case conn := <-c.spare:
		return conn, nil
	default:
	}
	select {
	case c.slots <- struct{}{}:
	case conn := <-c.spare:
		return conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	type opened struct {
		conn driver.Conn
		err  error
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	result, config := make(chan opened), c.current(ctx)
	go func() {
		defer func() { <-c.slots }()
		open, stop := context.WithCancel(c.open)
		defer stop()
		// Without a request, an attempt ends soon: the server may have another address by then.
		context.AfterFunc(ctx, func() { time.AfterFunc(maxConnect, stop) })
		conn, err := stdlib.GetConnector(*config).Connect(open)
		select {
		case result <- opened{conn, err}:
		case <-ctx.Done():
			if err == nil {
				c.offer(conn)
			}
		}
	}()
	select {
	case o := <-result:
		return o.conn, o.err
	case conn := <-c.spare:
		return conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// offer offers a connection to other requests, and closes it if none takes it in time.
func (c *connector) offer(conn driver.Conn) {
	expired := time.NewTimer(spareLife)
	defer expired.Stop()
	select {
	case c.spare <- conn:
	case <-expired.C:
		_ = conn.Close()
	case <-c.open.Done():
		_ = conn.Close()
	}
}

// Close is called when the pool is closed.
func (c *connector) Close() error {
	c.close()
	return nil
}

// Driver implements [driver.Connector].
func (*connector) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// Reconnect uses another URL of the same database for all new connections, for instance with
// another password.
func (d *DB) Reconnect(url string) error {
	config, identity, err := parsePostgres(url)
	switch {
	case err != nil:
		return err
	case d.postgres == nil || d.postgres.identity != identity:
		return fmt.Errorf("reconnecting to %s: another database is open", identity)
	}
	d.postgres.config.Store(config)
	return nil
}

// urlForm describes the URL in errors.
const urlForm = "postgres://USER:PASSWORD@HOST:PORT/DATABASE?OPTION=VALUE, where special " +
	"characters of the password are written as %XX"

// errPostgresURL does not quote the URL, because any part of a malformed URL may be the password.
var errPostgresURL = errors.New("this is not a PostgreSQL URL: it must be " + urlForm)

// PostgresIdentity returns the name of the database in a URL: USER@HOSTS/DATABASE and the options
// that determine the schema, such as search_path. It uses neither disk nor network. Neither the
// name nor the error shows a password.
func PostgresIdentity(dsn string) (string, error) {
	u, err := parseURL(dsn)
	if err != nil {
		return "", err
	}
	return u.identity(), nil
}

func parsePostgres(dsn string) (config *pgx.ConnConfig, identity string, err error) {
	u, err := parseURL(dsn)
	if err != nil {
		return nil, "", err
	}
	if config, err = pgx.ParseConfig(dsn); err != nil {
		return nil, "", u.parseError(err)
	}
	if err := adjust(config); err != nil {
		return nil, "", err
	}
	if config.ValidateConnect == nil {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "caddy-apikeys"
	}
	config.AfterConnect = forceSettings
	config.OnNotice = func(conn *pgconn.PgConn, n *pgconn.Notice) {
		if n.Routine == "SyncRepWaitForLSN" { // the text is in the server's language
			conn.CustomData()[unreplicated] = true
		}
	}
	return config, u.identity(), nil
}

// forceSettings sets synchronous_commit and the isolation for the lifetime of a connection.
// Otherwise someone could turn off the default of the role, the database or the server while the
// connection is open or before the next one, and a crash would lose committed changes. With a
// stricter default isolation, concurrent changes would fail instead of waiting for each other.
func forceSettings(ctx context.Context, conn *pgconn.PgConn) error {
	ctx, cancel := context.WithTimeout(ctx, maxConnect)
	defer cancel()
	_, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit',
			CASE WHEN commit IN ('off', 'local') THEN 'on' ELSE commit END, false),
			set_config('default_transaction_isolation', 'read committed', false)
		FROM current_setting('synchronous_commit') AS commit`).ReadAll()
	return err
}

// unreplicated marks a connection whose wait for the synchronous standbys was cancelled. PostgreSQL
// then answers COMMIT with a warning instead of an error
// (https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION).
const unreplicated = "unreplicated"

// replicated returns an error if the connection's last commit exists only on this server, and
// removes the mark.
func replicated(driverConn any) error {
	marks := driverConn.(*stdlib.Conn).Conn().PgConn().CustomData()
	if _, marked := marks[unreplicated]; !marked {
		return nil
	}
	delete(marks, unreplicated)
	return errUnreplicated
}

var errUnreplicated = errors.New("the wait for the synchronous standbys was cancelled: " +
	"the change exists only on this server and a failover may lose it; " +
	"repeat it when a standby is available")

// parseError returns the reason of a parse error without the URL, which the library quotes.
func (u *postgresURL) parseError(err error) error {
	const options = "invalid option in the PostgreSQL URL: "
	inner, ok := errors.AsType[*pgconn.ParseConfigError](err)
	if !ok {
		return errPostgresURL
	}
	_, reason, _ := strings.Cut(strings.TrimPrefix(inner.Error(), "cannot parse `"), "`: ")
	for _, secret := range []string{u.password, u.options["password"], u.options["sslpassword"]} {
		if secret != "" && strings.Contains(reason, secret) {
			return errPostgresURL
		}
	}
	return errors.New(options + reason)
}

// connectionLost reports whether an open connection was cut. A failure to connect does not count.
func connectionLost(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return false
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(e.Code, "57P0") && e.SeverityUnlocalized == "FATAL"
	}
	// The end of the context looks like a network timeout. Neither is a lost connection.
	if e, ok := errors.AsType[net.Error](err); ok {
		return !e.Timeout()
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed)
}

// SQLSTATEs of errors that are expected.
const (
	undefinedTable   = "42P01"
	lockNotAvailable = "55P03"
)

// sqlState is dialect.sqlState for PostgreSQL.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// explainPostgres adds advice to an error.
func explainPostgres(err error) error {
	var advice string
	code := sqlState(err)
	_, unreachable := errors.AsType[*pgconn.ConnectError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case unreachable && refusedParameter(code):
		advice = "PostgreSQL refuses a connection parameter from the URL or the environment"
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && code == "42704" {
			if _, rest, found := strings.Cut(e.Message, `"`); found {
				name, _, _ := strings.Cut(rest, `"`)
				advice = "unknown connection parameter " + name + ": correct it in the URL"
			}
		}
	case code == "25006", errors.Is(err, pgconn.ErrStandbyConnection),
		errors.Is(err, pgconn.ErrReadOnlyConnection):
		advice = "this PostgreSQL server is a standby or read-only, so its data may be outdated: " +
			"name the primary or all servers of the cluster, without a pooler that sends reads " +
			"to standbys, and check that default_transaction_read_only is off"
	case strings.HasPrefix(code, "28"):
		advice = "PostgreSQL refuses the user or its password"
	case code == "3D000":
		advice = "the database does not exist: create it with CREATE DATABASE"
	case code == "42501":
		advice = "the user needs the privilege CREATE on the schema, to create or upgrade a " +
			"deployment and to store usage, and privileges to read and write its tables"
	case code == undefinedTable, code == "42883":
		advice = "a table or function does not exist: check that the search_path names the schema " +
			"of the deployment"
	case code == "53100":
		advice = "the disk of the PostgreSQL server is full; nothing was changed: free space and " +
			"try again"
	case code == "53300":
		advice = "PostgreSQL has no connection left: raise its max_connections; each process " +
			"uses up to 20, and over a slow network up to 40"
	case code == lockNotAvailable:
		advice = adviceLocked
	case code == "40P01", code == "40001":
		advice = "the change conflicted with another transaction; nothing was changed: try again"
	case code == "25P03", code == "25P02":
		advice = "the change took too long and was rolled back; nothing was changed: try again"
	case code == "57014":
		advice = "PostgreSQL cancelled the statement because of the user's statement_timeout or an " +
			"operator; nothing was changed: try again, or raise the timeout with " +
			"ALTER ROLE … SET statement_timeout"
	case unknownParameter(err):
		advice = "a pooler refuses an option of the URL: PgBouncer does not support search_path; " +
			"set it with ALTER ROLE … IN DATABASE … SET search_path and remove it from the URL"
	case code == "42P05", code == "26000":
		advice = "a pooler runs statements in different sessions: make it keep the session " +
			"(PgBouncer: pool_mode = session), or connect without it"
	case strings.HasPrefix(code, "57P"):
		advice = "the PostgreSQL server is starting or stopping"
	case untrusted:
		advice = "the certificate of the PostgreSQL server is not valid for this host or not " +
			"signed by a trusted authority: name the authority with sslrootcert=FILE in the URL"
	case unreachable:
		advice = "PostgreSQL cannot be reached"
	default:
		return err
	}
	return advisedError{advice, oneLine{err}}
}

const adviceLocked = "another transaction holds the lock of all changes (the row of the table " +
	"head); nothing was changed: try again, or stop the program that has a transaction open"

// explainCommit says whether a commit failed or its result is unknown. A FATAL error ends the
// connection, possibly after the commit.
func explainCommit(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.SeverityUnlocalized == "ERROR" ||
		errors.Is(err, pgx.ErrTxCommitRollback) {
		return err
	}
	return fmt.Errorf("the connection was lost during the commit; the change may have been made: "+
		"check before you repeat it (%w)", oneLine{err})
}

// oneLine is an error whose text is one line. The driver puts each host on its own line.
type oneLine struct{ error }

func (e oneLine) Error() string {
	return strings.Join(strings.Fields(e.error.Error()), " ")
}

func (e oneLine) Unwrap() error { return e.error }

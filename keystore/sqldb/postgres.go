package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

const (
	// lockWait is how long a change waits for another, unless its context ends first. It is longer
	// than a transaction may be idle.
	lockWait = 15 * time.Second
	// maxIdle is how long a change may be idle between two statements. It keeps a process that is
	// stopped or cut off from blocking the changes of all others.
	maxIdle = 10 * time.Second
	// maxQuotaIdle is like maxIdle for grants of quotas. Other nodes that need the same quotas wait
	// for it.
	maxQuotaIdle = 2 * time.Second
	// firstWriteWait bounds the first write: see DB.firstWrite.
	firstWriteWait = 3 * time.Second
	// netInterval is how often the head is polled in addition to notifications, which may get lost.
	netInterval = 500 * time.Millisecond
	// oldestPostgres is the first version with pg_current_xact_id and gen_random_uuid.
	oldestPostgres = 13
)

// unforced is dialect.unforced for PostgreSQL.
const unforced = " AND set_config('synchronous_commit', 'off', true) <> ''"

var postgresDialect = dialect{
	goose:      goose.DialectPostgres,
	migrations: "postgres",
	// Each schema has its own lock. Its transaction is idle while the upgrade runs on another
	// connection.
	migrationLock: `SELECT set_config('idle_in_transaction_session_timeout', '0', true),
		pg_advisory_xact_lock(hashtext('caddy-apikeys schema'), hashtext(current_schema()))`,
	tableExists: "SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND " +
		"tablename = ?)",
	clock: "coalesce(CAST(? AS bigint), CAST(floor(extract(epoch FROM clock_timestamp()) * " +
		"1000000) AS bigint))",
	standbys: "current_setting('synchronous_standby_names') <> ''",
	timeline: "CASE WHEN NOT pg_is_in_recovery() " +
		"THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END",
	current: "on_primary()",
	begin:   beginChange(lockWait, maxIdle),
	// Rows of quota_grants are updated often. A sequential scan would read the old versions of all
	// rows.
	beginApart: fmt.Sprintf(`SELECT greatest(CAST(? AS bigint),
		CAST(floor(extract(epoch FROM clock_timestamp()) * 1000000) AS bigint), noted), noted
		FROM clock, (SELECT set_config('idle_in_transaction_session_timeout', '%d', true),
			set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
			set_config('enable_mergejoin', 'off', true) OFFSET 0) AS settings`,
		maxQuotaIdle.Milliseconds()),
	lockQuotas: " FOR UPDATE OF q",
	skipLocked: " FOR UPDATE SKIP LOCKED",
	// With the collation "C", lower converts ASCII letters only, as required.
	contains: `strpos(lower(%s COLLATE "C"), lower(CAST(? AS text) COLLATE "C")) > 0`,
	// ->> fails on a row with an escape that PostgreSQL cannot decode: \u0000, or half a surrogate
	// pair.
	hasMetadata: `CASE WHEN CAST(k.metadata AS text) !~* '\\u(0000|d[89a-f])'
		THEN k.metadata ->> CAST(? AS text) = ? ELSE false END`,
	bytewise: ` COLLATE "C"`,
	touchesOnly: `CASE WHEN json_typeof(a.namespaces) = 'array'
		THEN json_array_length(a.namespaces) > 0 AND NOT EXISTS (
			SELECT 1 FROM json_array_elements_text(a.namespaces) n
			WHERE n.value <> ALL (ARRAY(SELECT json_array_elements_text(CAST(? AS json))))) END`,
	// An array, so that PostgreSQL uses the index whatever length it estimates for the list.
	among: "= ANY (ARRAY(SELECT json_array_elements_text(CAST(? AS json))))",
	amongHex: "= ANY (ARRAY(SELECT decode(value, 'hex') FROM json_array_elements_text(CAST(? AS " +
		"json))))",
	fromHex:     func(text string) string { return "decode(" + text + ", 'hex')" },
	total:       "sum",
	pairs:       "json_each_text(CAST(? AS json))",
	items:       "json_array_elements(CAST(? AS json))",
	distinctIDs: "(SELECT DISTINCT unnest(ARRAY(%s)) AS id)",
	// A plan from a time with few keys reads the whole table. PostgreSQL itself analyzes a table
	// only minutes after it has grown, and never sees uncommitted rows.
	analyze:      "ANALYZE (SKIP_LOCKED) keys, key_limits, secrets, held, audit, touched",
	replan:       []any{pgx.QueryExecModeCacheDescribe},
	unforced:     unforced,
	lockKeys:     " FOR KEY SHARE OF k",
	bigint:       "BIGINT",
	usageMinutes: " WITH (fillfactor = 45)", // a batch updates all rows of a page at once
	shareUsage:   " FOR SHARE",
	lockUsage:    " FOR UPDATE",
	impatient:    "SELECT set_config('lock_timeout', '100', true)",
	copyRows:     copyRows,
	bind:         bindNumbered,
	text:         storable,
	isBusy:       connectionLost, // PostgreSQL itself waits for the lock
	isLost:       connectionLost,
	sqlState:     sqlState,
	commitError:  explainCommit,
	committed:    replicated,
	explain:      explainPostgres,
}

// OpenPostgres opens the deployment in the first existing schema of the connection's search_path. A
// schema contains one deployment, and OpenPostgres creates nothing outside it. The schema must
// exist; its tables are created if missing.
//
// url is postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?OPTION=VALUE with the options of
// libpq. Of several hosts it uses the first reachable one that is not a standby. No error shows a
// password.
//
// It uses one connection for writes, eight for lookups of keys, four for lists, one for last uses,
// one for quotas, one for usage, three for leases, the nodes' rows and polls of the head, and one
// that listens. No kind waits for another.
func OpenPostgres(ctx context.Context, url string) (*DB, error) {
	p, err := newPostgres(url)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	d := newDB(postgresDialect)
	d.postgres = p
	d.writer = openPostgres(p, 1)
	d.readers = openPostgres(p, readers)
	d.bulk = openPostgres(p, bulkReaders)
	d.uses = openPostgres(p, 1)
	d.quotas = openPostgres(p, 1)
	d.usage = openPostgres(p, 1)
	d.lease = openPostgres(p, 3)
	d.nodeRows = d.lease
	if err := d.start(ctx, checkPostgres); err != nil {
		_ = d.closePools() // the first error counts
		return nil, fmt.Errorf("opening the database %s: %w", p.identity, d.explain(ctx, err))
	}
	return d, nil
}

func openPostgres(p *postgres, conns int) *sql.DB {
	db := sql.OpenDB(p.connector(conns))
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxIdleTime(5 * time.Minute) // connections of the server are limited
	return db
}

// beginChange returns dialect.begin with these timeouts.
func beginChange(lockWait, maxIdle time.Duration) string {
	return fmt.Sprintf("SELECT greatest(CAST(? AS bigint), begin_change('%d', '%d'), (SELECT "+
		"noted FROM clock)), (SELECT noted FROM clock)",
		lockWait.Milliseconds(), maxIdle.Milliseconds())
}

// checkPostgres returns an error for settings that violate the contract of the database. It reads
// the user's value of synchronous_commit, because forceSettings has replaced the connection's.
func checkPostgres(ctx context.Context, d *DB) error {
	var schema sql.NullString
	var number int
	var version, commit, standbys, encoding, readOnly string
	err := d.writer.QueryRowContext(ctx, `SELECT current_schema(),
		CAST(current_setting('server_version_num') AS integer), current_setting('server_version'),
		(SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),
		current_setting('synchronous_standby_names'), current_setting('server_encoding'),
		(SELECT setting FROM pg_settings WHERE name = 'default_transaction_read_only')`).
		Scan(&schema, &number, &version, &commit, &standbys, &encoding, &readOnly)
	switch {
	case err != nil:
		return err
	case number < oldestPostgres*10000:
		return fmt.Errorf("the server is PostgreSQL %s, but version %d or later is required: "+
			"upgrade it, or name another server", version, oldestPostgres)
	case !schema.Valid:
		return errors.New("no schema in the search_path exists: create one with CREATE SCHEMA, " +
			"and name it with search_path=NAME in the URL")
	case readOnly == "on":
		return errors.New("default_transaction_read_only is on for this user, database or " +
			"server, so nothing can be changed: turn it off for this user with " +
			"ALTER ROLE … SET default_transaction_read_only = off")
	case commit == "off":
		return errors.New("synchronous_commit is off, so a completed revoke could be lost in a " +
			"crash: turn it on for this user with ALTER ROLE … SET synchronous_commit = on")
	case commit == "local" && standbys != "":
		return errors.New("synchronous_commit is local, so a completed revoke could be missing on " +
			"the standbys in synchronous_standby_names and be lost in a failover: " +
			"turn it on for this user with ALTER ROLE … SET synchronous_commit = on")
	case encoding != "UTF8":
		return fmt.Errorf("the database has the encoding %s: create one with ENCODING 'UTF8'",
			encoding)
	}
	return nil
}

// copyRows adds rows with COPY, which is much faster than a statement for each row, and is one
// statement for the triggers. It is called with the connection's lock held, so that the transaction
// is not rolled back meanwhile if its context ends.
func copyRows(
	ctx context.Context, driverConn any, table string, columns []string, rows [][]any,
) error {
	if ctx.Err() != nil { // the transaction may have been rolled back
		return ctx.Err()
	}
	_, err := driverConn.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{table}, columns,
		pgx.CopyFromRows(rows))
	return err
}

// bindNumbered replaces question marks by $1, $2, …. No query contains other question marks.
func bindNumbered(query string) string {
	var b strings.Builder
	n := 0
	for {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		n++
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
		query = after
	}
}

// storable replaces characters that PostgreSQL refuses in a text. A requested id may contain them:
// it is then not found.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

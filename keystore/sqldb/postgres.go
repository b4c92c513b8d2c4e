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
	// lockWait is how long a change waits for another's, unless its context ends first: longer than
	// a transaction may idle.
	lockWait = 15 * time.Second
	// maxIdle is how long a change may do nothing between two statements. A process that is
	// stopped, or cut off, then no longer holds up the changes of all others.
	maxIdle = 10 * time.Second
	// firstWriteWait bounds the first write, with which a start checks that it can write.
	firstWriteWait = 3 * time.Second
	// netInterval is how often the head is read where every change is told of: what was told may
	// have been lost.
	netInterval = 500 * time.Millisecond
	// oldestPostgres has pg_current_xact_id and a gen_random_uuid of its own.
	oldestPostgres = 13
)

const unforced = " AND set_config('synchronous_commit', 'off', true) <> ''"

var postgresDialect = dialect{
	goose:      goose.DialectPostgres,
	migrations: "postgres",
	// One lock a schema. The upgrade runs on another connection, which this transaction idly waits
	// for.
	migrationLock: `SELECT set_config('idle_in_transaction_session_timeout', '0', true),
		pg_advisory_xact_lock(hashtext('caddy-apikeys schema'), hashtext(current_schema()))`,
	tableExists: "SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND " +
		"tablename = ?)",
	clock: "coalesce(CAST(? AS bigint), CAST(floor(extract(epoch FROM clock_timestamp()) * " +
		"1000000) AS bigint))",
	standbys: "current_setting('synchronous_standby_names') <> ''",
	timeline: "CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), " +
		"8) END",
	current: "on_primary()",
	begin:   beginChange(lockWait, maxIdle),
	// "C" knows ASCII only, as it should
	contains: `strpos(lower(%s COLLATE "C"), lower(CAST(? AS text) COLLATE "C")) > 0`,
	// ->> fails on a row with an escape that PostgreSQL cannot decode: \u0000, or half a surrogate
	// pair.
	hasMetadata: `CASE WHEN CAST(k.metadata AS text) !~* '\\u(0000|d[89a-f])' THEN k.metadata ->> CAST(? AS text) = ? ELSE false END`,
	bytewise:    ` COLLATE "C"`,
	touchesOnly: `CASE WHEN json_typeof(a.namespaces) = 'array' THEN json_array_length(a.namespaces) > 0 AND NOT EXISTS (
		SELECT 1 FROM json_array_elements_text(a.namespaces) n WHERE n.value <> ALL (ARRAY(SELECT json_array_elements_text(CAST(? AS json))))) END`,
	// As arrays, so that the index is used whatever PostgreSQL takes the length of the list for.
	among: "= ANY (ARRAY(SELECT json_array_elements_text(CAST(? AS json))))",
	amongHex: "= ANY (ARRAY(SELECT decode(value, 'hex') FROM json_array_elements_text(CAST(? AS " +
		"json))))",
	pairs: "json_each_text(CAST(? AS json))",
	few:   "(SELECT DISTINCT unnest(ARRAY(%s)) AS id)",
	// A plan that was made when there were few keys reads the whole table. PostgreSQL looks at a
	// table by itself only minutes after it has grown, and not at all at what a transaction has not
	// committed.
	analyze:  "ANALYZE (SKIP_LOCKED) keys, secrets, held, audit, touched",
	anew:     []any{pgx.QueryExecModeCacheDescribe},
	unforced: unforced,
	// The keys are locked so that none is deleted meanwhile and leaves its last use behind.
	recordUse: `INSERT INTO last_uses (key_id, used_at)
		SELECT k.id, CAST(u.value AS bigint) FROM json_each_text(CAST(? AS json)) u JOIN keys k ON k.id = u.key` + unforced + `
		ORDER BY k.id FOR KEY SHARE OF k
		ON CONFLICT (key_id) DO UPDATE SET used_at = excluded.used_at WHERE excluded.used_at > last_uses.used_at`,
	copyRows:    copyRows,
	bind:        bindNumbered,
	text:        storable,
	isBusy:      connectionLost, // for the lock it waits by itself
	isLost:      connectionLost,
	commitError: explainCommit,
	committed:   replicated,
	explain:     explainPostgres,
}

// OpenPostgres opens the deployment in the schema that comes first in the search_path of a
// connection: one schema holds one deployment, and nothing is made outside it. The schema must be
// there; its tables are made if they are not.
//
// url is postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?OPTION=VALUE with the options of
// libpq: of several hosts the first one that is reached and no standby is used. No error shows a
// password.
//
// The connections: one writes, eight look up keys, four read lists, one notes last uses, three are
// for leases, the nodes' rows and a look at the head, and one listens. None waits for another kind.
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
	d.lease = openPostgres(p, 3)
	d.beats = d.lease
	if err := d.start(ctx, checkPostgres); err != nil {
		d.closePools()
		return nil, fmt.Errorf("opening the database %s: %w", p.identity, d.explain(ctx, err))
	}
	return d, nil
}

func openPostgres(p *postgres, conns int) *sql.DB {
	db := sql.OpenDB(p)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxIdleTime(5 * time.Minute) // the server has not many to give
	return db
}

func beginChange(lockWait, maxIdle time.Duration) string {
	return fmt.Sprintf("SELECT greatest(CAST(? AS bigint), begin_change('%d', '%d'), (SELECT "+
		"noted FROM clock))",
		lockWait.Milliseconds(), maxIdle.Milliseconds())
}

// checkPostgres refuses settings that would break a promise later. It reads the user's value of
// synchronous_commit, because keepCommitting has replaced the connection's.
func checkPostgres(ctx context.Context, d *DB) error {
	var schema sql.NullString
	var number int
	var version, commit, standbys, encoding, readOnly string
	err := d.writer.QueryRowContext(ctx, `SELECT current_schema(), CAST(current_setting('server_version_num') AS integer), current_setting('server_version'),
		(SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),
		current_setting('synchronous_standby_names'), current_setting('server_encoding'),
		(SELECT setting FROM pg_settings WHERE name = 'default_transaction_read_only')`).
		Scan(&schema, &number, &version, &commit, &standbys, &encoding, &readOnly)
	switch {
	case err != nil:
		return err
	case number < oldestPostgres*10000:
		return fmt.Errorf("this server is PostgreSQL %s, and %d is the oldest that will do: "+
			"upgrade it, or name another", version, oldestPostgres)
	case !schema.Valid:
		return errors.New("no schema that the search_path names is there: CREATE SCHEMA makes " +
			"one, and search_path=NAME in the URL names it")
	case readOnly == "on":
		return errors.New("default_transaction_read_only is on for this user, database or server, " +
			"so nothing could be changed: " +
			"turn it off for this user, with ALTER ROLE … SET default_transaction_read_only = off")
	case commit == "off":
		return errors.New("synchronous_commit is off, so a revoke that was answered could be lost " +
			"in a crash: turn it on for this user, with ALTER ROLE … SET synchronous_commit = on")
	case commit == "local" && standbys != "":
		return errors.New("synchronous_commit is local, so a revoke that was answered could be " +
			"missing on the standbys in synchronous_standby_names and be lost in a failover: " +
			"turn it on for this user, with ALTER ROLE … SET synchronous_commit = on")
	case encoding != "UTF8":
		return fmt.Errorf("the database has the encoding %s: make one with ENCODING 'UTF8'",
			encoding)
	}
	return nil
}

// copyRows adds rows by COPY, which is faster by far than as many statements, and one to the
// triggers. It is called with the connection's lock held, so that the transaction, should its
// context end, is not rolled back before.
func copyRows(
	ctx context.Context, driverConn any, table string, columns []string, rows [][]any,
) error {
	if ctx.Err() != nil { // it may have been rolled back
		return ctx.Err()
	}
	_, err := driverConn.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{table}, columns,
		pgx.CopyFromRows(rows))
	return err
}

// bindNumbered makes $1, $2, … of the question marks. No query has one for another reason.
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

// storable replaces what PostgreSQL refuses in a text. An id that someone asks for may hold
// anything; with the replacement it is simply not there.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}

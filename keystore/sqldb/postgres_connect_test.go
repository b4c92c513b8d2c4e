//go:build unix

package sqldb

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
)

// TestPostgresListener: changes are reported at once. So are those that may have been missed
// because the connection was cut or the schema was restored.
func TestPostgresListener(t *testing.T) {
	s := newPostgresStore(t)
	deploy := func() {
		t.Helper()
		d := openOnce(t, s.URL(s.schema))
		if _, err := d.Deployment(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	deploy()
	p, err := newPostgres(s.URL(s.schema) + "&application_name=listener")
	if err != nil {
		t.Fatal(err)
	}
	fired := make(chan struct{}, 1)
	ctx, stop := context.WithCancel(t.Context())
	var listener sync.WaitGroup
	listener.Go(func() {
		p.listen(ctx, func() {
			select {
			case fired <- struct{}{}:
			case <-ctx.Done():
			}
		})
	})
	t.Cleanup(listener.Wait)
	t.Cleanup(stop)
	await := func(change string) {
		t.Helper()
		select {
		case <-fired:
		case <-time.After(time.Minute):
			t.Fatal("not reported: ", change)
		}
	}
	await("earlier changes")
	for name, disturb := range map[string]func() error{
		"a cut": func() error {
			_, err := s.Query("",
				"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "+
					"'listener'")
			return err
		},
		"a restore": func() error {
			return s.Server.Exec("",
				fmt.Sprintf("BEGIN; DROP SCHEMA %[1]s CASCADE; CREATE SCHEMA %[1]s; COMMIT",
					s.schema))
		},
	} {
		if err := disturb(); err != nil {
			t.Fatal(name, ": ", err)
		}
		await("missed changes after " + name)
		if name == "a restore" {
			deploy()
			await("the restored tables")
		}
		if err := s.Exec("UPDATE namespaces SET name = 'after " + name + "'"); err != nil {
			t.Fatal(err)
		}
		await("a change after " + name)
	}
}

// TestPostgresRestart: after a crash of the server, committed changes exist and all calls work.
func TestPostgresRestart(t *testing.T) {
	ctx := context.Background()
	s := postgrestest.StartFor(t)
	d := openOnce(t, s.URL(""))
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	at, err := d.Update(ctx,
		func(tx keystore.Tx) error { return tx.InsertNamespace(&keystore.Namespace{ID: "n"}) })
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Update(ctx, func(tx keystore.Tx) error {
		if err := tx.InsertNamespace(&keystore.Namespace{ID: "lost"}); err != nil {
			return err
		}
		return s.Halt()
	})
	if err == nil || strings.Contains(err.Error(), postgrestest.Password) {
		t.Fatal(err)
	}
	_, err = d.Renew(ctx, "nobody", keystore.Position{})
	if err == nil || strings.Contains(err.Error(), postgrestest.Password) {
		t.Fatal(err)
	}
	t.Log(err)
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		h, err := d.Renew(ctx, "nobody", keystore.Position{})
		if err == nil && h.Revision == at {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(h, err)
		}
	}
	if _, err := d.Update(ctx,
		func(tx keystore.Tx) error { return tx.DeleteNamespace("n") }); err != nil {
		t.Fatal(err)
	}
}

// TestPostgresCutConnections: calls do not fail if connections of the pool were cut.
func TestPostgresCutConnections(t *testing.T) {
	ctx := context.Background()
	s := newPostgresStore(t)
	d := openOnce(t, s.URL(s.schema)+"&application_name=cut")
	if _, err := d.Deployment(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Renew": func() error {
			_, err := d.Renew(ctx, "i", keystore.Position{})
			return err
		},
		"Nodes":   func() error { _, err := d.Nodes(ctx); return err },
		"Changes": func() error { _, err := d.Changes(ctx, 0, 0); return err },
		"KeyByDigest": func() error {
			_, _, err := d.KeyByDigest(ctx, keystore.Digest{})
			return err
		},
		"Keys": func() error {
			_, _, err := d.Keys(ctx, keystore.KeyFilter{}, "", 1)
			return err
		},
		"Policy": func() error { _, err := d.Policy(ctx, keystore.Nowhere); return err },
		"Acknowledge": func() error {
			return d.Acknowledge(ctx, "i", keystore.Position{Revision: 1})
		},
		"Reserve": func() error {
			_, err := d.Reserve(ctx, []keystore.Reservation{{Quota: "q", End: time.Now()}})
			return err
		},
		"Update": func() error {
			_, err := d.Update(ctx, func(tx keystore.Tx) error {
				_, err := tx.Policy(keystore.Nowhere)
				return err
			})
			return err
		},
	} {
		var wg sync.WaitGroup
		for range 2 * readers { // fills the pools
			wg.Go(func() {
				if err := call(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		const cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity " +
			"WHERE application_name = 'cut'"
		if _, err := s.Query("", cut); err != nil {
			t.Fatal(err)
		}
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPostgresOpenErrors(t *testing.T) {
	s := postgresServer(t)
	const secret, unreachable = "hunter2", "cannot be reached"
	// This listener accepts connections and never answers.
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	for _, row := range []struct{ url, want string }{
		{"", "this is not a PostgreSQL URL"},
		{"host=localhost password=" + secret, "this is not a PostgreSQL URL"},
		{"mysql://u:" + secret + "@h/db", "this is not a PostgreSQL URL"},
		{"postgres://u:" + secret + "/x@h:5432/db", "this is not a PostgreSQL URL"},
		{"postgres://u:a#" + secret + "@h/db", "this is not a PostgreSQL URL"},
		{"postgres://u:%zz" + secret + "@h/db", "this is not a PostgreSQL URL"},
		{"postgres://u:x@" + secret + "@h/db", "this is not a PostgreSQL URL"},
		{"postgres://u:x@h:" + secret + "/db", "this is not a PostgreSQL URL"},
		{"postgres://u:" + secret + "@[::1/db", "this is not a PostgreSQL URL"},
		{"postgres://u:" + secret + "@h/db?" + secret, "this is not a PostgreSQL URL"},
		{"postgres://u:" + secret + "@h/db?hostaddr=127.0.0.1",
			"connection parameter hostaddr is not supported"},
		{"postgres://u:" + secret + "@h/db?requirepeer=" + secret,
			"connection parameter requirepeer is not supported"},
		{"postgres://u:" + secret + "@h/db?sslcrl=x",
			"connection parameter sslcrl is not supported"},
		{"postgres://u:" + secret + "@h/db?gssencmode=require",
			"gssencmode must be disable or prefer"},
		{"postgres://u:" + secret + "@h/db?keepalives_idle=soon",
			"keepalives_idle must be a whole number"},
		{"postgres://u:" + secret + "@h/db?load_balance_hosts=" + secret,
			"load_balance_hosts must be disable or random"},
		{"postgres://u:" + secret + "@h/db?ssl_min_protocol_version=2",
			"ssl_min_protocol_version must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3"},
		{"postgres://u:" + secret + "@h/db?client_encoding=latin1",
			"client_encoding must be utf8 or auto"},
		{s.URL("") + "?ssl_mode=require", "unknown connection parameter ssl_mode"},
		{s.URL("") + "?statement_timeout=soon", "PostgreSQL refuses a connection parameter"},
		{s.URL("") + "?shared_buffers=1MB", "PostgreSQL refuses a connection parameter"},
		{"postgres://u:" + secret + "@h/db?sslmode=" + secret, "sslmode is invalid"},
		{"postgres://u:" + secret + "@h/db?sslmode=sometimes", "sslmode"},
		{"postgres://u:" + secret + "@h/db?target_session_attrs=best", "target_session_attrs"},
		{"postgres://u:" + secret + "@h/db?sslmode=verify-full&sslrootcert=/no/such/file",
			"/no/such/file"},
		{"postgres://u:" + secret + "@" + s.Address() + "/db", "refuses the user or its password"},
		{"postgres://postgres:" + secret + "@" + s.Address() + "/postgres",
			"refuses the user or its password"},
		{"postgres://u:" + secret + "@127.0.0.1:1/db", unreachable},
		{"postgres://u:" + secret + "@127.0.0.1:1,127.0.0.1:2/db", unreachable},
		{"postgres://u:" + secret + "@[::1]:1,127.0.0.1:2/db", unreachable},
		{"postgresql://u:" + secret + "@%2Fno%2Fsuch%2Fdir:5432/db", unreachable},
		{"postgres://u:" + secret + "@" + hung.Addr().String() + "/db?connect_timeout=1",
			unreachable},
		{"postgres://u:" + secret + "@no-such-host.invalid/db", unreachable},
		{"postgres:///db?host=/no/such/directory&user=u&password=" + secret, unreachable},
		{"postgres://u:" + secret + "@127.0.0.1:1," + s.Address() + "/db",
			"refuses the user or its password"},
		{s.URL("") + "?sslmode=require", "server refused TLS connection"},
		{strings.Replace(s.URL(""), "/postgres?", "/none?", 1) + "?search_path=no_such_schema",
			"no schema in the search_path exists"},
		{strings.TrimSuffix(s.URL(""), "postgres") + "none", "create it with CREATE DATABASE"},
	} {
		d, err := OpenPostgres(context.Background(), row.url)
		if err == nil {
			d.Close()
			t.Errorf("opened with %q wanted", row.want)
			continue
		}
		text := err.Error()
		if !strings.Contains(text, row.want) || strings.Contains(text, secret) ||
			strings.Contains(text, "\n") || strings.Contains(text, "p%40ss") {
			t.Errorf("%s\nwant %q, on one line, without the password", text, row.want)
		}
		if Unreachable(err) != (row.want == unreachable) {
			t.Errorf("unreachable is %v for %s", Unreachable(err), text)
		}
	}
}

// TestPostgresSettings: settings that violate the contract are refused. A function in front of the
// real one fakes them.
func TestPostgresSettings(t *testing.T) {
	s := newPostgresStore(t)
	for _, row := range []struct{ commit, faked, want string }{
		{"on", "('server_version_num', '120022'), ('server_version', '12.22')",
			"the server is PostgreSQL 12.22, but version 13 or later is required"},
		{"off", "('', '')", "synchronous_commit is off"},
		{"local", "('synchronous_standby_names', 'ANY 1 (a, b)')",
			"ALTER ROLE … SET synchronous_commit = on"},
		{"local", "('synchronous_standby_names', '')", ""},
		{"remote_write", "('synchronous_standby_names', 'ANY 1 (a, b)')", ""},
	} {
		if err := s.Exec(`
			CREATE OR REPLACE FUNCTION current_setting(text) RETURNS text LANGUAGE sql AS $$
			SELECT coalesce(
				(SELECT value FROM (VALUES ` + row.faked + `) AS v (name, value) WHERE name = $1),
				pg_catalog.current_setting($1)) $$`); err != nil {
			t.Fatal(err)
		}
		d, err := OpenPostgres(t.Context(),
			s.URL(s.schema+",pg_catalog")+"&synchronous_commit="+row.commit)
		if err == nil {
			err = d.Close()
		}
		if row.want == "" && err != nil || row.want != "" &&
			(err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%+v: %v", row, err)
		}
	}
}

// TestPostgresPooler: errors of a wrongly configured pooler have advice. These are from PgBouncer
// 1.18.
func TestPostgresPooler(t *testing.T) {
	for want, e := range map[string]pgconn.PgError{
		"ALTER ROLE": {Severity: "FATAL", Code: "08P01",
			Message: "unsupported startup parameter: search_path"},
		"pool_mode = session": {Severity: "ERROR", Code: "42P05",
			Message: `prepared statement "stmtcache_1" already exists`},
		"pool_mode = session)": {Severity: "ERROR", Code: "26000",
			Message: `prepared statement "stmtcache_1" does not exist`},
	} {
		if err := explainPostgres(&e); !strings.Contains(err.Error(), want) || Unreachable(err) {
			t.Error(err)
		}
	}
	if err := explainPostgres(&pgconn.PgError{Severity: "FATAL", Code: "08P01",
		Message: "server login has been failing"}); !Unreachable(err) {
		t.Errorf("not unreachable: %v", err)
	}
}

// TestPostgresTemporaryErrors: errors caused by other clients or by a lack of resources count as
// unreachable.
func TestPostgresTemporaryErrors(t *testing.T) {
	for _, code := range []string{"53100", "53200", "53300", "55P03", "57014", "57P03", "40P01",
		"25P03"} {
		err := fmt.Errorf("opening: %w",
			explainPostgres(&pgconn.PgError{Severity: "ERROR", Code: code}))
		if !Unreachable(err) {
			t.Errorf("not unreachable: %v", err)
		}
	}
	if err := fmt.Errorf("opening: %w", errUnreplicated); !Unreachable(err) {
		t.Errorf("not unreachable: %v", err)
	}
	err := explainPostgres(&pgconn.PgError{Severity: "ERROR", Code: "42501"})
	if Unreachable(err) || Advice(err) == "" {
		t.Errorf("unreachable, or without advice: %v", err)
	}
}

func TestPostgresIdentity(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://u:hunter2@Host:5432/db":                               "u@host:5432/db",
		"postgresql://u:other@host:5432/db?sslmode=disable":               "u@host:5432/db",
		"postgres://u@a:1,b:2/db?search_path=keys&password=hunter2":       "u@a:1,b:2/db search_path=keys",
		"postgres:///db?host=/run/postgresql&user=me&sslpassword=hunter2": "me@/run/postgresql/db",
		"postgresql://u:hunter2@%2Frun%2FPostgres:5432/db":                "u@/run/Postgres:5432/db",
		"postgres://u:hunter2@[::1]:1,127.0.0.1:2/db":                     "u@[::1]:1,127.0.0.1:2/db",
		"postgres://u@h?search_path=a&search_path=b+c":                    "u@h/ search_path=b+c",
		"postgres://u@h/a%20b?dbname=c%20d":                               "u@h/c d",
	} {
		if got, err := PostgresIdentity(url); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
}

// TestPostgresParameters: URLs that psql accepts open the database, and their options are effective.
func TestPostgresParameters(t *testing.T) {
	s := newPostgresStore(t)
	plain := s.URL(s.schema)
	host, port, err := net.SplitHostPort(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	for url, application := range map[string]string{
		plain + "&gssencmode=prefer&load_balance_hosts=random&sslcompression=0" +
			"&client_encoding=auto&replication=off": "caddy-apikeys",
		plain + "&keepalives=1&keepalives_idle=10&keepalives_interval=5" +
			"&keepalives_count=3&connect_timeout=3": "caddy-apikeys",
		plain + "&keepalives=0&ssl_min_protocol_version=TLSv1.3" +
			"&fallback_application_name=mine": "mine",
		plain + "&fallback_application_name=mine&application_name=first": "first",
		strings.Replace(plain, s.Address(), fmt.Sprintf("%s:1,%s:%s", host, host, port),
			1): "caddy-apikeys",
	} {
		d := openOnce(t, url)
		var got string
		if err := d.readers.QueryRowContext(t.Context(),
			"SELECT current_setting('application_name')").Scan(&got); err != nil ||
			got != application {
			t.Errorf("%s: %q, %v", url, got, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	for name, want := range map[string]net.KeepAliveConfig{
		"keepalives=0": {},
		"keepalives_idle=7&keepalives_interval=2&keepalives_count=4": {Enable: true,
			Idle: 7 * time.Second, Interval: 2 * time.Second, Count: 4},
		"keepalives=1&keepalives_idle=0": {Enable: true},
	} {
		u, err := parseURL("postgres://u@h/db?" + name)
		if err != nil {
			t.Fatal(err)
		}
		if got := keepAlive(u.options); got != want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestPostgresReadOnlyByDefault: the error names the setting that makes every transaction
// read-only.
func TestPostgresReadOnlyByDefault(t *testing.T) {
	s := newPostgresStore(t)
	_, err := OpenPostgres(t.Context(), s.URL(s.schema)+"&default_transaction_read_only=on")
	if err == nil || !strings.Contains(err.Error(),
		"default_transaction_read_only is on for this user") ||
		strings.Contains(err.Error(), "standby") || Unreachable(err) {
		t.Error(err)
	}
	d := openOnce(t, s.URL(s.schema))
	if _, err := d.Deployment(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := d.writer.ExecContext(t.Context(),
		"SET default_transaction_read_only = on"); err != nil {
		t.Fatal(err)
	}
	_, err = d.Update(t.Context(),
		func(tx keystore.Tx) error { return tx.InsertNamespace(&keystore.Namespace{ID: "n"}) })
	if err == nil || !strings.Contains(err.Error(), "default_transaction_read_only") {
		t.Error(err)
	}
}

// TestPostgresReconnect: the password changes while the process runs.
func TestPostgresReconnect(t *testing.T) {
	ctx := context.Background()
	s := newPostgresStore(t)
	if err := s.Exec("CREATE ROLE rotating LOGIN PASSWORD 'first'; GRANT CREATE, USAGE ON SCHEMA " +
		s.schema + " TO rotating"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Exec("DROP OWNED BY rotating; DROP ROLE rotating"); err != nil {
			t.Error(err)
		}
	})
	url := func(password string) string {
		return "postgres://rotating:" + password + "@" + s.Address() + "/postgres?search_path=" +
			s.schema
	}
	d := openOnce(t, url("first"))
	if err := s.Exec("ALTER ROLE rotating PASSWORD 'second'"); err != nil {
		t.Fatal(err)
	}
	d.lease.SetMaxIdleConns(0)
	if _, err := d.Nodes(ctx); err == nil ||
		!strings.Contains(err.Error(), "refuses the user or its password") {
		t.Fatal(err)
	}
	if err := d.Reconnect(s.URL("")); err == nil {
		t.Fatal("reconnected to another database")
	}
	if err := d.Reconnect(url("second")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Nodes(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestPostgresSlowConnections: a request that gives up before its connection is open leaves it to
// the next one. Otherwise a slow network would keep a busy pool from growing. However many requests
// give up, the pool opens no more connections at a time than it may have.
func TestPostgresSlowConnections(t *testing.T) {
	s := newPostgresStore(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	clients := make(chan net.Conn, 100)
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			clients <- client
		}
	}()
	serve := func(client net.Conn) {
		server, err := net.Dial("tcp", s.Address())
		if err != nil {
			t.Error(err)
			return
		}
		for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
			go func() {
				defer pair[0].Close()
				_, _ = io.Copy(pair[0], pair[1])
			}()
		}
	}
	p, err := newPostgres(s.Server.URL(s.schema, l.Addr().String()) + "&sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	pool := openPostgres(p, 2)
	defer pool.Close()
	for range 3 {
		brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := pool.Conn(brief)
		cancel()
		if !Unreachable(err) {
			t.Fatal("a request before the connection is open:", err)
		}
	}
	if n := len(clients); n > 2 {
		t.Errorf("a pool of 2 opens %d connections", n)
	}
	serve(<-clients) // the connection of the first request, and no other
	for range 2 {    // the pool keeps it
		var one int
		if err := pool.QueryRowContext(t.Context(), "SELECT 1").Scan(&one); err != nil || one != 1 {
			t.Fatal(one, err)
		}
	}
}

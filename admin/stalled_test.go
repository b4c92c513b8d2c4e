//go:build unix

package admin_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// stalledClients exceeds the number of read connections to the database.
const stalledClients = 16

// TestStalledClients checks that clients that do not read an export or do not finish an import do
// not block others: uncached keys are looked up, lists are answered, and a revoke completes.
func TestStalledClients(t *testing.T) {
	for name, empty := range map[string]func(t *testing.T) keystore.Database{
		"SQLite": func(t *testing.T) keystore.Database {
			db, err := sqldb.OpenSQLite(context.Background(), fleet.File(t))
			if err != nil {
				t.Fatal(err)
			}
			return db
		},
		"PostgreSQL": func(t *testing.T) keystore.Database {
			s := postgrestest.StartFor(t)
			db, err := sqldb.OpenPostgres(context.Background(), s.URL(s.Schema(t)))
			if err != nil {
				t.Fatal(err)
			}
			return db
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := empty(t)
			d := openOn(t, db)
			fillAudit(t, db)
			for name, stall := range map[string]func(*testing.T, *httptest.Server) error{
				"ExportHTTP1": stallExportsHTTP1, "ExportHTTP2": stallExportsHTTP2,
				"Import": stallImports,
			} {
				t.Run(name, func(t *testing.T) {
					s := d.serve(t)
					if err := stall(t, s); err != nil {
						t.Error("before the client stalls: ", err)
					}
					key := d.mint(t, root, readOnly)
					if a, err := d.keys.Lookup(t.Context(), key.Token, time.Now()); err != nil ||
						a.Outcome != keystore.OK {
						t.Errorf("a key that is not cached: %v, %v", a.Outcome, err)
					}
					d.call(t, root, "GET", "/keys", nil).into(t, 200, new(api.Keys))
					d.call(t, root, "GET", "/audit", nil).into(t, 200, new(api.AuditRows))
					var revoked api.KeyChanged
					d.call(t, root, "POST", "/keys/"+key.Key.ID+"/revoke", nil).into(t, 200,
						&revoked)
					if !revoked.Propagation.Complete {
						t.Errorf("the revoke is not complete: %+v", revoked.Propagation)
					}
				})
			}
		})
	}
}

// fillAudit creates an audit log that exceeds the buffers of stalledClients sockets.
func fillAudit(t *testing.T, db keystore.Database) {
	t.Helper()
	_, err := db.Update(t.Context(), func(tx keystore.Tx) error {
		rows := make([]*keystore.AuditRow, 4000)
		for i := range rows {
			rows[i] = &keystore.AuditRow{Seq: int64(i + 1), At: tx.Now(), Action: "key.edit",
				After: `"` + strings.Repeat("x", 500) + `"`}
		}
		return tx.AppendAudit(rows)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestStalledExportEnds checks that an export stops, and logs it, if its client does not read a
// page in time.
func TestStalledExportEnds(t *testing.T) {
	for name, stall := range map[string]func(*testing.T, *httptest.Server) error{
		"HTTP1": stallExportsHTTP1, "HTTP2": stallExportsHTTP2} {
		t.Run(name, func(t *testing.T) {
			db, err := sqldb.OpenSQLite(context.Background(), fleet.File(t))
			if err != nil {
				t.Fatal(err)
			}
			d := openOn(t, db)
			fillAudit(t, db)
			d.SetWriteTimeout(100 * time.Millisecond)
			s := d.serve(t)
			// A client that is too busy to read anything in time has stalled, too. Its connection
			// ends within a TLS record.
			_ = stall(t, s)
			d.answering.Wait()
			if !strings.Contains(d.log.String(), "writing the audit log to the client") {
				t.Error(d.log)
			}
		})
	}
}

// serve serves the interface to root on a socket with a small send buffer.
func (d *testAPI) serve(t *testing.T) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.answering.Add(1)
		defer d.answering.Done()
		d.ServeHTTP(w, r.WithContext(admin.WithCaller(r.Context(), root)))
	}))
	s.EnableHTTP2 = true
	s.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if secure, ok := conn.(*tls.Conn); ok {
			conn = secure.NetConn()
		}
		_ = conn.(*net.TCPConn).SetWriteBuffer(4096)
		return ctx
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// dial connects to a server until the end of the test.
func dial(t *testing.T, s *httptest.Server, protocol string) net.Conn {
	t.Helper()
	plain, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = plain.(*net.TCPConn).SetReadBuffer(4096)
	t.Cleanup(func() { plain.Close() })
	_ = plain.SetDeadline(time.Now().Add(20 * time.Second))
	return tls.Client(plain, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
}

// eachStalled runs f for each client concurrently.
func eachStalled(t *testing.T, s *httptest.Server, f func(net.Conn) error) error {
	errs := make([]error, stalledClients)
	var wg sync.WaitGroup
	for i := range errs {
		conn := dial(t, s, "http/1.1")
		wg.Go(func() { errs[i] = f(conn) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// stallExportsHTTP1 reads only the header of each answer.
func stallExportsHTTP1(t *testing.T, s *httptest.Server) error {
	return eachStalled(t, s, func(conn net.Conn) error {
		fmt.Fprintf(conn, "GET %s/audit/export HTTP/1.1\r\nHost: localhost\r\n\r\n", api.Prefix)
		answer, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s", answer.Status)
		}
		return err
	})
}

// stallExportsHTTP2 leaves all streams of one connection waiting for flow control window.
func stallExportsHTTP2(t *testing.T, s *httptest.Server) error {
	conn := dial(t, s, "h2")
	_, _ = io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := range stalledClients {
		block.Reset()
		for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"},
			{":authority", "localhost"}, {":path", api.Prefix + "/audit/export"}} {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1),
			BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	}
	for started := map[uint32]bool{}; len(started) < stalledClients; {
		frame, err := framer.ReadFrame()
		if err != nil {
			return fmt.Errorf("%d of %d exports have started: %w", len(started), stalledClients, err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			started[f.StreamID] = true
			if f.PseudoValue("status") != "200" {
				return fmt.Errorf("an export: %s", f.PseudoValue("status"))
			}
		case *http2.RSTStreamFrame: // the stream has ended
			started[f.StreamID] = true
		}
	}
	return nil
}

// stallImports sends the beginning of each body as soon as the server requests it.
func stallImports(t *testing.T, s *httptest.Server) error {
	return eachStalled(t, s, func(conn net.Conn) error {
		fmt.Fprintf(conn,
			"POST %s/keys/import?partial=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: "+
				"%s\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n", api.Prefix,
			api.NDJSON)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err == nil && !strings.Contains(line, "100 Continue") {
			err = fmt.Errorf("%q", line)
		}
		fmt.Fprintf(conn, `{"name":"a","access":"read_only","token":"a-credential-that-is-old"}`+
			"\n"+`{"name":`)
		return err
	})
}

// TestManySearches checks that slow searches of one member do not block others: uncached keys are
// looked up, lists of other members are answered, and the searches complete in the end.
func TestManySearches(t *testing.T) {
	s := postgrestest.StartFor(t)
	schema := s.Schema(t)
	db, err := sqldb.OpenPostgres(t.Context(), s.URL(schema))
	if err != nil {
		t.Fatal(err)
	}
	d := openOn(t, db)
	d.call(t, root, "POST", "/namespaces", `{"id":"acme"}`).into(t, 201, new(api.Namespace))
	_, member := d.member(t, `{"name":"Ada","grants":[{"namespace":"acme","roles":["viewer"]}]}`)
	_, other := d.member(t, `{"name":"Bea","grants":[{"namespace":"acme","roles":["viewer"]}]}`)
	keys := make([]api.Minted, 5)
	for i := range keys {
		keys[i] = d.mint(t, root, `{"name":"CI","namespace":"acme","access":"read_only"}`)
	}

	operator, err := sql.Open("pgx", s.URL(schema))
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close()
	lock, err := operator.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Rollback()
	// Lists by role read this table. Key lookups do not.
	if _, err := lock.Exec("LOCK TABLE held IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	var searches sync.WaitGroup
	for range 64 {
		searches.Go(func() {
			d.call(t, member, "GET", "/keys?namespace=acme&role=nobody", nil).into(t, 200,
				new(api.Keys))
		})
	}
	for waiting := ""; waiting != "2"; { // the limit of one member
		if waiting, err = s.Query("",
			"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"); err != nil {
			t.Fatal(err)
		}
		if waiting > "2" {
			t.Errorf("%s searches of one member are running, want 2", waiting)
			break
		}
	}
	for _, key := range keys {
		if a, err := d.keys.Lookup(t.Context(), key.Token, time.Now()); err != nil ||
			a.Outcome != keystore.OK {
			t.Fatalf("a key that is not cached: %v, %v", a.Outcome, err)
		}
		d.call(t, other, "GET", "/keys", nil).into(t, 200, new(api.Keys))
	}
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	searches.Wait()
}

//go:build unix

// Package postgrestest starts real PostgreSQL servers for tests. Start reading at [StartFor].
package postgrestest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
)

const (
	superuser = "postgres"
	// Password is the password in the server's URLs. No output of a test may show it.
	Password = "p@ss:w/rd%hunter2"

	startTimeout = 2 * time.Minute
)

// A Server is a database cluster in its own temporary directory.
type Server struct {
	bin, dir   string
	settings   []string
	credential *syscall.Credential // user that runs the server; nil: that of this process
	faketime   string              // LD_PRELOAD for SetClock; empty: none
	port       int
	primary    string // connection string of the primary, for a standby
	process    *exec.Cmd
	log        *os.File
	schemas    atomic.Int64
}

// StartFor starts a server for one test and stops it at the end of the test.
func StartFor(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := Start(settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Start creates a cluster that does not force its writes to disk, and starts it. settings are
// `name=value` and override the default settings of tests. The server ends with Stop or with this
// process.
func Start(settings ...string) (*Server, error) { return start("", settings) }

func start(faketime string, settings []string) (*Server, error) {
	bin, err := Binaries()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, settings: settings, faketime: faketime}
	if s.credential, err = Unprivileged(); err != nil {
		return nil, err
	}
	if err := s.makeDirectory(); err != nil {
		return nil, err
	}
	if err := s.initialize(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if err := s.Run(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return s, nil
}

// Binaries returns the directory of initdb and postgres, which is not in the PATH on Debian.
func Binaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		// The other programs may have no links in the PATH.
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb",
		"/opt/homebrew/opt/postgresql*/bin/initdb", "/usr/local/pgsql/bin/initdb"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return filepath.Dir(found[len(found)-1]), nil
		}
	}
	return "", errors.New("PostgreSQL is not installed: run `make deps` or " +
		"`apt-get install postgresql`")
}

// Unprivileged returns the user to run a server as, or nil for that of this process. PostgreSQL
// refuses to run as root.
func Unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root: create a user postgres or nobody")
}

func (s *Server) makeDirectory() (err error) {
	// The path is short, because the length of a socket's path is limited.
	if s.dir, err = os.MkdirTemp("", "pg"); err != nil {
		return err
	}
	if s.log, err = os.Create(s.dir + ".log"); err != nil {
		return err
	}
	if s.credential != nil {
		err = os.Chown(s.dir, int(s.credential.Uid), int(s.credential.Gid))
	}
	return err
}

func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential}
	return cmd
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// initdb creates a cluster. Its collation does not sort byte by byte, so that tests find
// queries that rely on the order of bytes.
func (s *Server) initdb() error {
	passwords := filepath.Join(s.dir, "password")
	if err := os.WriteFile(passwords, []byte(Password+"\n"), 0o600); err != nil {
		return err
	}
	if s.credential != nil {
		if err := os.Chown(passwords, int(s.credential.Uid), int(s.credential.Gid)); err != nil {
			return err
		}
	}
	args := []string{"-D", s.data(), "-U", superuser, "--pwfile", passwords, "--auth-local=trust",
		"--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"}
	// Older versions have no option for ICU.
	for _, more := range [][]string{{"--locale-provider=icu", "--icu-locale=en"}, {}} {
		var out []byte
		var err error
		if out, err = s.command("initdb", append(args, more...)...).CombinedOutput(); err == nil {
			return nil
		} else if len(more) == 0 {
			return fmt.Errorf("initdb: %w\n%s", err, out)
		}
		if err := os.RemoveAll(s.data()); err != nil {
			return err
		}
	}
	return nil
}

// initialized has the files of the first cluster of this process before its start, directories
// first.
var initialized struct {
	sync.Mutex
	files []file
}

// file is a file of a cluster, or a directory without content.
type file struct {
	path    string
	mode    fs.FileMode
	content []byte
}

// initialize creates a cluster. All but the first are copies, because initdb takes a second of CPU
// time.
func (s *Server) initialize() error {
	initialized.Lock()
	defer initialized.Unlock()
	if initialized.files == nil {
		if err := s.initdb(); err != nil {
			return err
		}
		return s.remember()
	}
	for _, f := range initialized.files {
		path := filepath.Join(s.data(), f.path)
		var err error
		if f.mode.IsDir() {
			err = os.Mkdir(path, f.mode.Perm())
		} else {
			err = os.WriteFile(path, f.content, f.mode.Perm())
		}
		if err == nil && s.credential != nil {
			err = os.Chown(path, int(s.credential.Uid), int(s.credential.Gid))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// remember stores the files of the cluster in initialized.
func (s *Server) remember() error {
	cluster := os.DirFS(s.data())
	var files []file
	err := fs.WalkDir(cluster, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		f := file{path: path, mode: info.Mode()}
		if !entry.IsDir() {
			f.content, err = fs.ReadFile(cluster, path)
		}
		files = append(files, f)
		return err
	})
	if err == nil {
		initialized.files = files
	}
	return err
}

// Run starts the server. After Halt, it starts it again, on the same port.
func (s *Server) Run() error {
	var err error
	for range 5 {
		port := s.port
		if port == 0 {
			if port, err = freeport.Take(); err != nil {
				return err
			}
		}
		if err = s.run(port); err == nil {
			if s.port == 0 { // other goroutines may read the port during a later Run
				s.port = port
			}
			return nil
		}
	}
	return err
}

func (s *Server) run(port int) error {
	args := []string{"-D", s.data(), "-k", s.dir, "-h", "127.0.0.1", "-p", strconv.Itoa(port)}
	for _, setting := range append([]string{"fsync=off", "full_page_writes=off",
		"shared_buffers=32MB", "max_connections=200", "wal_level=replica"}, s.settings...) {
		args = append(args, "-c", setting)
	}
	cmd := s.command("postgres", args...)
	cmd.Env = s.environment()
	cmd.Stdout, cmd.Stderr = s.log, s.log
	endWithParent(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		return err
	}
	s.process = cmd
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(startTimeout)
	for tick := time.Tick(20 * time.Millisecond); ; {
		select {
		case err := <-ended:
			text, _ := os.ReadFile(s.log.Name())
			return fmt.Errorf("starting postgres: %w\n%s", err, text)
		case <-deadline:
			_ = cmd.Process.Kill()
			return fmt.Errorf("starting postgres: not ready after %s", startTimeout)
		case <-tick:
		}
		// Line 8 of this file is the state of the server.
		pid, _ := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
		lines := bytes.Split(pid, []byte("\n"))
		if len(lines) > 7 && string(lines[0]) == strconv.Itoa(cmd.Process.Pid) &&
			string(bytes.TrimSpace(lines[7])) == "ready" {
			go func() { <-ended }()
			return nil
		}
	}
}

// Halt ends the server immediately, like a crash: it cuts all connections. Committed changes exist
// after Run.
func (s *Server) Halt() error {
	if err := s.process.Process.Signal(syscall.SIGQUIT); err != nil &&
		!errors.Is(err, os.ErrProcessDone) {
		return err
	}
	for tick := time.Tick(10 * time.Millisecond); ; <-tick {
		if s.halted() {
			return nil
		}
	}
}

func (s *Server) halted() bool { return s.process.Process.Signal(syscall.Signal(0)) != nil }

// Stop ends the server and deletes the cluster.
func (s *Server) Stop() error {
	err := s.Halt()
	return errors.Join(err, s.log.Close(), os.RemoveAll(s.dir), os.Remove(s.log.Name()))
}

// Address returns HOST:PORT.
func (s *Server) Address() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// URL returns a URL of the server, with TCP and password, and with the option search_path if schema
// is not empty. hosts replace the server's address.
func (s *Server) URL(schema string, hosts ...string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(superuser, Password), Host: s.Address(),
		Path: "/postgres"}
	if len(hosts) > 0 {
		u.Host = strings.Join(hosts, ",")
	}
	if schema != "" {
		u.RawQuery = url.Values{"search_path": {schema}}.Encode()
	}
	return u.String()
}

// Exec runs statements as the superuser, all in one transaction unless they begin their own.
func (s *Server) Exec(schema, statements string) error {
	_, err := s.Query(schema, statements)
	return err
}

// Query runs statements like Exec and returns the rows of all of them as psql prints them: a line
// each, with `|` between columns and nothing for NULL.
func (s *Server) Query(schema, statements string) (string, error) {
	ctx := context.Background()
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s dbname=postgres", s.dir,
		s.port, superuser))
	if err != nil {
		return "", err
	}
	if schema != "" {
		config.RuntimeParams["search_path"] = schema
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, statements).ReadAll()
	if err != nil {
		return "", err
	}
	var lines []string
	for _, result := range results {
		for _, row := range result.Rows {
			lines = append(lines, string(bytes.Join(row, []byte("|"))))
		}
	}
	return strings.TrimSpace(strings.Join(lines, "\n")), nil
}

// Schema creates an empty schema and returns its name. The schema exists as long as the server.
func (s *Server) Schema(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", s.schemas.Add(1))
	if err := s.Exec("", "CREATE SCHEMA "+name); err != nil {
		t.Fatal(err)
	}
	return name
}

// Standby starts a standby of this server and stops it at the end of the test.
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	other := &Server{bin: s.bin, credential: s.credential, faketime: s.faketime}
	if err := other.makeDirectory(); err != nil {
		t.Fatal(err)
	}
	backup := other.command("pg_basebackup", "-D", other.data(), "-R", "--checkpoint=fast",
		"--no-sync", "-h", s.dir, "-p", strconv.Itoa(s.port), "-U", superuser)
	if out, err := backup.CombinedOutput(); err != nil {
		t.Fatalf("pg_basebackup: %v\n%s", err, out)
	}
	if err := other.Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Stop(); err != nil {
			t.Error(err)
		}
	})
	var err error
	if other.primary, err = other.Query("", "SHOW primary_conninfo"); err != nil {
		t.Fatal(err)
	}
	return other
}

// SynchronousStandby starts a standby. Until the end of the test, every commit on this server waits
// for it.
func (s *Server) SynchronousStandby(t testing.TB) *Server {
	t.Helper()
	other := s.Standby(t)
	// This fails if the test has halted the server.
	t.Cleanup(func() { _ = s.Set("synchronous_standby_names", "") })
	if err := s.Set("synchronous_standby_names", "*"); err != nil {
		t.Fatal(err)
	}
	return other
}

// Detach makes a standby receive nothing from its primary until Attach. The standby can be promoted
// meanwhile.
func (s *Server) Detach() error {
	// A receiver that is stopping can still acknowledge a commit.
	return s.receive("", "SELECT count(*) = 0 FROM pg_stat_wal_receiver")
}

// Attach undoes Detach.
func (s *Server) Attach() error {
	return s.receive(s.primary,
		"SELECT count(*) > 0 FROM pg_stat_wal_receiver WHERE status = 'streaming'")
}

func (s *Server) receive(primary, done string) error {
	if err := s.Set("primary_conninfo", primary); err != nil {
		return err
	}
	return s.await(done, "t")
}

// Set changes a setting of the running server with ALTER SYSTEM and a reload, and waits until the
// server has read it.
func (s *Server) Set(name, value string) error {
	loaded, err := s.Query("", "SELECT pg_conf_load_time()")
	if err != nil {
		return err
	}
	value = strings.ReplaceAll(value, "'", "''")
	// Separate calls, because ALTER SYSTEM must be in its own transaction.
	for _, statement := range []string{"ALTER SYSTEM SET " + name + " = '" + value + "'",
		"SELECT pg_reload_conf()"} {
		if err := s.Exec("", statement); err != nil {
			return err
		}
	}
	if err := s.await("SELECT pg_conf_load_time() <> '"+loaded+"'", "t"); err != nil {
		return err
	}
	// The checkpointer reads the settings before a checkpoint. It applies synchronous_standby_names
	// for all processes.
	return s.Exec("", "CHECKPOINT")
}

// await repeats a query, each time in a new session, until it has the answer.
func (s *Server) await(query, answer string) error {
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(10 * time.Millisecond) {
		got, err := s.Query("", query)
		if err == nil && got == answer {
			return nil
		}
		if time.Now().After(deadline) {
			if err != nil {
				return fmt.Errorf("%s: %w", query, err)
			}
			return fmt.Errorf("%s: the answer is %q, not %q", query, got, answer)
		}
	}
}

// ServeTLS makes the running server require TLS for TCP. The certificate and its key are in PEM.
func (s *Server) ServeTLS(t testing.TB, certificate, key []byte) {
	t.Helper()
	for name, text := range map[string][]byte{
		"server.crt": certificate, "server.key": key,
		"pg_hba.conf": []byte("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"),
	} {
		path := filepath.Join(s.data(), name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if s.credential != nil {
			if err := os.Chown(path, int(s.credential.Uid), int(s.credential.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Set("ssl", "on"); err != nil {
		t.Fatal(err)
	}
}

// Promote turns a standby into a primary and returns when it accepts writes.
func (s *Server) Promote() error { return s.Exec("", "SELECT pg_promote()") }

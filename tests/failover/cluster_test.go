package failover

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

const (
	password = "failover"
	schema   = "gate"

	// patience limits the wait for a failover and for members that rejoin. It is not a promise.
	patience = 10 * time.Minute
)

// cluster is an etcd and three PostgreSQL servers under Patroni, in a temporary directory.
type cluster struct {
	t          testing.TB
	dir        string
	postgres   string              // directory of the PostgreSQL programs
	credential *syscall.Credential // user of the servers; nil is the current user
	members    []*member
}

// member is one machine with a PostgreSQL and its Patroni.
type member struct {
	*cluster
	name     string
	keeper   *keeper
	postgres string // addresses, without a proxy
	rest     string

	// The connections that a partition breaks: from the other members to PostgreSQL and Patroni,
	// from Patroni to etcd, and from each gate to PostgreSQL.
	peers, status, etcd *gate.Edge
	gates               []*gate.Edge
}

// timing is the timing of Patroni in seconds, with loopWait + 2 retryTimeout ≤ ttl.
type timing struct{ ttl, loopWait, retryTimeout int }

// startCluster starts a cluster with connections for a number of gates, and returns when all
// members are healthy.
func startCluster(t testing.TB, timing timing, gates int) *cluster {
	t.Helper()
	c := &cluster{t: t}
	var err error
	if c.postgres, err = postgrestest.Binaries(); err != nil {
		t.Fatal(err)
	}
	if c.credential, err = postgrestest.Unprivileged(); err != nil {
		t.Fatal(err)
	}
	if c.dir, err = os.MkdirTemp("", "failover-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the logs of etcd, Patroni and PostgreSQL are in %s", c.dir)
			c.remove("data")
		} else if err := os.RemoveAll(c.dir); err != nil {
			t.Error(err)
		}
	})
	c.own(c.dir)
	etcd := c.startEtcd()
	for i := range 3 {
		c.members = append(c.members, c.newMember(i, etcd, timing, gates))
	}
	for _, m := range c.members {
		m.start()
	}
	c.healthy()
	return c
}

// remove deletes the files of all members with a name.
func (c *cluster) remove(name string) {
	found, _ := filepath.Glob(filepath.Join(c.dir, "*", name))
	for _, path := range found {
		os.RemoveAll(path)
	}
}

// own makes the user of the servers the owner of a file.
func (c *cluster) own(path string) {
	c.t.Helper()
	if c.credential == nil {
		return
	}
	if err := os.Chown(path, int(c.credential.Uid), int(c.credential.Gid)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) log(name string) *os.File {
	c.t.Helper()
	log, err := os.OpenFile(filepath.Join(c.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY,
		0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	return log
}

func address(t testing.TB) string { return fmt.Sprintf("127.0.0.1:%d", freeport.For(t)) }

func (c *cluster) startEtcd() (client string) {
	c.t.Helper()
	client, peer := address(c.t), "http://"+address(c.t)
	log := c.log("etcd")
	defer log.Close()
	etcd := exec.Command("etcd", "--data-dir", filepath.Join(c.dir, "etcd", "data"),
		"--unsafe-no-fsync", "--enable-v2",
		"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster",
		"default="+peer)
	etcd.Dir = "/"
	etcd.Stdout, etcd.Stderr = log, log
	etcd.SysProcAttr = &syscall.SysProcAttr{Credential: c.credential, Pdeathsig: syscall.SIGKILL}
	if err := etcd.Start(); err != nil {
		c.t.Fatalf("starting etcd: %v; `make deps` installs it", err)
	}
	c.t.Cleanup(func() {
		etcd.Process.Kill()
		etcd.Wait()
	})
	c.until("etcd is healthy", func() bool {
		var answer struct{ Health string }
		return get(client, "/health", &answer) == nil && answer.Health == "true"
	})
	return client
}

func (c *cluster) newMember(i int, etcd string, timing timing, gates int) *member {
	c.t.Helper()
	m := &member{cluster: c, name: fmt.Sprint("m", i), postgres: address(c.t), rest: address(c.t)}
	m.peers = gate.NewEdge(c.t, "members to PostgreSQL "+m.name, m.postgres)
	m.status = gate.NewEdge(c.t, "members to Patroni "+m.name, m.rest)
	m.etcd = gate.NewEdge(c.t, "Patroni "+m.name+" to etcd", etcd)
	for g := range gates {
		m.gates = append(m.gates, gate.NewEdge(c.t,
			fmt.Sprintf("gate %d to PostgreSQL %s", g, m.name), m.postgres))
	}
	dir := filepath.Join(c.dir, m.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	c.own(dir)
	text, err := json.Marshal(m.settings(dir, timing)) // YAML includes JSON
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(m.config(), text, 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.own(m.config())
	return m
}

func (m *member) config() string { return filepath.Join(m.dir, m.name+".yml") }

// settings returns the settings of Patroni. docs/operations.md has those that matter to gates.
func (m *member) settings(dir string, timing timing) gate.JSON {
	return gate.JSON{
		"scope": "gate",
		"name":  m.name,
		"restapi": gate.JSON{
			"listen": m.rest, "connect_address": m.status.Address(),
		},
		// etcd's v2 API: over the v3 API, Patroni 3.0.2 overwrites another member's leader key when
		// it resumes, which https://github.com/patroni/patroni/pull/2689 fixed later. With
		// use_proxies, Patroni does not ask etcd for its own address, which would bypass our proxy.
		"etcd": gate.JSON{"hosts": []string{m.etcd.Address()}, "use_proxies": true},
		"bootstrap": gate.JSON{
			"dcs": gate.JSON{
				"ttl": timing.ttl, "loop_wait": timing.loopWait,
				"retry_timeout":           timing.retryTimeout,
				"maximum_lag_on_failover": 1 << 20,
				"synchronous_mode":        true,
				// Otherwise a primary without a standby acknowledges changes that no other
				// machine has.
				"synchronous_mode_strict": true,
				"postgresql": gate.JSON{
					"use_pg_rewind": true,
					"parameters": gate.JSON{
						// A standby that asks the new primary too early retries after this time
						// instead of 5 s. Until then no change returns.
						"wal_retrieve_retry_interval": "500ms",
						// A primary that is being demoted waits for standbys that it cannot reach.
						// Patroni 3.0.2 begins a second demotion if that takes longer than its
						// retry_timeout.
						"wal_sender_timeout": fmt.Sprintf("%ds", min(5, timing.retryTimeout)),
						"wal_log_hints":      "on", // pg_rewind needs it
						"max_connections":    100,
						"shared_buffers":     "32MB",
						"fsync":              "off", // no test loses a disk
					},
				},
			},
			"initdb": []gate.JSON{{"encoding": "UTF8"}, {"locale": "C"}, {"wal-segsize": "1"}},
		},
		"postgresql": gate.JSON{
			"listen": m.postgres, "connect_address": m.peers.Address(), "use_unix_socket": true,
			"data_dir": filepath.Join(dir, "data"), "bin_dir": m.cluster.postgres,
			"pgpass": filepath.Join(dir, "pgpass"),
			"pg_hba": []string{
				"local all all trust", "host all all 127.0.0.1/32 scram-sha-256",
				"host replication all 127.0.0.1/32 scram-sha-256",
			},
			"parameters": gate.JSON{"unix_socket_directories": dir},
			// Patroni copies a member again if its data cannot be rewound.
			"remove_data_directory_on_rewind_failure":     true,
			"remove_data_directory_on_diverged_timelines": true,
			"authentication": gate.JSON{
				"superuser":   gate.JSON{"username": "postgres", "password": password},
				"replication": gate.JSON{"username": "replicator", "password": password},
			},
		},
		"watchdog": gate.JSON{"mode": "off"},
	}
}

func (m *member) start() {
	m.t.Helper()
	patroni, err := exec.LookPath("patroni")
	if err != nil {
		m.t.Fatalf("Patroni is not installed: %v; `make deps` installs it", err)
	}
	log := m.log(m.name)
	defer log.Close()
	k, err := startKeeper(m.credential, log, patroni, m.config())
	if err != nil {
		m.t.Fatal(err)
	}
	m.keeper = k
	m.t.Cleanup(k.kill)
}

// partition cuts a member off from etcd, from the other members, and from the gates on the other
// side. Connections hang, or are refused.
func (m *member) partition(hang bool, sides []side) {
	do := (*gate.Edge).Cut
	if hang {
		do = (*gate.Edge).Hang
	}
	for _, e := range []*gate.Edge{m.etcd, m.peers, m.status} {
		do(e)
	}
	for g, side := range sides {
		for _, other := range m.members {
			if other == m && side == otherSide || other != m && side == primarySide {
				do(other.gates[g])
			}
		}
	}
}

// side is the side of a gate in a partition.
type side int

const (
	bothSides side = iota
	primarySide
	otherSide
)

func (s side) String() string {
	return [...]string{"both sides", "the primary's side", "the other side"}[s]
}

// heal repairs all connections.
func (c *cluster) heal() {
	for _, m := range c.members {
		for _, e := range append([]*gate.Edge{m.etcd, m.peers, m.status}, m.gates...) {
			e.Heal()
		}
	}
}

// view is the cluster as one member's Patroni sees it.
type view struct {
	Members []struct {
		Name, Role, State string
		Timeline          int
	}
}

func (v view) leader() string {
	for _, m := range v.Members {
		if m.Role == "leader" && m.State == "running" {
			return m.Name
		}
	}
	return ""
}

// leader returns the primary in the view of a member other than former, or nil.
func (c *cluster) leader(former *member) *member {
	for _, asked := range c.members {
		var v view
		if asked == former || get(asked.rest, "/cluster", &v) != nil {
			continue
		}
		for _, m := range c.members {
			if m.name == v.leader() && m != former {
				return m
			}
		}
	}
	return nil
}

// healthy waits until one member is primary, both others stream from it, and one of them is the
// synchronous standby. It returns the primary. Like an operator, it restarts members that Patroni
// has not recovered after a minute, because Patroni 3.0.2 may wait forever in a demotion.
func (c *cluster) healthy() (primary *member) {
	c.t.Helper()
	begun, restarted := time.Now(), false
	// Each try takes CPU time of all members, which they need to become healthy.
	c.untilEvery(500*time.Millisecond, "all members are healthy", func() bool {
		for _, m := range c.members {
			if over(m.keeper.ended) {
				c.t.Fatalf("Patroni %s has exited by itself", m.name)
			}
		}
		if primary = c.leader(nil); primary == nil {
			return false
		}
		streaming, synchronous := c.standbys(primary)
		if !restarted && time.Since(begun) > time.Minute {
			restarted = true
			for _, m := range c.members {
				if m != primary && !streaming[m.name] {
					c.t.Logf("restarting %s, which Patroni has not recovered after a minute",
						m.name)
					m.keeper.kill()
					m.start()
				}
			}
		}
		return len(streaming) == len(c.members)-1 && synchronous == 1 && c.agreed(primary)
	})
	return primary
}

// standbys returns the members that stream from the primary, and how many of them are synchronous.
func (c *cluster) standbys(primary *member) (streaming map[string]bool, synchronous int) {
	var status struct {
		Replication []struct {
			Name  string `json:"application_name"`
			State string
			Sync  string `json:"sync_state"`
		}
	}
	streaming = map[string]bool{}
	if get(primary.rest, "/patroni", &status) != nil {
		return streaming, 0
	}
	for _, r := range status.Replication {
		if r.State == "streaming" {
			streaming[r.Name] = true
		}
		if r.Sync == "sync" {
			synchronous++
		}
	}
	return streaming, synchronous
}

// agreed reports whether all members have the same view, in which each member has its role.
func (c *cluster) agreed(primary *member) bool {
	for _, m := range c.members {
		var v view
		if get(m.rest, "/cluster", &v) != nil || len(v.Members) != len(c.members) ||
			v.leader() != primary.name {
			return false
		}
		roles := map[string]int{}
		for _, seen := range v.Members {
			if seen.State != "running" && seen.State != "streaming" ||
				seen.Timeline != v.Members[0].Timeline {
				return false
			}
			roles[seen.Role]++
		}
		if roles["sync_standby"] != 1 || roles["replica"] != 1 {
			return false
		}
	}
	return true
}

var status = &http.Client{Timeout: 2 * time.Second,
	Transport: &http.Transport{DisableKeepAlives: true}}

func get(address, path string, answer any) error {
	r, err := status.Get("http://" + address + path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, answer)
}

func (c *cluster) until(what string, true func() bool) {
	c.t.Helper()
	c.untilEvery(100*time.Millisecond, what, true)
}

func (c *cluster) untilEvery(pause time.Duration, what string, true func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); !true(); time.Sleep(pause) {
		if time.Now().After(end) {
			c.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// url returns the URL of the primary, with an address for each member.
func (c *cluster) url(address func(*member) string) string {
	var hosts []string
	for _, m := range c.members {
		hosts = append(hosts, address(m))
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", password),
		Host: strings.Join(hosts, ","), Path: "/postgres",
		RawQuery: url.Values{"search_path": {schema},
			"target_session_attrs": {"read-write"}}.Encode(),
	}
	return u.String()
}

// direct returns the URL of the primary without proxies.
func (c *cluster) direct() string { return c.url(func(m *member) string { return m.postgres }) }

// exec runs SQL on the primary.
func (c *cluster) exec(sql string) {
	c.t.Helper()
	ctx := c.t.Context()
	conn, err := pgx.Connect(ctx, c.direct())
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		c.t.Fatal(err)
	}
}

package faults

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // to read and change the file
)

// filesReplaced calls do, which replaces or removes SQLite files that running nodes share. Within 3
// leases all nodes answer 503, and the file has every change that was acknowledged.
func filesReplaced(do func(file, backup string) error) func(*arena) {
	return func(a *arena) {
		file := filepath.Join(a.Nodes[0].Data, "apikeys.db")
		kept := a.mint(0)
		var keys []key
		for range 40 {
			k := a.mint(0)
			a.want(a.settled(1, k) == 200, "a new key")
			keys = append(keys, k)
		}
		a.warm(kept)
		for _, backup := range []string{".backup", ".another"} {
			a.sqlite(file, "VACUUM INTO '"+file+backup+"'")
		}
		a.mint(0)
		if err := do(file, file+".backup"); err != nil {
			a.t.Fatal(err)
		}
		var minted, revoked []string
		unhealthy := func() bool {
			for _, g := range a.Nodes {
				if g.Try(a.t.Context(), "GET", "/health", nil).Status != 503 {
					return false
				}
			}
			return true
		}
		for n, k := range keys {
			if r := a.revokeIn(time.Second, n%2, k); r.Complete() {
				revoked = append(revoked, k.ID)
			}
			a.get((n+1)%2, k)
			if k, r := a.tryMint(n % 2); r.Status == 201 {
				minted = append(minted, k.ID)
			}
			if unhealthy() {
				break
			}
			time.Sleep(a.lease / 20)
		}
		a.want(unhealthy(), "a node is healthy 3 leases later")
		for i := range a.Nodes {
			got := a.get(i, kept)
			a.want(got == 503, "node %d answers %d 3 leases later", i, got)
			_, r := a.tryMint(i)
			a.want(r.Status == 503, "a mint through node %d 3 leases later: %v", i, r)
		}
		for _, g := range a.Nodes {
			g.Kill()
		}
		a.onDisk(file, minted, "TRUE", "minted")
		a.onDisk(file, revoked, "revoked_at IS NOT NULL", "revoked")

		// The steps of docs/operations.md.
		for _, former := range []string{file, file + "-wal", file + "-shm"} {
			if err := os.Remove(former); err != nil && !os.IsNotExist(err) {
				a.t.Fatal(err)
			}
		}
		if err := os.Rename(file+".another", file); err != nil {
			a.t.Fatal(err)
		}
		a.sqlite(file, "DELETE FROM nodes; UPDATE head SET epoch = lower(hex(randomblob(16)))")
		for i, g := range a.Nodes {
			g.Start(a.t)
			a.eventually(i, kept, 200)
		}
		a.mustRevoke(0, kept)
		a.want(a.settled(1, kept) == 401, "a key revoked after the restore")
	}
}

// lockFileCopied replaces the lock file of a stopped node by a copy. A file that no process has
// locked must not count as proof that the node has ended if the node has locked another one.
func lockFileCopied(a *arena) {
	k := a.mint(0)
	a.warm(k)
	file := filepath.Join(a.Nodes[0].Data, "apikeys.db")
	var lock string
	a.sqliteRow(file, "SELECT incarnation FROM nodes WHERE "+a.is(1), &lock)
	lock = file + "-node-" + lock
	// so that the node is not stopped within a transaction, which would lock the database
	a.hold(1, "renew.reply")
	a.held(1, "renew.reply")
	a.Nodes[1].Pause(a.t)
	text, err := os.ReadFile(lock)
	if err == nil {
		err = os.WriteFile(lock+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(lock+".new", lock)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.revokeIn(a.lease/8, 0, k)
	a.Nodes[1].Resume()
	a.useFor(a.lease/4, 1, k)
	a.release(1, "renew.reply")
	a.Nodes[1].Restart(a.t) // the only remedy
	a.until("the revoke is complete", func() bool { return a.revoke(0, k).Complete() })
	a.get(1, k)
}

func (a *arena) sqlite(file, statements string) {
	a.t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?mode=rw&_pragma=busy_timeout(10000)")
	if err == nil {
		defer db.Close()
		_, err = db.ExecContext(a.t.Context(), statements)
	}
	if err != nil {
		a.t.Fatalf("%s: %v", statements, err)
	}
}

func (a *arena) sqliteRow(file, query string, into ...any) {
	a.t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?mode=rw&_pragma=busy_timeout(10000)")
	if err == nil {
		defer db.Close()
		err = db.QueryRowContext(a.t.Context(), query).Scan(into...)
	}
	if err != nil {
		a.t.Fatalf("%s: %v", query, err)
	}
}

// onDisk checks that the file has all the keys and that a condition holds for each.
func (a *arena) onDisk(file string, ids []string, condition, change string) {
	a.t.Helper()
	if len(ids) == 0 {
		return // without its WAL, the file may have no tables
	}
	found := map[string]bool{}
	if _, err := os.Stat(file); err == nil {
		db, err := sql.Open("sqlite", "file:"+file+"?mode=rw")
		if err != nil {
			a.t.Fatal(err)
		}
		defer db.Close()
		rows, err := db.QueryContext(a.t.Context(), "SELECT id FROM keys WHERE "+condition)
		if err != nil {
			a.t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				a.t.Fatal(err)
			}
			found[id] = true
		}
		if err := rows.Err(); err != nil {
			a.t.Fatal(err)
		}
	}
	var lost []string
	for _, id := range ids {
		if !found[id] {
			lost = append(lost, id)
		}
	}
	a.want(len(lost) == 0, "%d of %d keys that were %s are not in the file: %s", len(lost),
		len(ids), change, strings.Join(lost, " "))
}

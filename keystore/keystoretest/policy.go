package keystoretest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func policy(t *testing.T, db keystore.Database) *keystore.Policy {
	t.Helper()
	p, err := db.Policy(ctx, keystore.Nowhere)
	must(t, err)
	if p == nil {
		t.Fatal("no policy, although the default namespace exists")
	}
	return p
}

// wantPolicy compares a policy without the default namespace, which must be the oldest.
func wantPolicy(
	t *testing.T, got *keystore.Policy, at keystore.Revision, namespaces []keystore.Namespace,
	roles []keystore.Role, members []keystore.Member,
) {
	t.Helper()
	if got == nil || got.Revision != at {
		t.Fatalf("policy %+v, want that of %d", got, at)
	}
	last := len(got.Namespaces) - 1
	if got.Namespaces[last].ID != keystore.DefaultNamespace {
		t.Fatalf("the oldest namespace is %s", got.Namespaces[last].ID)
	}
	for _, l := range []struct{ got, want any }{{got.Namespaces[:last:last], namespaces},
		{got.Roles, roles}, {got.Members, members}} {
		if reflect.ValueOf(l.got).Len()+reflect.ValueOf(l.want).Len() > 0 &&
			!reflect.DeepEqual(l.got, l.want) {
			t.Fatalf("policy\n%+v, want\n%+v", l.got, l.want)
		}
	}
}

func permissions(words ...string) (list []keystore.Permission) {
	for _, w := range words {
		p, err := keystore.ParsePermission(w)
		if err != nil {
			panic(err)
		}
		list = append(list, p)
	}
	return list
}

func testPolicy(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	later := time.Now().UTC().Truncate(time.Microsecond).Add(time.Hour)
	at := func(i int) time.Time { return later.Add(time.Duration(i) * time.Second) }
	namespaces := []keystore.Namespace{
		{ID: "b", Parent: "a", CreatedAt: at(2), Version: 1},
		{ID: "a", Kind: "account", Name: "A'ccount", EditPolicy: keystore.EditGrowOnly,
			Reach: []string{"app", "work\"space"}, KeyRoles: []string{"member", "x"},
			TokenPrefix: "ak_acme", ChildPrefix: "acme-", CreatedAt: at(1), Version: 3,
			Lifecycle: keystore.Lifecycle{MaxLifetime: 90 * 24 * time.Hour,
				Idle:   keystore.IdleRule{After: time.Microsecond, Then: keystore.IdleInactivate},
				OnLeak: keystore.LeakRevoke}},
		{ID: "A", CreatedAt: at(1), Version: 1}, // ids differ by case
	}
	roles := []keystore.Role{
		{Namespace: "a", Name: "billing", Description: "Réads '\" %",
			Permissions: permissions("read", "orders:search", "admin.keys:*"), CreatedAt: at(3),
			Version: 2},
		{Namespace: "A", Name: "billing", CreatedAt: at(3), Version: 1},
		{Namespace: "*", Name: "audit", Permissions: permissions("admin:read"), CreatedAt: at(0),
			Version: 1},
		{Namespace: "*", Name: "Audit", Permissions: permissions("admin:read"), CreatedAt: at(0),
			Version: 1},
	}
	members := []keystore.Member{
		{ID: "m_2", Name: "nobody", Kind: keystore.Service, CreatedAt: at(5), CreatedBy: "m_1",
			Version: 1},
		{ID: "m_1", Name: "Ünï % '\"", Kind: keystore.Person, Login: "Ada", Active: true,
			CreatedAt: at(4), CreatedBy: "root", Version: 5,
			Labels: map[string]string{"team": "érp '\"", "": "{}"}, Grants: []keystore.Grant{
				{Namespace: "a", Permissions: permissions("*"),
					Roles: []string{"developer", "billing"}, Connected: true},
				{Namespace: "*", Permissions: permissions("admin.audit:read")},
			}},
		{ID: "M_1", Login: "ada", Active: true, CreatedAt: at(4), Version: 1},
		// A group may have the login of a user.
		{ID: "m_3", Kind: keystore.Group, Login: "Ada", Active: true, CreatedAt: at(3), Version: 1},
		{ID: "m_0", CreatedAt: at(0), Version: 1}, // a second member without a login
	}
	start := policy(t, db)
	wantPolicy(t, start, head(t, db), nil, nil, nil)
	insert(t, db, plain("k"))
	before := position(t, db)
	if p, err := other.Policy(ctx, position(t, other)); p != nil || err != nil {
		t.Fatalf("nothing changed, but %+v, %v", p, err)
	}

	var inside *keystore.Policy
	now := update(t, db, func(tx keystore.Tx) error {
		if p, err := tx.Policy(before); p != nil || err != nil {
			t.Fatalf("nothing changed, but %+v, %v", p, err)
		}
		for _, ns := range namespaces {
			must(t, tx.InsertNamespace(&ns))
		}
		// Every change is visible, even after an earlier call at the same revision.
		early, err := tx.Policy(before)
		must(t, err)
		for i := range roles {
			must(t, tx.InsertRole(&roles[i]))
			if p, err := tx.Policy(early.At); err != nil || len(p.Roles) != i+1 {
				t.Fatalf("after %d roles: %+v, %v", i+1, p, err)
			}
		}
		for _, m := range members {
			must(t, tx.InsertMember(&m))
		}
		inside, err = tx.Policy(keystore.Nowhere)
		return err
	})
	wantPolicy(t, inside, now, namespaces, roles, members)
	wantPolicy(t, policy(t, other), now, namespaces, roles, members)
	for since, want := range map[keystore.Position]bool{start.At: true, before: true,
		position(t, other): false} {
		if p, err := other.Policy(ctx, since); err != nil || (p != nil) != want {
			t.Errorf("since %v, at %d: %+v, %v", since, now, p, err)
		}
	}
	later2 := insert(t, db, plain("k2"))
	if p, err := other.Policy(ctx, position(t, other)); p != nil || err != nil {
		t.Errorf("nothing changed since %d, but %+v, %v", later2, p, err)
	}

	// A refused change has no effect, and the transaction continues.
	update(t, db, func(tx keystore.Tx) error {
		wantErr(t, tx.InsertNamespace(&namespaces[0]), keystore.ErrExists)
		wantErr(t, tx.UpdateNamespace(&keystore.Namespace{ID: "nobody"}), keystore.ErrNotFound)
		wantErr(t, tx.DeleteNamespace("nobody"), keystore.ErrNotFound)
		wantErr(t, tx.InsertRole(&roles[0]), keystore.ErrExists)
		wantErr(t, tx.UpdateRole(&keystore.Role{Namespace: "b", Name: "billing"}),
			keystore.ErrNotFound)
		wantErr(t, tx.DeleteRole(keystore.RoleID{Namespace: "b", Name: "billing"}),
			keystore.ErrNotFound)
		wantErr(t, tx.DeleteRole(keystore.RoleID{Namespace: "*", Name: "billing"}),
			keystore.ErrNotFound)
		wantErr(t, tx.InsertMember(&members[0]), keystore.ErrExists)
		wantErr(t, tx.InsertMember(&keystore.Member{ID: "m_9", Login: "Ada"}), keystore.ErrExists)
		wantErr(t, tx.InsertMember(&keystore.Member{ID: "m_9", Kind: keystore.Group, Login: "Ada"}),
			keystore.ErrExists)
		wantErr(t, tx.UpdateMember(&keystore.Member{ID: "m_2", Kind: keystore.Group, Login: "Ada"}),
			keystore.ErrExists)
		wantErr(t, tx.UpdateMember(&keystore.Member{ID: "nobody"}), keystore.ErrNotFound)
		wantErr(t, tx.UpdateMember(&keystore.Member{ID: "nobody", Login: "Ada"}),
			keystore.ErrNotFound)
		wantErr(t, tx.UpdateMember(&keystore.Member{ID: "m_2", Login: "Ada"}), keystore.ErrExists)
		wantErr(t, tx.DeleteMember("nobody"), keystore.ErrNotFound)
		p, err := tx.Policy(keystore.Nowhere)
		must(t, err)
		wantPolicy(t, p, now, namespaces, roles, members)
		return nil
	})
	wantPolicy(t, policy(t, db), now, namespaces, roles, members)
	if got := head(t, db); got != later2 {
		t.Fatalf("refusals moved the head from %d to %d", later2, got)
	}

	// An update replaces every field; of a role only the description, the permissions and the
	// version.
	a := &namespaces[1]
	*a = keystore.Namespace{ID: "a", Kind: "tenant", Parent: "A", Name: "renamed",
		EditPolicy: keystore.EditFree, Reach: []string{"app"}, CreatedAt: a.CreatedAt, Version: 4}
	roles[0].Description, roles[0].Permissions, roles[0].Version = "Writes", permissions("write"), 3
	members[1] = keystore.Member{ID: "m_1", Name: "Ada", Kind: keystore.Service, Login: "ADA",
		Grants: []keystore.Grant{{Namespace: "b", Roles: []string{"viewer"}}},
		Labels: map[string]string{"b": ""}, CreatedAt: members[1].CreatedAt, CreatedBy: "m_2",
		Version: 6}
	members[2].Login = "Ada" // no longer taken
	role := roles[0]
	role.CreatedAt = start.Namespaces[0].CreatedAt
	now = update(t, db, func(tx keystore.Tx) error {
		must(t, tx.UpdateNamespace(a))
		must(t, tx.UpdateRole(&role))
		must(t, tx.UpdateMember(&members[1]))
		must(t, tx.UpdateMember(&members[1])) // keeps its own login
		must(t, tx.UpdateMember(&members[2]))
		return tx.UpdateMember(&members[3])
	})
	wantPolicy(t, policy(t, other), now, namespaces, roles, members)
	for i, change := range []func(keystore.Tx) error{
		func(tx keystore.Tx) error { return tx.DeleteRole(roles[0].ID()) },
		func(tx keystore.Tx) error { return tx.DeleteMember("m_2") },
		func(tx keystore.Tx) error { return tx.DeleteNamespace("b") },
	} {
		now = update(t, db, change)
		wantPolicy(t, policy(t, other), now, namespaces[max(0, i-1):], roles[1:],
			members[min(1, i):])
	}

	refusal := errors.New("no")
	since := position(t, db)
	_, err := db.Update(ctx, func(tx keystore.Tx) error {
		must(t, tx.DeleteMember("m_1"))
		return refusal
	})
	wantErr(t, err, refusal)
	if p, err := db.Policy(ctx, since); p != nil || err != nil {
		t.Fatalf("a rolled back change is visible: %+v, %v", p, err)
	}
}

// testPolicySnapshot: each role is created and deleted together with a member of the same name, and
// every policy has both or neither.
func testPolicySnapshot(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	done := make(chan error, 1)
	go func() {
		for i := range 30 {
			id := fmt.Sprint(i % 5)
			_, err := db.Update(ctx, func(tx keystore.Tx) error {
				if i/5%2 == 1 {
					return errors.Join(tx.DeleteMember(id),
						tx.DeleteRole(keystore.RoleID{Namespace: "a", Name: id}))
				}
				return errors.Join(tx.InsertRole(&keystore.Role{Namespace: "a", Name: id,
					CreatedAt: start}), tx.InsertMember(&keystore.Member{ID: id, CreatedAt: start}))
			})
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			must(t, err)
			return
		default:
		}
		p := policy(t, other)
		if !slices.EqualFunc(p.Roles, p.Members,
			func(r keystore.Role, m keystore.Member) bool { return r.Name == m.ID }) {
			t.Fatalf("half of a change is visible: %+v", p)
		}
	}
}

// A mirror is the copy of a reader that reads the whole policy once and then only its changes.
type mirror struct {
	at         keystore.Position
	namespaces map[string]keystore.Namespace
	roles      map[keystore.RoleID]keystore.Role
	plans      map[keystore.PlanID]keystore.Plan
	members    map[string]keystore.Member
}

func (m *mirror) take(p *keystore.Policy) {
	if p == nil {
		return
	}
	m.at = p.At
	if p.Whole {
		m.namespaces = map[string]keystore.Namespace{}
		m.roles = map[keystore.RoleID]keystore.Role{}
		m.plans = map[keystore.PlanID]keystore.Plan{}
		m.members = map[string]keystore.Member{}
	}
	for _, o := range p.Changed {
		switch o.Kind {
		case keystore.NamespaceObject:
			delete(m.namespaces, o.Name)
		case keystore.RoleObject:
			delete(m.roles, keystore.RoleID{Namespace: o.Namespace, Name: o.Name})
		case keystore.PlanObject:
			delete(m.plans, keystore.PlanID{Namespace: o.Namespace, Name: o.Name})
		case keystore.MemberObject:
			delete(m.members, o.Name)
		}
	}
	for _, ns := range p.Namespaces {
		m.namespaces[ns.ID] = ns
	}
	for _, r := range p.Roles {
		m.roles[r.ID()] = r
	}
	for _, plan := range p.Plans {
		m.plans[plan.ID()] = plan
	}
	for _, member := range p.Members {
		m.members[member.ID] = member
	}
}

// testPolicyChanges: a reader that follows the changes has the same copy as one that reads
// everything, even after manual changes.
func testPolicyChanges(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	var m mirror
	m.take(policy(t, other))
	check := func(step string, rows int) {
		t.Helper()
		p, err := other.Policy(ctx, m.at)
		must(t, err)
		if p != nil {
			if n := len(p.Namespaces) + len(p.Roles) + len(p.Plans) + len(p.Members); n > rows {
				t.Errorf("%s: %d rows were read", step, n)
			}
		}
		m.take(p)
		var whole mirror
		whole.take(policy(t, other))
		whole.at = m.at
		if !reflect.DeepEqual(m, whole) {
			t.Fatalf("%s: copy\n%+v, want\n%+v", step, m, whole)
		}
	}
	update(t, db, func(tx keystore.Tx) error {
		for i := range 5 {
			id := fmt.Sprint("n", i)
			must(t, tx.InsertNamespace(&keystore.Namespace{ID: id, CreatedAt: start, Version: 1}))
			must(t, tx.InsertRole(&keystore.Role{Namespace: id, Name: "r",
				Permissions: permissions("read"), CreatedAt: start, Version: 1}))
			must(t, tx.InsertPlan(&keystore.Plan{Namespace: id, Name: "p", CreatedAt: start,
				Version: 1}))
			must(t, tx.InsertMember(&keystore.Member{ID: "m_" + id, Login: id, CreatedAt: start,
				Version: 1}))
		}
		return nil
	})
	check("many", 20)
	check("nothing", 0)
	update(t, db, func(tx keystore.Tx) error {
		must(t, tx.UpdateRole(&keystore.Role{Namespace: "n1", Name: "r",
			Permissions: permissions("write"), Version: 2}))
		must(t, tx.UpdatePlan(&keystore.Plan{Namespace: "n1", Name: "p", Description: "more",
			Version: 2}))
		must(t, tx.DeletePlan(keystore.PlanID{Namespace: "n2", Name: "p"}))
		must(t, tx.DeleteMember("m_n1"))
		must(t, tx.InsertMember(&keystore.Member{ID: "m_n9", Login: "n1", CreatedAt: start,
			Version: 1}))
		must(t, tx.DeleteNamespace("n2"))
		return tx.InsertNamespace(&keystore.Namespace{ID: "n2", Kind: "again", CreatedAt: start,
			Version: 1})
	})
	check("some", 4)
	insert(t, db, plain("k"))
	check("a key", 0)
	for _, statement := range []string{
		"UPDATE namespaces SET id = 'elsewhere' WHERE id = 'n3'",
		"UPDATE roles SET namespace = 'n4', name = 'q' WHERE namespace = 'n3'",
		"UPDATE roles SET name = name || 's' WHERE namespace = 'n4'",
		"UPDATE plans SET namespace = 'n4', name = 'q' WHERE namespace = 'n3'",
		"UPDATE plans SET name = name || 's' WHERE namespace = 'n4'",
		"DELETE FROM plans WHERE name = 'qs'",
		"UPDATE members SET id = 'm_other' WHERE id = 'm_n3'",
		"DELETE FROM members WHERE id = 'm_other'",
		"INSERT INTO roles (namespace, name, permissions, created_at, version) VALUES ('n1', " +
			"'odd', '[1]', 1, 1)",
		"UPDATE members SET name = 'all'",
	} {
		must(t, s.Exec(statement))
		check(statement, 8)
	}
	before := m.at
	update(t, db, func(tx keystore.Tx) error {
		within := m
		within.namespaces, within.roles = maps.Clone(m.namespaces), maps.Clone(m.roles)
		within.plans, within.members = maps.Clone(m.plans), maps.Clone(m.members)
		for i := range 3 {
			must(t, tx.InsertRole(&keystore.Role{Namespace: "n0", Name: fmt.Sprint(i),
				CreatedAt: start, Version: 1}))
			p, err := tx.Policy(within.at)
			must(t, err)
			within.take(p)
			if _, ok := within.roles[keystore.RoleID{Namespace: "n0", Name: fmt.Sprint(i)}]; !ok {
				t.Errorf("role %d is invisible to the transaction that inserts it", i)
			}
		}
		p, err := tx.Policy(before)
		must(t, err)
		if len(p.Roles) != 3 {
			t.Errorf("%+v", p)
		}
		return nil
	})
	check("after the transaction", 3)
}

// testPolicyTruncated: Policy returns ErrTruncated instead of an incomplete set of changes.
func testPolicyTruncated(t *testing.T, s Store) {
	db := ready(t, s)
	update(t, db,
		func(tx keystore.Tx) error {
			return tx.InsertNamespace(&keystore.Namespace{ID: "n", CreatedAt: start})
		})
	first := position(t, db)
	insert(t, db, plain("a"))
	second := position(t, db)
	insert(t, db, plain("b"))
	if p, err := db.Policy(ctx, first); p != nil || err != nil {
		t.Fatalf("%+v, %v", p, err)
	}
	truncated := func(what string, since keystore.Position) {
		t.Helper()
		if p, err := db.Policy(ctx, since); p != nil || !errors.Is(err, keystore.ErrTruncated) {
			t.Errorf("%s: %+v, %v", what, p, err)
		}
		update(t, db, func(tx keystore.Tx) error {
			if p, err := tx.Policy(since); p != nil || !errors.Is(err, keystore.ErrTruncated) {
				t.Errorf("%s, in a transaction: %+v, %v", what, p, err)
			}
			return nil // the transaction continues
		})
	}
	truncated("another history", keystore.Position{Revision: first.Revision, Mark: second.Mark})
	truncated("beyond the head", keystore.Position{Revision: head(t, db) + 1})
	for _, test := range []struct{ what, statement string }{
		{"anything changed", fmt.Sprint("INSERT INTO change_log (revision, kind) VALUES (",
			head(t, db), ", 'all')")},
		{"an older release wrote it", "UPDATE change_log SET kind = 'policy' WHERE kind = 'all'"},
		{"a gap", fmt.Sprint("DELETE FROM change_log WHERE kind = 'policy' OR revision = ",
			second.Revision)},
	} {
		must(t, s.Exec(test.statement))
		truncated(test.what, first)
	}
	policy(t, db)
}

// testKeyCounts: the counters of keys are correct after every kind of change.
func testKeyCounts(t *testing.T, s Store) {
	db := ready(t, s)
	key := func(id, owner, namespace string) *keystore.Key {
		k := plain(id)
		k.Owner, k.Namespace = owner, namespace
		return k
	}
	check := func(what string, owned, homed map[string]int64) {
		t.Helper()
		update(t, db, func(tx keystore.Tx) error {
			for owner, want := range owned {
				if n, err := tx.CountOwned(owner); n != want || err != nil {
					t.Errorf("%s: %s owns %d, want %d: %v", what, owner, n, want, err)
				}
			}
			for namespace, want := range homed {
				if n, err := tx.CountHomed(namespace); n != want || err != nil {
					t.Errorf("%s: %d in %s, want %d: %v", what, n, namespace, want, err)
				}
			}
			return nil
		})
	}
	type counts = map[string]int64
	token := key("t", "m_1", "a")
	token.Personal, token.Grants = true, nil
	insert(t, db, key("k1", "m_1", "a"), key("k2", "m_1", "b"), key("k3", "m_2", "a"),
		key("k4", "root", "b"), key("k5", "root", "b"), key("k6", "root", "b"), token)
	check("inserted", counts{"m_1": 2, "m_2": 1, "M_1": 0, "root": 3},
		counts{"a": 2, "b": 4, "c": 0})
	if owner, namespace, err := db.MostKeys(ctx); owner != 2 || namespace != 4 || err != nil {
		t.Errorf("most: %d, %d, %v", owner, namespace, err)
	}
	edit(t, db, "k1", func(k *keystore.Key) { k.RevokedAt = start })
	edit(t, db, "k2", func(k *keystore.Key) { k.Owner = "m_2" })
	check("changed", counts{"m_1": 1, "m_2": 2}, counts{"a": 2, "b": 4})
	must(t, s.Exec("UPDATE keys SET namespace = 'c', owner = 'm_3' WHERE id IN ('k1', 'k2', 't')"))
	check("by hand", counts{"m_1": 0, "m_2": 1, "m_3": 2}, counts{"a": 1, "b": 3, "c": 2})
	update(t, db, func(tx keystore.Tx) error {
		return errors.Join(tx.DeleteKey("k1"), tx.DeleteKey("k3"))
	})
	check("deleted", counts{"m_2": 0, "m_3": 1, "root": 3}, counts{"a": 0, "b": 3, "c": 1})
}

// testRandomChanges makes random changes, in transactions that may fail and manually. A reader that
// follows them has the same copy as one that reads everything, and the counters of keys are correct.
func testRandomChanges(t *testing.T, s Store) {
	db, other := ready(t, s), s.Open(t)
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	type home struct{ owner, namespace string }
	keys := make(map[string]home)
	var followed, often mirror
	followed.take(policy(t, other))
	often.take(policy(t, other))
	created := 0
	change := func(tx keystore.Tx, keys map[string]home) error {
		id, name := pick("n1", "n2", "N1"), pick("r", "s")
		owner, namespace := pick("m_1", "m_2", "root"), pick("n1", "n2", "default")
		var err error
		switch rng.IntN(15) {
		case 0:
			err = tx.InsertNamespace(&keystore.Namespace{ID: id, Parent: pick("", "n2"),
				CreatedAt: start, Version: 1})
		case 1:
			err = tx.UpdateNamespace(&keystore.Namespace{ID: id, Kind: pick("a", "b"),
				CreatedAt: start, Version: rng.Int64N(99)})
		case 2:
			err = tx.DeleteNamespace(id)
		case 3:
			err = tx.InsertRole(&keystore.Role{Namespace: id, Name: name,
				Permissions: permissions("read"), CreatedAt: start, Version: 1})
		case 4:
			err = tx.UpdateRole(&keystore.Role{Namespace: id, Name: name,
				Permissions: permissions(pick("read", "write")), Version: rng.Int64N(99)})
		case 5:
			err = tx.DeleteRole(keystore.RoleID{Namespace: id, Name: name})
		case 6:
			err = tx.InsertMember(&keystore.Member{ID: owner, Login: pick("", "ada", "bob"),
				CreatedAt: start, Version: 1})
		case 7:
			err = tx.UpdateMember(&keystore.Member{ID: owner, Login: pick("", "ada", "bob"),
				Version: rng.Int64N(99)})
		case 8:
			err = tx.DeleteMember(owner)
		case 9, 10:
			created++
			k := plain(fmt.Sprint("k", created))
			k.Owner, k.Namespace = owner, namespace
			if err = insertKey(tx, k); err == nil {
				keys[k.ID] = home{owner, namespace}
			}
		case 11:
			err = tx.InsertPlan(&keystore.Plan{Namespace: id, Name: name, CreatedAt: start,
				Version: 1})
		case 12:
			err = tx.UpdatePlan(&keystore.Plan{Namespace: id, Name: name,
				Limits: keystore.Limits{Quota: keystore.Quota{Units: 1 + rng.Int64N(99),
					Per: keystore.Day}}, Version: rng.Int64N(99)})
		case 13:
			err = tx.DeletePlan(keystore.PlanID{Namespace: id, Name: name})
		case 14:
			for id := range keys {
				if rng.IntN(2) == 0 {
					err = tx.DeleteKey(id)
					delete(keys, id)
					break
				}
			}
		}
		if errors.Is(err, keystore.ErrExists) || errors.Is(err, keystore.ErrNotFound) {
			return nil
		}
		return err
	}
	byHand := func() {
		owner := pick("m_1", "m_2", "root")
		statement := pick(
			"UPDATE namespaces SET id = 'n3' WHERE id = 'n1'",
			"UPDATE namespaces SET id = 'n1' WHERE id = 'n3'",
			"UPDATE namespaces SET kind = 'c'", "DELETE FROM namespaces WHERE id <> 'default'",
			"UPDATE roles SET name = name || 'x' WHERE length(name) < 3",
			"UPDATE roles SET namespace = 'n2' WHERE namespace = 'n1'",
			"UPDATE plans SET name = name || 'x' WHERE length(name) < 3",
			"UPDATE plans SET namespace = 'n2' WHERE namespace = 'n1'", "DELETE FROM plans",
			"DELETE FROM roles", "UPDATE members SET login = 'eve' WHERE id = 'm_1'",
			"DELETE FROM members WHERE id = 'm_2'",
			"UPDATE members SET id = 'm_9' WHERE id = 'm_1'",
			"UPDATE members SET id = 'm_1' WHERE id = 'm_9'",
			"UPDATE keys SET owner = '"+owner+"'", "UPDATE keys SET name = 'x'",
		)
		// Some statements fail, for example if the row exists already.
		if s.Exec(statement) == nil && strings.HasPrefix(statement, "UPDATE keys SET owner") {
			for id, at := range keys {
				keys[id] = home{owner, at.namespace}
			}
		}
	}
	refusal := errors.New("no")
	for step := range 150 {
		if rng.IntN(4) == 0 {
			byHand()
		} else {
			then := maps.Clone(keys)
			failed := rng.IntN(5) == 0
			_, err := db.Update(ctx, func(tx keystore.Tx) error {
				for range 1 + rng.IntN(4) {
					if err := change(tx, then); err != nil {
						return err
					}
				}
				if failed {
					return refusal
				}
				return nil
			})
			if failed {
				wantErr(t, err, refusal)
			} else if err != nil {
				t.Fatalf("step %d: %v", step, err)
			} else {
				keys = then
			}
		}
		mirrors := []*mirror{&often}
		if rng.IntN(7) == 0 {
			mirrors = append(mirrors, &followed)
		}
		for _, m := range mirrors {
			p, err := other.Policy(ctx, m.at)
			must(t, err)
			m.take(p)
			whole := mirror{}
			whole.take(policy(t, other))
			whole.at = m.at
			if !reflect.DeepEqual(*m, whole) {
				t.Fatalf("step %d: copy\n%+v, want\n%+v", step, *m, whole)
			}
		}
	}
	owned, homed := make(map[string]int64), make(map[string]int64)
	for _, at := range keys {
		owned[at.owner]++
		homed[at.namespace]++
	}
	update(t, db, func(tx keystore.Tx) error {
		for _, owner := range []string{"m_1", "m_2", "root"} {
			if n, err := tx.CountOwned(owner); n != owned[owner] || err != nil {
				t.Errorf("%s owns %d keys, want %d: %v", owner, n, owned[owner], err)
			}
		}
		for _, namespace := range []string{"n1", "n2", "default"} {
			if n, err := tx.CountHomed(namespace); n != homed[namespace] || err != nil {
				t.Errorf("%d keys in %s, want %d: %v", n, namespace, homed[namespace], err)
			}
		}
		return nil
	})
}

// testKeysHolding: KeysHolding returns the keys that have a role, and RoleHeld the namespaces in
// which grants name it.
func testKeysHolding(t *testing.T, s Store) {
	db := ready(t, s)
	type grants = []keystore.Grant
	key := func(id, home string, g grants) *keystore.Key {
		k := plain(id)
		k.Namespace, k.Grants = home, g
		return k
	}
	shared := func(name string) keystore.RoleID {
		return keystore.RoleID{Namespace: keystore.AnyNamespace, Name: name}
	}
	local := func(namespace, name string) keystore.RoleID {
		return keystore.RoleID{Namespace: namespace, Name: name}
	}
	check := func(role keystore.RoleID, reaches, keys string) {
		t.Helper()
		update(t, db, func(tx keystore.Tx) error {
			held, err := tx.RoleHeld(role)
			must(t, err)
			var got []string
			for _, r := range held {
				got = append(got, fmt.Sprint(r.Namespace, map[bool]string{true: "+"}[r.Connected]))
			}
			slices.Sort(got)
			if strings.Join(got, " ") != reaches {
				t.Errorf("%v is held in %v, want %s", role, got, reaches)
			}
			all := strings.Fields(keys)
			for _, limit := range []int{1, 9} {
				var ids []string
				must(t, tx.KeysHolding(role, []string{"a", "b", "b", "", "none"},
					func(k *keystore.Key) bool {
						is, err := db.Key(ctx, k.ID)
						must(t, err)
						if k.Name != is.Name || k.Namespace != is.Namespace || k.Owner != is.Owner ||
							!reflect.DeepEqual(k.Grants, is.Grants) {
							t.Errorf("key %+v, want %+v", k, is)
						}
						ids = append(ids, k.ID)
						return len(ids) < limit
					}))
				if len(ids) != min(limit, len(all)) ||
					slices.ContainsFunc(ids, func(id string) bool {
						return !slices.Contains(all, id)
					}) {
					t.Errorf("%v have role %v, want %d of %s", ids, role, limit, keys)
				}
			}
			must(t, tx.KeysHolding(role, nil, func(k *keystore.Key) bool {
				t.Errorf("in no namespace: %s", k.ID)
				return false
			}))
			return nil
		})
	}
	insert(t, db,
		key("k1", "a", grants{{Namespace: "a", Roles: []string{"r", "s", "r"}},
			{Namespace: "b", Roles: []string{"r"}, Connected: true},
			{Namespace: "c", Roles: []string{"r"}}}),
		key("k2", "a", grants{{Namespace: "a", Roles: []string{"r"}},
			{Namespace: "a", Roles: []string{"r"}, Connected: true},
			{Namespace: "*", Roles: []string{"t"}}}),
		key("k3", "b", grants{{Namespace: "a", Roles: []string{"r"}}, {Namespace: "d"}}),
		key("k4", "elsewhere", grants{{Namespace: "a", Roles: []string{"r"}},
			{Namespace: "zz", Roles: []string{"t"}}}),
		key("k5", "b", nil),
	)
	check(shared("r"), "a a+ b+ c", "k1 k2 k3")
	check(local("a", "r"), "a a+", "k1 k2 k3")
	check(local("b", "r"), "b+", "k1")
	check(local("d", "r"), "", "")
	check(shared("s"), "a", "k1")
	check(shared("t"), "* zz", "k2")
	check(local("zz", "t"), "zz", "")
	check(shared("R"), "", "")
	check(local("A", "r"), "", "")
	check(shared(""), "", "")

	edit(t, db, "k1", func(k *keystore.Key) {
		k.Grants, k.RevokedAt = grants{{Namespace: "b", Roles: []string{"r"}}}, start
	})
	check(shared("r"), "a a+ b", "k2 k3")
	check(shared("s"), "", "")
	must(t, s.Exec(`UPDATE keys SET grants = '[{"namespace":"b","roles":["s"],"connected":true},
		{"namespace":"b","roles":["s"],"connected":false}]', namespace = 'b' WHERE id = 'k4'`))
	check(shared("s"), "b b+", "k4")
	check(shared("t"), "*", "k2")
	must(t, s.Exec("UPDATE keys SET namespace = 'elsewhere' WHERE id = 'k4'"))
	check(shared("s"), "b b+", "")
	must(t, s.Exec("DELETE FROM keys WHERE id = 'k4'"))
	check(shared("s"), "", "")
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteKey("k2") })
	check(shared("r"), "a b", "k3")
	check(shared("t"), "", "")
}

// testPersonal: a member's token is a key that no list contains and no count includes.
func testPersonal(t *testing.T, s Store) {
	db := ready(t, s)
	token := func(id, owner string) *keystore.Key {
		k := full(id)
		k.Owner, k.Personal, k.Grants = owner, true, nil
		k.RevokedAt, k.RevokedBy, k.RevokeReason = never, "", ""
		return k
	}
	owned := func(id, owner string) *keystore.Key {
		k := plain(id)
		k.Owner = owner
		return k
	}
	gone := owned("gone", "m_1")
	gone.RevokedAt = start
	insert(t, db, owned("a", "m_1"), owned("b", "m_1"), owned("c", "m_2"), gone, token("t1", "m_1"),
		token("t3", "m_3"))
	check := func(member, want string, owned int64) {
		t.Helper()
		update(t, db, func(tx keystore.Tx) error {
			k, err := tx.PersonalKey(member)
			must(t, err)
			if want == "" {
				if k != nil {
					t.Errorf("the token of %s is %s", member, k.ID)
				}
			} else {
				wantKey(t, k, token(want, member))
			}
			if n, err := tx.KeysOwnedBy(member); n != owned || err != nil {
				t.Errorf("%s owns %d keys (%v), want %d", member, n, err, owned)
			}
			if ids, err := tx.OwnedKeys(member, 10); int64(len(ids)) != owned || err != nil {
				t.Errorf("%s owns the keys %q (%v), want %d", member, ids, err, owned)
			}
			return nil
		})
	}
	check("m_1", "t1", 2)
	tokens, err := db.MemberTokens(ctx, []string{"m_3", "m_2", "m_1", "nobody"})
	must(t, err)
	if len(tokens) != 2 {
		t.Fatalf("tokens: %+v", tokens)
	}
	wantKey(t, &tokens[0], token("t1", "m_1"))
	wantKey(t, &tokens[1], token("t3", "m_3"))
	check("m_2", "", 1)
	check("m_3", "t3", 0)
	check("M_1", "", 0)

	got, err := db.Key(ctx, "t1")
	must(t, err)
	wantKey(t, got, token("t1", "m_1"))
	if lookup(t, db, digest("t1 new")) != "t1" {
		t.Error("a member's token is not valid")
	}
	for _, f := range []keystore.KeyFilter{
		{}, {Owner: "m_1"}, {CreatedBy: "k_1"}, {Text: "t1"}, {Namespaces: []string{"acme"}},
		{Status: keystore.StatusInactive, Now: start},
		{Status: keystore.StatusExpired, Now: start.Add(2 * time.Hour)},
		{Visible: []string{}, OrOwners: []string{"m_1"}},
	} {
		for _, id := range all(t, db, f, 2) {
			if strings.HasPrefix(id, "t") {
				t.Errorf("%+v lists the token %s", f, id)
			}
		}
	}
	counts, err := db.CountKeys(ctx)
	must(t, err)
	if counts[keystore.StatusActive] != 3 || counts[keystore.StatusRevoked] != 1 ||
		counts[keystore.StatusInactive]+counts[keystore.StatusExpired] != 0 {
		t.Errorf("counts %v", counts)
	}

	// A member has at most one token that is not revoked.
	if _, err := db.Update(ctx, func(tx keystore.Tx) error {
		return insertKey(tx, token("t2", "m_1"))
	}); err == nil {
		t.Error("a member has two tokens")
	}
	edit(t, db, "t1", func(k *keystore.Key) { k.RevokedAt = start })
	check("m_1", "", 2)
	insert(t, db, token("t2", "m_1"))
	check("m_1", "t2", 2)
	if counts, err := db.CountKeys(ctx); err != nil || counts[keystore.StatusRevoked] != 1 {
		t.Errorf("counts %v, %v, with a token revoked", counts, err)
	}
}

// testOwnedHomes: the homes of a member's keys, without those of revoked keys and of its token.
func testOwnedHomes(t *testing.T, s Store) {
	db := ready(t, s)
	owned := func(id, owner, home string) *keystore.Key {
		k := plain(id)
		k.Owner, k.Namespace = owner, home
		return k
	}
	check := func(member, want string) {
		t.Helper()
		compare := func(homes []string, err error) {
			t.Helper()
			slices.Sort(homes)
			if got := fmt.Sprintf("%q", homes); err != nil || got != want {
				t.Errorf("the homes of the keys of %s are %s (%v), want %s", member, got, err, want)
			}
		}
		compare(db.OwnedHomes(ctx, member))
		update(t, db, func(tx keystore.Tx) error {
			compare(tx.OwnedHomes(member))
			return nil
		})
	}
	token := owned("t", "m_1", "token")
	token.Personal = true
	expired, inactive := owned("f", "m_1", "e"), owned("g", "m_1", "~")
	expired.ExpiresAt, inactive.Active = start, false
	insert(t, db, token, expired, inactive, owned("a", "m_1", "b"), owned("b", "m_1", "b"),
		owned("c", "m_1", "B"), owned("d", "m_1", "a"), owned("e", "m_2", "c"),
		owned("h", "m_1", "-"))
	check("m_1", `["-" "B" "a" "b" "e" "~"]`)
	check("m_2", `["c"]`)
	check("m_3", `[]`)
	check("M_1", `[]`)

	edit(t, db, "d", func(k *keystore.Key) { k.RevokedAt = start })
	edit(t, db, "a", func(k *keystore.Key) { k.RevokedAt = start })
	check("m_1", `["-" "B" "b" "e" "~"]`)
	update(t, db, func(tx keystore.Tx) error {
		must(t, tx.SetOwner([]string{"b", "c", "d"}, "m_2"))
		homes, err := tx.OwnedHomes("m_2")
		if len(homes) != 3 || err != nil {
			t.Errorf("in the transaction that gives it keys, m_2 has keys in %q, %v", homes, err)
		}
		return nil
	})
	check("m_1", `["-" "e" "~"]`)
	check("m_2", `["B" "b" "c"]`)
}

func testFormerNamespaces(t *testing.T, s Store) {
	db := ready(t, s)
	insert := func(id string) {
		update(t, db, func(tx keystore.Tx) error {
			return tx.InsertNamespace(&keystore.Namespace{ID: id, CreatedAt: start, Version: 1})
		})
	}
	former := func(id string) (former bool) {
		update(t, db, func(tx keystore.Tx) (err error) {
			former, err = tx.FormerNamespace(id)
			return err
		})
		return former
	}
	for _, id := range []string{"kept", "gone", "by-hand", "renamed"} {
		insert(id)
	}
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteNamespace("gone") })
	must(t, s.Exec("DELETE FROM namespaces WHERE id = 'by-hand'"))
	must(t, s.Exec("UPDATE namespaces SET id = 'another' WHERE id = 'renamed'"))
	for id, want := range map[string]bool{
		"kept": false, "gone": true, "Gone": false, "by-hand": true, "renamed": true,
		"another": false,
	} {
		if former(id) != want {
			t.Errorf("%s was deleted: %v", id, !want)
		}
	}
	insert("gone")
	update(t, db, func(tx keystore.Tx) error { return tx.DeleteNamespace("gone") })
	if !former("gone") {
		t.Error("gone is unknown after it was deleted again")
	}
}

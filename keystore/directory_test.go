package keystore

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// TestRandomParents builds directories from random parents, including cycles, which SQL can create.
// All walks must end and agree with lineage.
func TestRandomParents(t *testing.T) {
	for seed := range uint64(30) {
		checkParents(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzParents(f *testing.F) {
	f.Fuzz(func(t *testing.T, seed uint64) { checkParents(t, seed) })
}

// lineage returns the ancestors of a namespace, the nearest first. ok is false if there are too
// many or they form a cycle.
func lineage(parents map[string]string, id string) (above []string, ok bool) {
	for at := parents[id]; at != ""; at = parents[at] {
		if above = append(above, at); len(above) == MaxDepth {
			return nil, false
		}
	}
	return above, true
}

func checkParents(t *testing.T, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	n := 1 + rng.IntN(3*MaxDepth)
	chains := rng.IntN(3) > 0 // mostly the previous namespace as the parent; else any
	parents := make(map[string]string)
	p := new(Policy)
	for i := range n {
		id, parent := fmt.Sprint("n", i), ""
		switch {
		case i > 0 && chains && rng.IntN(40) > 0:
			parent = fmt.Sprint("n", i-1)
		case rng.IntN(n) > n/8:
			parent = fmt.Sprint("n", rng.IntN(n))
		}
		parents[id] = parent
		ns := Namespace{ID: id, Parent: parent, Kind: "k"}
		if rng.IntN(2) == 0 {
			ns.Reach = []string{"k"}
		}
		p.Namespaces = append(p.Namespaces, ns)
	}
	d := NewDirectory(p)
	record := func(home string, connected bool) *Record {
		k := &Key{ID: "k", Namespace: home, Owner: RootMember, Active: true,
			Secrets: []Secret{{Digest: Digest{1}}},
			Grants: []Grant{{Namespace: home, Connected: connected,
				Permissions: MustParsePermissions("read")}}}
		return NewRecord(k, Digest{1})
	}
	everywhere := record(AnyNamespace, false)
	for _, listed := range p.Namespaces {
		ns := d.Namespace(listed.ID)
		above, ok := lineage(parents, ns.ID)
		if got := ns.Unreadable == ""; got != ok || listed.Unreadable != ns.Unreadable {
			t.Errorf("%s below %v: unreadable %q, listed as %q", ns.ID, above, ns.Unreadable,
				listed.Unreadable)
		}
		if got := Decide(everywhere, &Request{Policy: d, Namespace: ns}); got != OK {
			t.Errorf("a grant in all namespaces gives %v in %s", got, ns.ID)
		}
		for _, other := range p.Namespaces {
			from := d.Namespace(other.ID)
			reached, below := len(from.Reach) > 0, slices.Contains(above, from.ID)
			if got := d.ancestor(from.ID, ns); got != below {
				t.Errorf("%s is an ancestor of %s: %t", from.ID, ns.ID, got)
			}
			for _, connected := range []bool{false, true} {
				want := Forbidden
				if ok && (from == ns || connected && ns.Parent == from.ID || reached && below) {
					want = OK
				}
				if got := Decide(record(from.ID, connected),
					&Request{Policy: d, Namespace: ns}); got != want {
					t.Errorf("a grant in %s, connected %t, gives %v in %s, want %v",
						from.ID, connected, got, ns.ID, want)
				}
			}
		}
	}
}

// TestChangedDirectory makes random changes to a directory. After each, it must equal a directory
// that is built from all rows.
func TestChangedDirectory(t *testing.T) {
	for seed := range uint64(50) {
		checkChanges(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzChangedDirectory(f *testing.F) {
	f.Fuzz(func(t *testing.T, seed uint64) { checkChanges(t, seed) })
}

func checkChanges(t *testing.T, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	rows := make(map[Object]any)
	random := func(o Object) any {
		switch o.Kind {
		case NamespaceObject:
			ns := Namespace{ID: o.Name, Parent: pick("", "", "n1", "n2", "n3", "n4", "elsewhere"),
				Kind: pick("", "k", "l")}
			if rng.IntN(2) == 0 {
				ns.Reach = []string{pick("k", "l")}
			}
			if rng.IntN(9) == 0 {
				ns.Unreadable = "by hand"
			}
			return ns
		case RoleObject:
			return Role{Namespace: o.Namespace, Name: o.Name,
				Permissions: MustParsePermissions(pick("read", "write", "orders:read"))}
		}
		m := Member{ID: o.Name, Login: pick("", "ada", "bob", "eve") + o.Name,
			Active: rng.IntN(3) > 0}
		for i := range rng.IntN(3) {
			m.Grants = append(m.Grants, Grant{Namespace: fmt.Sprint("n", i),
				Roles:       []string{pick("r", "developer")},
				Permissions: MustParsePermissions(pick("read", "write"))})
		}
		return m
	}
	add := func(p *Policy, row any) {
		switch row := row.(type) {
		case Namespace:
			p.Namespaces = append(p.Namespaces, row)
		case Role:
			p.Roles = append(p.Roles, row)
		case Member:
			p.Members = append(p.Members, row)
		}
	}
	d := NewDirectory(new(Policy))
	for step := range 20 {
		p := &Policy{Revision: Revision(step)}
		for range rng.IntN(4) {
			o := Object{Kind: NamespaceObject, Name: pick("n1", "n2", "n3", "n4", "n5")}
			switch rng.IntN(3) {
			case 0:
				o = Object{Kind: RoleObject, Namespace: pick("n1", "n2", AnyNamespace),
					Name: pick("r", "s", "developer")}
				if o.Name == "developer" && o.Namespace == AnyNamespace {
					continue // built in
				}
			case 1:
				o = Object{Kind: MemberObject, Name: pick("m1", "m2", "m3")}
			}
			if slices.Contains(p.Changed, o) {
				continue
			}
			p.Changed = append(p.Changed, o)
			if delete(rows, o); rng.IntN(3) > 0 {
				rows[o] = random(o)
				add(p, rows[o])
			}
		}
		before := shape(d)
		next := d.With(p, nil)
		if got := shape(d); !reflect.DeepEqual(got, before) {
			t.Fatalf("step %d modified the previous directory:\n%v\n%v", step, got, before)
		}
		d = next
		all := &Policy{Revision: p.Revision, Whole: true}
		for _, row := range rows {
			add(all, row)
		}
		for id, sum := range d.TallyByNamespace() {
			var want Tally
			for other, ns := range d.namespaces {
				for at := range d.Ancestry(ns) {
					if at.ID == id {
						want = want.plus(d.usage.each[other], 1)
						break
					}
				}
			}
			if _, cycle := d.Depth(d.namespaces[id]); sum != want && !cycle {
				t.Fatalf("step %d: tally of %s is %+v, want %+v", step, id, sum, want)
			}
		}
		if got, want := shape(d), shape(NewDirectory(all)); !reflect.DeepEqual(got, want) {
			t.Fatalf("step %d, %+v:\n%v\n%v", step, p, got, want)
		}
	}
}

// shape returns the contents of a directory for comparisons.
func shape(d *Directory) map[string]any {
	s := map[string]any{"revision": d.revision, "usage": d.usage.all, "each": d.usage.each}
	for id, ns := range d.namespaces {
		ns := *ns
		ns.reachedBy = slices.Sorted(slices.Values(ns.reachedBy))
		s["namespace "+id] = ns
	}
	for id, list := range d.reached {
		var ids []string
		for _, ns := range list {
			if d.namespaces[ns.ID] != ns {
				s["stale "+ns.ID] = id
			}
			ids = append(ids, ns.ID)
		}
		slices.Sort(ids)
		s["reached from "+id] = ids
	}
	for id, r := range d.roles {
		s[fmt.Sprint("role ", id)] = []any{*r.Role, r.set}
	}
	for id, m := range d.members {
		s["member "+id] = []any{*m.Member, m.grants}
	}
	for login, m := range d.logins {
		s["login "+login] = m.ID
	}
	for login, m := range d.groups {
		s["group "+login] = m.ID
	}
	return s
}

// TestLargeDirectories checks that the cost of a change is comparable to that of building the
// directory, however deep namespaces are nested and however many of them reach others.
func TestLargeDirectories(t *testing.T) {
	p := new(Policy)
	for i := range 6000 {
		ns := Namespace{ID: fmt.Sprint("n", i), Kind: "k", Reach: []string{"k"}, ChildPrefix: "n"}
		if i%MaxDepth > 0 {
			ns.Parent = fmt.Sprint("n", i-1)
		}
		p.Namespaces = append(p.Namespaces, ns)
	}
	took := func(f func()) time.Duration {
		least := time.Hour
		for range 3 {
			start := time.Now()
			f()
			least = min(least, time.Since(start))
		}
		return least
	}
	var d *Directory
	built := took(func() { d = NewDirectory(p) })
	for name, check := range map[string]func(){
		"change a namespace": func() {
			d.With(&Policy{Namespaces: []Namespace{*d.namespaces["n7"]},
				Changed: []Object{{Kind: NamespaceObject, Name: "n7"}}}, nil)
		},
		"count the resources of all namespaces": func() { d.TallyByNamespace() },
	} {
		if cost := took(check); cost > 30*built { // quadratic code takes hundreds of times as long
			t.Errorf("%s took %v; building the directory took %v", name, cost, built)
		}
	}
}

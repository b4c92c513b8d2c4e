package keystore

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
)

func perms(t testing.TB, list string) *Set {
	t.Helper()
	var ps []Permission
	for _, s := range strings.Fields(list) {
		p, err := ParsePermission(s)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	return NewSet(ps...)
}

func TestParsePermission(t *testing.T) {
	for _, s := range []string{"*", "read", "write", "orders:read", "orders:*", "orders:search",
		"a.b_c-d:Get-Order.1", "admin:*", "admin.keys:create", "0:0"} {
		if p, err := ParsePermission(s); err != nil || p.String() != s {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "Read", "delete", ":read", "orders:", "Orders:read",
		"orders:a b", "orders:a:b", "-a:read", "a:-x", "a:*x", "*:read", "*:*", "orders :read",
		"é:read", "orders:é"} {
		if _, err := ParsePermission(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
}

func TestAllows(t *testing.T) {
	read, write := Need{Class: Read}, Need{Class: Write}
	ordersRead := Need{Class: Read, Resource: "orders"}
	ordersWrite := Need{Class: Write, Resource: "orders"}
	search := Need{Class: Read, Resource: "orders", Operation: "search"}
	for _, c := range []struct {
		set  string
		need Need
		want bool
	}{
		{"", read, false}, {"*", read, true}, {"*", write, true}, {"read", read, true},
		{"read", write, false}, {"write", read, false},
		{"*", search, true}, {"read", search, true}, {"write", search, false},
		{"read", ordersRead, true},
		{"orders:read", ordersRead, true}, {"orders:read", ordersWrite, false},
		{"orders:read", read, false}, {"orders:read", search, true},
		{"orders:*", ordersWrite, true}, {"orders:*", search, true}, {"orders:*", read, false},
		{"orders:search", search, true}, {"orders:search", ordersRead, false},
		{"orders:Search", search, false}, {"items:search", search, false},
		{"* read orders:*", Need{Class: Read, Resource: "orders", Undeclared: true}, false},
		{"admin:*", Need{Undeclared: true}, false},
		{"* read write", adminNeed("admin.keys", "read"), false},
		{"* read write", adminNeed("admin.keys", "create"), false},
		{"*", adminNeed("admin", "x"), false},
		{"admin:*", adminNeed("admin.keys", "create"), true}, {"admin:*", read, false},
		{"admin:read", adminNeed("admin.keys", "read"), true},
		{"admin:read", adminNeed("admin.keys", "create"), false},
		{"admin.keys:create", adminNeed("admin.keys", "create"), true},
		{"admin.keys:create", adminNeed("admin.keys", "read"), false},
		{"admin.keys:*", adminNeed("admin.namespaces", "read"), false},
		{"admin:*", Need{Class: Read, Resource: "administrator"}, false},
		{"read", Need{Class: Read, Resource: "administrator"}, true},
	} {
		if got := perms(t, c.set).Allows(c.need); got != c.want {
			t.Errorf("[%s] allows %v: %v", c.set, c.need, got)
		}
	}
}

// TestPermissionWithoutAction checks that a permission without an action, which ParsePermission
// never returns, allows nothing.
func TestPermissionWithoutAction(t *testing.T) {
	if NewSet(Permission{Resource: "orders"}).Allows(Need{Class: Read, Resource: "orders"}) {
		t.Error("it allows reading")
	}
}

func TestIntersection(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"read", "read", "read"}, {"read", "write", ""}, {"", "*", ""},
		{"read", "orders:read", "orders:read"}, {"*", "read orders:search", "orders:search,read"},
		{"orders:* read", "orders:search write", "orders:search,orders:write"},
		{"orders:*", "read", "orders:read"}, {"read", "orders:* billing:x", "orders:read"},
		{"orders:* read", "orders:read", "orders:read"}, {"orders:search", "read", ""},
		{"read orders:write", "orders:search", "orders:search"},
		{"orders:search", "read write", "orders:search"},
		{"read write", "*", "*,read,write"}, {"admin:*", "admin.keys:*", "admin.keys:*"},
		{"* read", "admin:*", ""}, {"admin:* read", "* admin.keys:create", "admin.keys:create,read"},
	} {
		a, b := perms(t, c.a), perms(t, c.b)
		if got := Intersection(a, b).String(); got != c.want {
			t.Errorf("[%s] and [%s]: %s, want %s", c.a, c.b, got, c.want)
		}
		if Intersection(a, b) != Intersection(b, a) {
			t.Errorf("[%s] and [%s]: the order matters", c.a, c.b)
		}
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		set, p string
		want   bool
	}{
		{"read write", "*", true}, {"read write", "orders:*", true},
		{"read write", "orders:search", true}, {"*", "read", true}, {"*", "orders:search", true},
		{"read", "orders:read", true}, {"read", "orders:search", false}, {"read", "*", false},
		{"read", "write", false}, {"read", "orders:*", false}, {"write", "orders:write", true},
		{"orders:*", "orders:search", true}, {"orders:read orders:write", "orders:*", true},
		{"orders:read orders:write", "orders:search", true},
		{"orders:read", "orders:search", false},
		{"orders:read", "orders:read", true}, {"orders:read", "orders:write", false},
		{"orders:write", "orders:write", true}, {"orders:write", "orders:read", false},
		{"orders:search", "orders:search", true}, {"orders:*", "read", false},
		{"orders:*", "items:read", false},
		{"* read write", "admin:read", false}, {"* read write", "admin.keys:create", false},
		{"admin:*", "admin.keys:create", true}, {"admin:*", "admin:read", true},
		{"admin:*", "*", false},
		{"admin:read", "admin.keys:read", true}, {"admin:read", "admin.keys:create", false},
		{"admin:read", "admin.keys:*", false}, {"admin.keys:*", "admin.keys:create", true},
		{"admin.keys:*", "admin:*", false},
	} {
		p, err := ParsePermission(c.p)
		if err != nil {
			t.Fatal(err)
		}
		if got := perms(t, c.set).Covers(p); got != c.want {
			t.Errorf("[%s] covers %s: %v", c.set, c.p, got)
		}
	}
}

// TestCoveringSetAllowsNoLess checks random pairs of sets. A set that covers each permission of
// another must allow every request that the other allows. Otherwise a key could do more than its
// creator.
func TestCoveringSetAllowsNoLess(t *testing.T) {
	words := strings.Fields("* read write a:read a:write a:x a:y a:* b:read b:* admin:read " +
		"admin:write admin:* admin.keys:read admin.keys:create admin.keys:*")
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() *Set {
		var picked []string
		for _, w := range words {
			if rng.IntN(4) == 0 {
				picked = append(picked, w)
			}
		}
		return perms(t, strings.Join(picked, " "))
	}
	for range 20_000 {
		has, gives := random(), random()
		covered := true
		for _, p := range gives.Permissions() {
			covered = covered && has.Covers(p)
		}
		if !covered {
			continue
		}
		for _, class := range []Class{Read, Write} {
			for _, n := range []Need{
				{Class: class},
				{Class: class, Resource: "a"},
				{Class: class, Resource: "a", Operation: "x"},
				{Class: class, Resource: "b"},
				{Class: class, Resource: "b", Operation: "z"},
				{Class: class, Resource: "admin.keys", Operation: "create"},
				{Class: class, Resource: "admin.keys"},
				{Class: class, Resource: "admin.roles"},
			} {
				if gives.Allows(n) && !has.Allows(n) {
					t.Fatalf("[%s] covers [%s], but only the latter allows %v %v",
						has, gives, class, n)
				}
			}
		}
	}
}

func TestEqualSetsShareMemory(t *testing.T) {
	a := perms(t, "read orders:search")
	if b := perms(t, "orders:search read read"); a != b || a.String() != "orders:search,read" {
		t.Errorf("%p %p %s", a, b, a)
	}
	runtime.KeepAlive(a)
}

// TestUnusedSetsAreForgotten checks that sets that no key has any more do not fill the memory.
func TestUnusedSetsAreForgotten(t *testing.T) {
	var sets interner[Set]
	used := sets.intern("read", new(Set))
	sets.intern("write", new(Set))
	for deadline := time.Now().Add(30 * time.Second); ; runtime.GC() {
		left := 0
		sets.values.Range(func(any, any) bool { left++; return true })
		if left == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sets are left, want 1", left)
		}
	}
	if sets.find("read") != used || sets.find("write") != nil {
		t.Error("the wrong set is left")
	}
}

// adminNeed returns the need of an operation on an admin resource.
func adminNeed(resource, operation string) Need {
	if operation == "read" {
		return Need{Class: Read, Resource: resource}
	}
	return Need{Class: Write, Resource: resource, Operation: operation}
}

package keystore

import (
	"fmt"
	"slices"
	"strings"
)

// Class says whether a request reads or writes.
type Class uint8

const (
	Read Class = iota
	Write
	UnknownClass // allowed by what allows everything
)

func (c Class) String() string {
	return [...]string{"read", "write", "*"}[c]
}

const (
	adminResource = "admin"
	// maxPermission bounds, in bytes, what may stand in a record, a header and a refusal.
	maxPermission = 200
)

// A Permission is one string that allows something: `*`, `read`, `write`, or `<resource>:<action>`
// where the action is `read`, `write`, `*` or an operation. Its zero value is no permission.
type Permission struct {
	Resource string // empty for `*`, `read` and `write`
	Action   string
}

// ParsePermission reads one permission. The error says what is wrong with it.
func ParsePermission(s string) (Permission, error) {
	if len(s) > maxPermission {
		return Permission{}, fmt.Errorf("a permission of %d characters is too long: %d are the most", len(s), maxPermission)
	}
	resource, action, scoped := strings.Cut(s, ":")
	if !scoped {
		if s != "*" && s != "read" && s != "write" {
			return Permission{}, fmt.Errorf("permission %q is none of *, read, write, "+
				"RESOURCE:read, RESOURCE:write, RESOURCE:OPERATION, RESOURCE:*", s)
		}
		return Permission{Action: s}, nil
	}
	if !ValidResource(resource) {
		return Permission{}, fmt.Errorf("permission %q: a resource starts with a-z or 0-9 and "+
			"goes on with these, '.', '_' or '-'", s)
	}
	if action != "*" && !validOperation(action) {
		return Permission{}, fmt.Errorf("permission %q: after the colon comes read, write, * or "+
			"an operation: a letter or digit, then these, '.', '_' or '-'", s)
	}
	return Permission{Resource: resource, Action: action}, nil
}

func (p Permission) String() string {
	if p.Resource == "" {
		return p.Action
	}
	return p.Resource + ":" + p.Action
}

// IsAdmin reports whether p is about the product's own resources, `admin` and `admin.…`, which `*`,
// `read` and `write` never reach.
func (p Permission) IsAdmin() bool { return IsAdminResource(p.Resource) }

// IsAdminResource reports whether a resource is the product's own.
func IsAdminResource(r string) bool {
	return r == adminResource || strings.HasPrefix(r, adminResource+".")
}

// ValidResource reports whether s is `[a-z0-9][a-z0-9._-]*`.
func ValidResource(s string) bool {
	return s != "" && strings.ToLower(s) == s && validOperation(s)
}

// ValidOperation reports whether s is `[A-Za-z0-9][A-Za-z0-9._-]*` and neither `read` nor `write`.
func ValidOperation(s string) bool {
	return validOperation(s) && s != "read" && s != "write"
}

func validOperation(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isBase62[c] && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return s != ""
}

// A Need is what a request takes: one class, on one resource if the route names one, and one
// operation of it if the route's table names one.
type Need struct {
	Class     Class
	Resource  string // empty: none
	Operation string // empty: none; set only beside Resource

	Undeclared bool // the route's table has no such call, and is to be complete: nothing allows it
}

// String is the most specific permission that would do; empty if none would.
func (n Need) String() string {
	switch {
	case n.Undeclared:
		return ""
	case n.Resource == "":
		return n.Class.String()
	case n.Operation == "":
		return n.Resource + ":" + n.Class.String()
	default:
		return n.Resource + ":" + n.Operation
	}
}

// A Set holds the permissions of one grant, or of several taken together. It does not change once
// made; the nil Set holds nothing.
type Set struct {
	unscoped  actions
	resources map[string]actions
	list      []Permission // sorted, without duplicates
	text      string       // list joined with commas
}

// actions is what a set holds on one resource, or without one.
type actions struct {
	all, read, write bool
	operations       map[string]bool
}

func (a actions) class(c Class) bool {
	return a.all || c == Read && a.read || c == Write && a.write
}

// everything reports whether a covers all on its resource: spec section 3, "covers".
func (a actions) everything() bool { return a.all || a.read && a.write }

// NewSet returns the set of ps. Equal sets that are in use are one and the same in memory.
func NewSet(ps ...Permission) *Set {
	list := slices.Clone(ps)
	slices.SortFunc(list, func(a, b Permission) int {
		return strings.Compare(a.String(),
			b.String())
	})
	list = slices.Compact(list)
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = p.String()
	}
	text := strings.Join(words, ",")
	if s := sets.find(text); s != nil {
		return s
	}
	s := &Set{list: list, text: text, resources: make(map[string]actions)}
	for _, p := range list {
		if p.Resource == "" {
			s.unscoped = s.unscoped.with(p.Action)
		} else {
			s.resources[p.Resource] = s.resources[p.Resource].with(p.Action)
		}
	}
	return sets.intern(text, s)
}

func (a actions) with(action string) actions {
	switch action {
	case "*":
		a.all = true
	case "read":
		a.read = true
	case "write":
		a.write = true
	default:
		if a.operations == nil {
			a.operations = make(map[string]bool)
		}
		a.operations[action] = true
	}
	return a
}

// sets keeps one copy of each set in use: a million keys have few different ones.
var sets interner[Set]

// Permissions returns what s holds, sorted.
func (s *Set) Permissions() []Permission {
	if s == nil {
		return nil
	}
	return s.list
}

// String is the permissions, sorted, joined with commas.
func (s *Set) String() string {
	if s == nil {
		return ""
	}
	return s.text
}

// Allows reports whether s allows what a request needs (spec section 3).
func (s *Set) Allows(n Need) bool {
	if s == nil || n.Undeclared {
		return false
	}
	if IsAdminResource(n.Resource) {
		if s.resources[adminResource].class(n.Class) {
			return true
		}
	} else if s.unscoped.class(n.Class) {
		return true
	}
	if n.Resource == "" {
		return false
	}
	on := s.resources[n.Resource]
	return on.class(n.Class) || n.Operation != "" && on.operations[n.Operation]
}

// Covers reports whether whoever holds s may give p (spec section 3). A class never covers an
// operation.
func (s *Set) Covers(p Permission) bool {
	if s == nil {
		return false
	}
	wide := s.unscoped
	if p.IsAdmin() {
		wide = s.resources[adminResource]
	}
	if wide.everything() || p.Action == "read" && wide.read || p.Action == "write" && wide.write {
		return true
	}
	if p.Resource == "" {
		return false
	}
	on := s.resources[p.Resource]
	return on.everything() || p.Action == "read" && on.read || p.Action == "write" && on.write ||
		on.operations[p.Action]
}

// Union returns a set that holds what any of its parts holds.
func Union(parts ...*Set) *Set {
	var all []Permission
	for _, s := range parts {
		all = append(all, s.Permissions()...)
	}
	return NewSet(all...)
}

// data returns what s holds but for the product's own resources.
func (s *Set) Data() *Set {
	return NewSet(slices.DeleteFunc(slices.Clone(s.Permissions()), Permission.IsAdmin)...)
}

// intersection holds what both hold.
func Intersection(a, b *Set) *Set {
	var list []Permission
	for _, p := range a.Permissions() {
		if b.Covers(p) {
			list = append(list, p)
		}
	}
	for _, p := range b.Permissions() {
		if a.Covers(p) {
			list = append(list, p)
		}
	}
	return NewSet(list...)
}

// Access is the short name of a permission set.
type Access string

const (
	ReadOnly  Access = "read_only"  // read
	ReadWrite Access = "read_write" // read, write
	Custom    Access = "custom"     // anything else
)

// AccessOf names a set.
func AccessOf(s *Set) Access {
	switch s.String() {
	case "read":
		return ReadOnly
	case "read,write":
		return ReadWrite
	}
	return Custom
}

// Permissions returns what the name stands for, nil for [Custom].
func (a Access) Permissions() []Permission {
	switch a {
	case ReadOnly:
		return []Permission{{Action: "read"}}
	case ReadWrite:
		return []Permission{{Action: "read"}, {Action: "write"}}
	}
	return nil
}

package keystore

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// Class says whether a request reads or writes.
type Class uint8

// Classes of requests.
const (
	Read Class = iota
	Write
	UnknownClass // no permission for a class allows it
)

// String returns the permission that allows the class.
func (c Class) String() string {
	return [...]string{"read", "write", "*"}[c]
}

const (
	adminResource = "admin"
	// maxPermission is the maximum length of a permission in bytes. Permissions appear in records,
	// headers and refusals.
	maxPermission = 200
)

// A Permission allows requests. Its text is `*`, `read`, `write`, or `<resource>:<action>`, where
// the action is `read`, `write`, `*` or an operation. The zero value is not a permission.
type Permission struct {
	Resource string // empty for `*`, `read` and `write`
	Action   string
}

// ParsePermission parses one permission.
func ParsePermission(s string) (Permission, error) {
	if len(s) > maxPermission {
		return Permission{}, fmt.Errorf("a permission must have at most %d characters; this one "+
			"has %d", maxPermission, len(s))
	}
	resource, action, scoped := strings.Cut(s, ":")
	if !scoped {
		if s != "*" && s != "read" && s != "write" {
			return Permission{}, fmt.Errorf("permission %q must be *, read, write, RESOURCE:read, "+
				"RESOURCE:write, RESOURCE:OPERATION or RESOURCE:*", s)
		}
		return Permission{Action: s}, nil
	}
	if !ValidResource(resource) {
		return Permission{}, fmt.Errorf("permission %q: the resource must begin with a-z or 0-9 "+
			"and contain only these, '.', '_' and '-'", s)
	}
	if action != "*" && !validOperation(action) {
		return Permission{}, fmt.Errorf("permission %q: the action must be read, write, * or "+
			"an operation, which begins with a letter or digit and contains only these, '.', '_' "+
			"and '-'", s)
	}
	return Permission{Resource: resource, Action: action}, nil
}

// String returns the text that [ParsePermission] parses.
func (p Permission) String() string {
	if p.Resource == "" {
		return p.Action
	}
	return p.Resource + ":" + p.Action
}

// IsAdmin reports whether p is for the management of keys: see [IsAdminResource].
func (p Permission) IsAdmin() bool { return IsAdminResource(p.Resource) }

// IsAdminResource reports whether a resource is `admin` or `admin.…`. These belong to the
// management of keys, and `*`, `read` and `write` never include them.
func IsAdminResource(r string) bool {
	return r == adminResource || strings.HasPrefix(r, adminResource+".")
}

// ValidResource reports whether s is `[a-z0-9][a-z0-9._-]*`.
func ValidResource(s string) bool {
	return strings.ToLower(s) == s && validOperation(s)
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

// A Need is what a request requires: a class, a resource if its route names one, and an operation
// if a row of the permission table matches.
type Need struct {
	Class     Class
	Resource  string // may be empty
	Operation string // may be empty; set only together with Resource

	// Undeclared means that a complete permission table has no row for the request. No permission
	// allows it.
	Undeclared bool
}

// String returns the most specific permission that allows the request, or the empty string if none
// does.
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

// A Set is the permissions of one grant, or of several together. It is immutable and safe for
// concurrent use. A nil *Set is empty.
type Set struct {
	unscoped  actions
	resources map[string]actions
	list      []Permission // sorted, without duplicates
	text      string       // list joined with commas
	number    uint64       // unique in this process
}

// setNumber is the number of the last set.
var setNumber atomic.Uint64

// actions are the actions of a set on one resource, or without a resource.
type actions struct {
	all, read, write bool
	operations       map[string]bool
}

func (a actions) class(c Class) bool {
	return a.all || c == Read && a.read || c == Write && a.write
}

// everything reports whether a covers all actions on its resource (docs/authority.md, rule 2).
func (a actions) everything() bool { return a.all || a.read && a.write }

// NewSet returns the set of permissions. Equal sets share one *Set.
func NewSet(ps ...Permission) *Set {
	list := slices.Clone(ps)
	slices.SortFunc(list, func(a, b Permission) int {
		return strings.Compare(a.String(), b.String())
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
	s := &Set{list: list, text: text, resources: make(map[string]actions),
		number: setNumber.Add(1)}
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

// sets has one copy of each set in use, because a million keys have few different ones.
var sets interner[Set]

// Permissions returns the permissions in s, sorted. The caller must not modify the slice.
func (s *Set) Permissions() []Permission {
	if s == nil {
		return nil
	}
	return s.list
}

// String returns the permissions in s, sorted and joined with commas.
func (s *Set) String() string {
	if s == nil {
		return ""
	}
	return s.text
}

// Allows reports whether s allows a request (docs/authority.md, rule 1).
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

// Covers reports whether the holder of s may give p (docs/authority.md, rule 2). A class never
// covers an operation.
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

// allowsAll reports whether s allows every request that p alone allows.
func (s *Set) allowsAll(p Permission) bool {
	classes, operation := []Class{Read, Write}, ""
	switch p.Action {
	case "read":
		classes = classes[:1]
	case "write":
		classes = classes[1:]
	case "*":
	default:
		operation = p.Action
	}
	return !slices.ContainsFunc(classes, func(c Class) bool {
		return !s.Allows(Need{Class: c, Resource: p.Resource, Operation: operation})
	})
}

// Union returns the set of the permissions in any of its parts.
func Union(parts ...*Set) *Set {
	var all []Permission
	for _, s := range parts {
		all = append(all, s.Permissions()...)
	}
	return NewSet(all...)
}

// Data returns s without permissions for the management of keys.
func (s *Set) Data() *Set {
	return NewSet(slices.DeleteFunc(slices.Clone(s.Permissions()), Permission.IsAdmin)...)
}

// Intersection returns the set that allows a request if both a and b allow it, as far as
// permissions can express that: `orders:*` and `read` have `orders:read` in common. It has an
// operation only if both allow it as a read and as a write, because a permission cannot say that
// only a read is allowed.
func Intersection(a, b *Set) *Set {
	if a == b {
		return a
	}
	var list, classes []Permission
	for _, s := range []*Set{a, b} {
		for _, p := range s.Permissions() {
			if a.allowsAll(p) && b.allowsAll(p) {
				list = append(list, p)
			} else if p.Resource != "" && p.Action == "*" { // one of its classes may be left
				classes = append(classes,
					Permission{p.Resource, "read"}, Permission{p.Resource, "write"})
			}
		}
	}
	if len(classes) == 0 {
		return NewSet(list...)
	}
	listed := NewSet(list...)
	for _, p := range classes {
		if a.allowsAll(p) && b.allowsAll(p) && !listed.allowsAll(p) {
			list = append(list, p)
		}
	}
	return NewSet(list...)
}

// Access is the short name of a permission set.
type Access string

// Short names of permission sets.
const (
	ReadOnly  Access = "read_only"  // read
	ReadWrite Access = "read_write" // read, write
	Custom    Access = "custom"     // anything else
)

// AccessOf returns the short name of a set.
func AccessOf(s *Set) Access {
	switch s.String() {
	case "read":
		return ReadOnly
	case "read,write":
		return ReadWrite
	}
	return Custom
}

// Permissions returns the permissions that the name stands for, or nil for [Custom].
func (a Access) Permissions() []Permission {
	switch a {
	case ReadOnly:
		return []Permission{{Action: "read"}}
	case ReadWrite:
		return []Permission{{Action: "read"}, {Action: "write"}}
	}
	return nil
}

package keystore

import "time"

const (
	// MaxDepth bounds how deep namespaces can be nested.
	MaxDepth = 32
	// DefaultNamespace exists from the start and stays.
	DefaultNamespace = "default"
	// HomeNamespace stands for the key's own namespace in a Caddyfile and can name none.
	HomeNamespace = "home"
	// AnyRole in a namespace's KeyRoles stands for one role or more.
	AnyRole = "*"
)

// EditPolicy says how the keys of a namespace may be edited.
type EditPolicy string

const (
	EditFree     EditPolicy = "free"      // the zero value means this too
	EditGrowOnly EditPolicy = "grow_only" // a key's own grants never come to cover less
)

// A Namespace is the partition a key is good for.
type Namespace struct {
	ID         string
	Kind       string
	Parent     string // empty: none. A namespace that is its own ancestor is Unreadable.
	Name       string
	EditPolicy EditPolicy
	// Reach lists the kinds of descendants, at any depth, in which keys' grants in this namespace
	// count for data permissions.
	Reach []string
	// KeyRoles are the roles that keys homed here have in their home grant, exactly these;
	// [AnyRole] alone: at least one; empty: any or none.
	KeyRoles    []string
	TokenPrefix string // of the tokens of keys homed here; empty: the deployment's first
	// ChildPrefix is what the ids of descendants must begin with when they are created or moved
	// here; empty: any id.
	ChildPrefix string
	CreatedAt   time.Time
	Version     int64
	// Unreadable is the reason why the row cannot be read, as for a role: grants in the namespace
	// have no effect, it reaches no other namespace, and no key can be created in it.
	Unreadable string

	row       string         // why the row itself cannot be read; set in a directory
	reachedBy []string       // the namespaces whose `reach` takes it in; set in a directory
	counts    *OutcomeCounts // nil but in a directory
}

// ValidNamespaceID reports whether s is `[A-Za-z0-9][A-Za-z0-9._~-]{0,63}` and not reserved.
func ValidNamespaceID(s string) bool {
	return ValidName(s) && s != HomeNamespace
}

// validName reports whether s is `[A-Za-z0-9][A-Za-z0-9._~-]{0,63}`.
func ValidName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isBase62[c] && (i == 0 || c != '.' && c != '_' && c != '~' && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= MaxNameLen
}

// maxNameLen is how many characters the id of a namespace, or the name of a role, has at most.
const MaxNameLen = 64

// Counts returns the counters of requests in the namespace, nil outside of a directory that counts
// them.
func (ns *Namespace) Counts() *OutcomeCounts { return ns.counts }

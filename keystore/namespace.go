package keystore

import "time"

const (
	// MaxDepth is how many levels deep namespaces can be nested.
	MaxDepth = 32
	// DefaultNamespace always exists.
	DefaultNamespace = "default"
	// HomeNamespace stands for a key's home namespace in a Caddyfile. No namespace has this id.
	HomeNamespace = "home"
	// AnyRole in a namespace's KeyRoles stands for at least one role.
	AnyRole = "*"
)

// EditPolicy limits how the keys of a namespace may be edited.
type EditPolicy string

// Edit policies.
const (
	EditFree     EditPolicy = "free"      // also the meaning of the zero value
	EditGrowOnly EditPolicy = "grow_only" // no edit may take permissions from a key's grants
)

// A Namespace is a tenant, account, application or workspace in which keys are valid.
type Namespace struct {
	ID         string
	Kind       string
	Parent     string // empty if there is none
	Name       string
	EditPolicy EditPolicy
	// Reach lists kinds of descendants, at any depth. Grants that keys have in this namespace give
	// their data permissions in these descendants too.
	Reach []string
	// KeyRoles are exactly the roles that the home grant of a key in this namespace must have.
	// [AnyRole] alone requires at least one role. Empty requires nothing.
	KeyRoles    []string
	TokenPrefix string // for tokens of keys in this namespace; empty for the deployment's first
	// ChildPrefix is the required beginning of the ids of descendants when they are created or
	// moved here. If it is empty, this namespace requires none.
	ChildPrefix string
	// Limits are shared by all keys whose home this is.
	Limits
	DefaultPlan string // of keys that name none; empty if there is none
	Lifecycle
	CreatedAt time.Time
	Version   int64
	// Unreadable is the reason why the row cannot be read, or empty. Grants in such a namespace
	// have no effect, it reaches no other namespace, and no key can be created in it. In a
	// directory, a namespace is also unreadable if it is its own ancestor or nested too deep.
	Unreadable string
	// ListsUnreadable reports whether Reach or KeyRoles cannot be read, LimitsUnreadable whether
	// Limits cannot: see [Directory.LimitsDefect].
	ListsUnreadable, LimitsUnreadable bool

	// A directory sets these.
	row       string         // the reason why the row itself cannot be read
	reachedBy []string       // the ancestors whose `reach` includes it
	counts    *OutcomeCounts // nil if the directory counts no requests
}

// ValidNamespaceID reports whether s is `[A-Za-z0-9][A-Za-z0-9._~-]{0,63}` and not reserved.
func ValidNamespaceID(s string) bool {
	return ValidName(s) && s != HomeNamespace
}

// ValidName reports whether s is `[A-Za-z0-9][A-Za-z0-9._~-]{0,63}`.
func ValidName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isBase62[c] && (i == 0 || c != '.' && c != '_' && c != '~' && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= MaxNameLen
}

// MaxNameLen is the maximum length of the id of a namespace and of the name of a role or a plan.
const MaxNameLen = 64

// Counts returns the counters of requests in the namespace, or nil if its directory counts none.
func (ns *Namespace) Counts() *OutcomeCounts { return ns.counts }

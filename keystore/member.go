package keystore

import (
	"slices"
	"strings"
	"time"
)

// MemberKind is what a member stands for. A [Person] and a [Service] have the same rights.
type MemberKind string

// Kinds of members.
const (
	Person  MemberKind = "person" // also the meaning of the zero value
	Service MemberKind = "service"
	// Group stands for the people whom an identity provider puts into a group. They act for it when
	// they sign in. A group has no token.
	Group MemberKind = "group"
)

// A Member is a person, a service or a group that manages keys and owns them. [RootMember] has no
// row in the database: it may do everything, cannot be changed, and has no token.
type Member struct {
	ID   string // "m_" and 12 base62 digits
	Name string
	Kind MemberKind
	// Login is the user that Caddy has authenticated and `trust_user` accepts as this member, or the
	// name of the group in `trust_groups`. It is compared byte by byte. Empty means none. Users and
	// groups have separate names.
	Login     string
	Grants    []Grant
	Labels    map[string]string // for people and their programs; they have no effect on decisions
	Active    bool
	CreatedAt time.Time
	CreatedBy string
	Version   int64

	// Unreadable is the reason why the row cannot be read, or empty. Such a member has no
	// permissions, and only root may change it or act for it.
	Unreadable string
}

const memberIDPrefix = "m_"

// NewMemberID returns a new random member id.
func NewMemberID() string { return memberIDPrefix + NewID() }

// Touches lists the namespaces of the member's grants.
func (m *Member) Touches() []string {
	list := []string{}
	for _, g := range m.Grants {
		list = append(list, g.Namespace)
	}
	return list
}

// maxActingGroups is the maximum number of groups that a person acts for at the same time. It
// bounds the cost of a decision.
const maxActingGroups = 50

// via separates the login of a person from the groups in the name of an actor.
const via = " via "

// GroupActor returns the name in the audit log of a person that acts for groups, by its login and
// the ids of the groups: "ada@example.com via m_0123456789ab,m_ab0123456789".
func GroupActor(login string, groups []string) string {
	return login + via + strings.Join(groups, ",")
}

// ParseGroupActor returns the login and the groups of a name that [GroupActor] returned. ok is
// false for any other actor: an id contains no space.
func ParseGroupActor(actor string) (login string, groups []string, ok bool) {
	i := strings.LastIndex(actor, via)
	if i < 0 {
		return "", nil, false
	}
	groups = strings.Split(actor[i+len(via):], ",")
	return actor[:i], groups, !slices.Contains(groups, "")
}

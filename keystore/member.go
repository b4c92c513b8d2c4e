package keystore

import "time"

// MemberKind tells people what a member is. It has no effect on decisions.
type MemberKind string

// Kinds of members.
const (
	Person  MemberKind = "person" // also the meaning of the zero value
	Service MemberKind = "service"
)

// A Member is a person or service that manages keys and owns them. [RootMember] has no row in the
// database: it may do everything, cannot be changed, and has no token.
type Member struct {
	ID   string // "m_" and 12 base62 digits
	Name string
	Kind MemberKind
	// Login is the user that Caddy has authenticated and `trust_user` accepts as this member. It is
	// compared byte by byte. Empty means no user.
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

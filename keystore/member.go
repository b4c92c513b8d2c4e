package keystore

import "time"

// MemberKind says what a member is, for people.
type MemberKind string

const (
	Person  MemberKind = "person" // the zero value means this too
	Service MemberKind = "service"
)

// A Member is a person or service that manages keys, and whom keys act for. [RootMember] is not
// among those that a database holds: it may do everything, cannot be changed, and has no token.
type Member struct {
	ID   string // "m_" and 12 base62 digits
	Name string
	Kind MemberKind
	// whom a door that trusts Caddy's users takes for this member; compared exactly; empty: nobody
	Login     string
	Grants    []Grant
	Labels    map[string]string // for people and programs that manage members; they decide nothing
	Active    bool
	CreatedAt time.Time
	CreatedBy string
	Version   int64

	Unreadable string // as of a role: it holds nothing, and only root changes it or acts for it
}

const memberIDPrefix = "m_"

func NewMemberID() string { return memberIDPrefix + NewID() }

// touches lists the namespaces a member has to do with.
func (m *Member) Touches() []string {
	list := []string{}
	for _, g := range m.Grants {
		list = append(list, g.Namespace)
	}
	return list
}

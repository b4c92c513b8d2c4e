package manage

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A Caller is the authenticated identity that calls a management operation: root, a member or a
// key. The zero value has no permissions.
type Caller struct {
	root   bool
	record *keystore.Record // the credential: a key or a member's token
	member string           // the member that acts; empty for a person, a key and the zero value
	person *person          // nil for any other caller
	login  string           // of a member or a person that signed in with one, or empty
	from   string           // the client's address, for the audit log
	// narrowing is that of a derived token, or nil: see Narrowed.
	narrowing *keystore.Narrowing
}

// A person is in groups that are members, and acts for them.
type person struct {
	groups []string // ids, sorted
	names  []string // the logins of the groups
}

// Root returns the caller for requests to Caddy's admin endpoint: the member `root`, which may do
// everything. from is the client's address.
func Root(from string) Caller { return Caller{root: true, member: keystore.RootMember, from: from} }

// Anonymous returns the caller that is not authenticated and has no permissions.
func Anonymous(from string) Caller { return Caller{from: from} }

// KeyCaller returns the caller for a key. The key must have just been looked up and found valid.
func KeyCaller(r *keystore.Record, from string) Caller { return Caller{record: r, from: from} }

// Narrowed returns the caller for a derived token of the caller's key, or the caller itself for
// nil. Only [Keystore.Permissions] narrows the permissions of such a caller. So no other operation
// may be called with it, except [Keystore.FindKey] for the caller's own key.
func (c Caller) Narrowed(n *keystore.Narrowing) Caller {
	c.narrowing = n
	return c
}

// NarrowedUntil reports whether the caller has a derived token, and when it expires.
func (c Caller) NarrowedUntil() (expires time.Time, narrowed bool) {
	if c.narrowing == nil {
		return time.Time{}, false
	}
	return time.Unix(0, c.narrowing.Expiry()).UTC(), true
}

// MemberCaller returns the caller for a member's token. The token must have just been looked up and
// found valid.
func MemberCaller(token *keystore.Record, from string) Caller {
	return Caller{record: token, member: token.Owner, from: from}
}

// CallerByLogin returns the caller for a login that Caddy has verified: the member with this login
// or, if there is none, a person who acts for the enabled groups with the verified names in groups.
// It returns the zero Caller if there is neither: see [keystore.Directory.MembersByLogin]. now must
// have been read after the request arrived. An error means that the members could not be looked up.
func (k *Keystore) CallerByLogin(
	ctx context.Context, login string, groups []string, from string, now time.Time,
) (Caller, error) {
	list, err := k.LookupLogin(ctx, login, groups, now)
	if err != nil || len(list) == 0 {
		return Caller{}, err
	}
	if list[0].Kind != keystore.Group {
		return Caller{member: list[0].ID, login: login, from: from}, nil
	}
	if !namesPerson(login) {
		return Caller{}, nil
	}
	p := new(person)
	for _, m := range list {
		p.groups, p.names = append(p.groups, m.ID), append(p.names, m.Login)
	}
	return Caller{person: p, login: login, from: from}, nil
}

// namesPerson reports whether a login can appear in the audit log.
func namesPerson(login string) bool {
	var p fieldErrors
	p.text("login", login, maxName)
	_, hidden := keystore.HiddenIn(login)
	return len(p) == 0 && !hidden && keystore.HasGlyph(login)
}

// Actor returns the caller in `created_by`, `revoked_by` and the audit log: [keystore.RootMember],
// the id of a member or a key, or a [keystore.GroupActor]. It is empty for the zero Caller.
func (c Caller) Actor() string {
	switch {
	case c.person != nil:
		return keystore.GroupActor(c.login, c.person.groups)
	case c.member != "" || c.record == nil:
		return c.member
	}
	return c.record.KeyID
}

// Identity returns a text that identifies the caller across requests. It equals Actor, except that
// it does not contain the groups of a person, which may change between requests.
func (c Caller) Identity() string {
	if c.person != nil {
		return keystore.GroupActor(c.login, nil) // no id contains a space
	}
	return c.Actor()
}

// Member returns the id of the member that acts, empty for a key and for a person that acts for
// groups.
func (c Caller) Member() string { return c.member }

// Members returns the ids of the member that acts, or of the groups for which a person acts. It
// returns none for a key.
func (c Caller) Members() []string {
	switch {
	case c.person != nil:
		return c.person.groups
	case c.member != "":
		return []string{c.member}
	}
	return nil
}

// membersUnder returns those of Members that the caller still acts for under a policy: a member or a
// group may have been disabled or given another login since the caller signed in.
func (c Caller) membersUnder(policy *keystore.Directory) []string {
	if c.login == "" {
		return c.Members()
	}
	var names []string
	if c.person != nil {
		names = c.person.names
	}
	now := policy.MembersByLogin(c.login, names)
	return slices.DeleteFunc(slices.Clone(c.Members()), func(id string) bool {
		return !slices.ContainsFunc(now, func(m *keystore.Member) bool { return m.ID == id })
	})
}

// Login returns the login of a person that acts for groups. It is empty for any other caller.
func (c Caller) Login() string {
	if c.person == nil {
		return ""
	}
	return c.login
}

// Credential returns the id of the key, or of the record of the member's token, that the caller is
// authenticated with. It is empty for root and for callers authenticated by their login.
func (c Caller) Credential() string {
	if c.record == nil {
		return ""
	}
	return c.record.KeyID
}

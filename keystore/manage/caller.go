package manage

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A Caller is the identity with which a management operation is authenticated: root, a member or a
// key. The zero value has no permissions.
type Caller struct {
	root   bool
	record *keystore.Record // the credential: a key or a member's token
	member string           // the member that acts; empty for a key and for the zero value
	from   string           // the client's address, for the audit log
}

// Root returns the caller for requests to Caddy's admin endpoint: the member `root`, which may do
// everything. from is the client's address.
func Root(from string) Caller { return Caller{root: true, member: keystore.RootMember, from: from} }

// Anonymous returns the caller that is not authenticated and has no permissions.
func Anonymous(from string) Caller { return Caller{from: from} }

// KeyCaller returns the caller for a key. The key must have just been looked up and found valid.
func KeyCaller(r *keystore.Record, from string) Caller { return Caller{record: r, from: from} }

// MemberCaller returns the caller for a member's token. The token must have just been looked up and
// found valid.
func MemberCaller(token *keystore.Record, from string) Caller {
	return Caller{record: token, member: token.Owner, from: from}
}

// MemberByLogin returns the caller for a login that Caddy has verified. It returns the zero Caller
// if no enabled member has this login. now must have been read after the request arrived. An error
// means that the member could not be looked up.
func (k *Keystore) MemberByLogin(
	ctx context.Context, login, from string, now time.Time,
) (Caller, error) {
	m, err := k.LookupLogin(ctx, login, now)
	if m == nil {
		return Caller{}, err
	}
	return Caller{member: m.ID, from: from}, nil
}

// Actor returns the caller's id in `created_by`, `revoked_by` and the audit log:
// [keystore.RootMember], a member's id or a key's id. It is empty for the zero Caller.
func (c Caller) Actor() string {
	if c.member != "" || c.record == nil {
		return c.member
	}
	return c.record.KeyID
}

// Member returns the id of the member that acts, empty for a key.
func (c Caller) Member() string { return c.member }

// Credential returns the id of the key, or of the record of the member's token, that the caller is
// authenticated with. It is empty for root and for members authenticated by their login.
func (c Caller) Credential() string {
	if c.record == nil {
		return ""
	}
	return c.record.KeyID
}

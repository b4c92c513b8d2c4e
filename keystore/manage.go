package keystore

import (
	"context"
	"net/netip"
	"time"
)

// A Caller is who asks for a managing operation. The zero value may do nothing.
type Caller struct {
	root   bool
	record *Record // a key that manages
	from   string
}

// Root is whoever Caddy's admin endpoint lets in: the member `root`, who may do everything. from is where the request came from.
func Root(from string) Caller { return Caller{root: true, from: from} }

// KeyCaller is a key that manages, its record just looked up and found alive.
func KeyCaller(r *Record, from string) Caller { return Caller{record: r, from: from} }

// Actor is the id in `created_by`, `revoked_by` and the audit log.
func (c Caller) Actor() string {
	if c.root {
		return RootMember
	}
	if c.record == nil {
		return ""
	}
	return c.record.KeyID
}

// A KeySpec is a key to be made.
type KeySpec struct {
	Name       string
	Namespace  string  // home; empty: default
	Prefix     string  // one of the accepted ones; empty: the first
	Home       *Grant  // the short form: permissions, roles, connected in the home namespace; nil: none
	Grants     []Grant // further ones
	Inactive   bool
	ExpiresAt  time.Time
	AllowedIPs []netip.Prefix
	Owner      string // empty: the caller, or the owner of the key that mints
	Metadata   map[string]string
}

// A KeyPatch changes what is not nil.
type KeyPatch struct {
	Name          *string
	Active        *bool
	Permissions   *[]Permission // of the home grant
	Roles         *[]string
	Connected     *bool
	Grants        *[]Grant // all grants; not beside the three above
	ExpiresAt     **time.Time
	AllowedIPs    *[]netip.Prefix
	Metadata      map[string]*string // merged into what is there (RFC 7396): a nil value removes the name
	ClearMetadata bool               // first remove all: `"metadata": null`
}

// ChangeOptions go with every change of an existing object.
type ChangeOptions struct {
	// IfVersion is the version the object must have; 0: any. Else KindPrecondition.
	IfVersion int64
	// Wait is how long to wait for a change that takes access away to be in force everywhere. Zero: 10 s.
	Wait time.Duration
}

// Propagation says how far a change has come (protocol.md section 5).
type Propagation struct {
	Revision     Revision
	Complete     bool
	Nodes        int
	Acknowledged int
	Took         time.Duration // since the commit was known
	Pending      []PendingNode
}

// A PendingNode has not yet acknowledged. Until is when its lease has surely run out.
type PendingNode struct {
	Node  string
	Until time.Time
}

// MintKey makes a key. remember, if not empty, is the caller's Idempotency-Key: a repeat within 24 h is KindConflict `already_made` with the
// key's id. When it returns, the key is usable on every node.
func (k *Keystore) MintKey(ctx context.Context, c Caller, spec KeySpec, remember string) (*Key, Token, error) {
	panic("being written")
}

// An ImportSpec is a key whose credential was made elsewhere.
type ImportSpec struct {
	KeySpec
	Line   int    // where it stands in the input, counted from 1
	Token  string // the credential itself …
	Digest Digest // … or its SHA-256
	// Err is why the line could not be read; it is refused with it.
	Err *Error
}

// An ImportRefusal is one line that was not imported.
type ImportRefusal struct {
	Line   int
	Code   string
	Detail string
}

// ImportKeys adds keys in one transaction: all of them or, with partial, those that can be. With any refusal and not partial, nothing is imported.
func (k *Keystore) ImportKeys(ctx context.Context, c Caller, specs []ImportSpec, partial bool, remember string) (imported int, refused []ImportRefusal, err error) {
	panic("being written")
}

// FindKey returns one key the caller may read.
func (k *Keystore) FindKey(ctx context.Context, c Caller, id string) (*Key, error) {
	panic("being written")
}

// ListKeys returns those that the filter fits and the caller may read. See [Database.Keys].
func (k *Keystore) ListKeys(ctx context.Context, c Caller, f KeyFilter, cursor string, limit int) ([]Key, string, error) {
	panic("being written")
}

// EditKey changes a key.
func (k *Keystore) EditKey(ctx context.Context, c Caller, id string, p KeyPatch, o ChangeOptions) (*Key, Propagation, error) {
	panic("being written")
}

// RevokeKey ends a key for good; revoking again waits again and changes nothing. made takes along all keys it made.
func (k *Keystore) RevokeKey(ctx context.Context, c Caller, id, reason string, made bool, o ChangeOptions) (*Key, Propagation, error) {
	panic("being written")
}

// RotateKey gives the key a new token; the present one dies after grace, an older one at once.
func (k *Keystore) RotateKey(ctx context.Context, c Caller, id string, grace time.Duration, o ChangeOptions) (*Key, Token, Propagation, error) {
	panic("being written")
}

// DeleteKey removes a revoked key from the list and returns what it was.
func (k *Keystore) DeleteKey(ctx context.Context, c Caller, id string, o ChangeOptions) (*Key, Propagation, error) {
	panic("being written")
}

// FindNamespace, ListNamespaces, CreateNamespace, EditNamespace, DeleteNamespace.
func (k *Keystore) FindNamespace(ctx context.Context, c Caller, id string) (*Namespace, error) {
	panic("being written")
}

// ListNamespaces returns those the caller may read, newest first.
func (k *Keystore) ListNamespaces(ctx context.Context, c Caller) ([]Namespace, error) {
	panic("being written")
}

// CreateNamespace adds one; ID, Kind, Name and EditPolicy are taken from spec.
func (k *Keystore) CreateNamespace(ctx context.Context, c Caller, spec Namespace) (*Namespace, error) {
	panic("being written")
}

// A NamespacePatch changes what is not nil.
type NamespacePatch struct {
	Name       *string
	EditPolicy *EditPolicy
}

// EditNamespace changes one.
func (k *Keystore) EditNamespace(ctx context.Context, c Caller, id string, p NamespacePatch, o ChangeOptions) (*Namespace, Propagation, error) {
	panic("being written")
}

// DeleteNamespace removes an empty one and returns what it was.
func (k *Keystore) DeleteNamespace(ctx context.Context, c Caller, id string, o ChangeOptions) (*Namespace, Propagation, error) {
	panic("being written")
}

// A Verdict is the decision that a request with some credential would get.
type Verdict struct {
	Outcome Outcome
	Needed  string
	Key     *Key // nil unless the caller may read it
}

// Verify decides about a credential as the handler would, without looking at addresses or early data. permission is one
// that a request can need: `read`, `write`, `orders:read`, `orders:search`. Unknown unless the caller may read the key.
func (k *Keystore) Verify(ctx context.Context, c Caller, credential, namespace, permission string) (Verdict, error) {
	panic("being written")
}

// May reports whether the caller may do an operation on an admin resource in some namespace at least: KindForbidden with what is needed otherwise.
func (c Caller) May(resource, operation string) error { panic("being written") }

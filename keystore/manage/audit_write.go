package manage

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// An auditedChange is the change of one object. before and after are written as JSON; nil means
// that the object did not exist.
type auditedChange struct {
	object        string
	namespaces    []string
	before, after any
}

// audit appends a row to the audit log, for one object: see auditAll.
func audit(
	tx keystore.Tx, auth authority, action, object string, namespaces []string, before, after any,
) error {
	return auditAll(tx, auth, action, []auditedChange{{object, namespaces, before, after}})
}

// auditAll appends a row to the audit log for each changed object. It does so in the transaction of
// the change, so nothing changes without a row. The rows contain no digests of tokens, because
// anyone could use them to test guesses of a token.
func auditAll(tx keystore.Tx, auth authority, action string, list []auditedChange) error {
	if len(list) == 0 {
		return nil
	}
	last, err := tx.LastAudit()
	if err != nil {
		return fmt.Errorf("reading the audit log: %w", err)
	}
	if last == nil {
		last = new(keystore.AuditRow)
	}
	rows := make([]*keystore.AuditRow, len(list))
	for i, a := range list {
		row := &keystore.AuditRow{
			Seq: last.Seq + 1, At: tx.Now(), Actor: auth.actor, From: auth.from,
			Action: action, Object: a.object, Namespaces: a.namespaces,
		}
		if row.Before, err = auditJSON(a.before); err != nil {
			return err
		}
		if row.After, err = auditJSON(a.after); err != nil {
			return err
		}
		row.Hash = row.Chain(last.Hash)
		rows[i], last = row, row
	}
	if err := tx.AppendAudit(rows); err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	return nil
}

func auditJSON(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case auditedReplay, auditedThreshold:
		return marshal(v)
	case *keystore.Key:
		return marshal(auditedKeyOf(v))
	case *leakedKey:
		return marshal(struct {
			auditedKey
			Leak auditedLeak `json:"leak"`
		}{auditedKeyOf(v.Key), v.leak})
	case *remindedKey:
		return marshal(struct {
			auditedKey
			Reminder auditedReminder `json:"reminder"`
		}{auditedKeyOf(v.Key), v.reminder})
	case *keystore.Namespace:
		return marshal(auditedNamespace{
			ID: v.ID, Kind: v.Kind, Parent: v.Parent, Name: v.Name, EditPolicy: v.EditPolicy,
			Reach: v.Reach, KeyRoles: v.KeyRoles, TokenPrefix: v.TokenPrefix,
			ChildPrefix: v.ChildPrefix, auditedLimits: auditedLimits(v.Limits),
			DefaultPlan: v.DefaultPlan, auditedLifecycle: auditedLifecycleOf(v.Lifecycle),
			Version: v.Version,
		})
	case *keystore.Role:
		return marshal(auditedRole{Namespace: v.Namespace, Name: v.Name, Description: v.Description,
			Permissions: auditedPermissions(keystore.NewSet(v.Permissions...)), Version: v.Version})
	case *keystore.Plan:
		return marshal(auditedPlan{Namespace: v.Namespace, Name: v.Name, Description: v.Description,
			auditedLimits: auditedLimits(v.Limits), Version: v.Version})
	case *keystore.Member:
		return marshal(auditedMember{ID: v.ID, Name: v.Name, Kind: v.Kind, Login: v.Login,
			Grants: auditedGrants(v.Grants), Labels: v.Labels, Active: v.Active,
			Version: v.Version})
	}
	return "", fmt.Errorf("writing the audit log: unknown type %T", v)
}

func marshal(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

type auditedKey struct {
	ID           string          `json:"id"`
	Prefix       string          `json:"prefix"`
	Name         string          `json:"name"`
	Namespace    string          `json:"namespace"`
	Grants       []auditedGrant  `json:"grants"`
	Owner        string          `json:"owner"`
	Personal     bool            `json:"personal,omitempty"`
	Active       bool            `json:"active"`
	CreatedAt    time.Time       `json:"created_at,omitzero"`
	CreatedBy    string          `json:"created_by,omitempty"`
	ExpiresAt    time.Time       `json:"expires_at,omitzero"`
	RevokedAt    time.Time       `json:"revoked_at,omitzero"`
	RevokedBy    string          `json:"revoked_by,omitempty"`
	RevokeReason string          `json:"revoke_reason,omitempty"`
	Secrets      []auditedSecret `json:"secrets"`
	AllowedIPs   []netip.Prefix  `json:"allowed_ips,omitempty"`
	auditedLimits
	Plan     string            `json:"plan,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Version  int64             `json:"version"`
}

func auditedKeyOf(k *keystore.Key) auditedKey {
	return auditedKey{
		ID: k.ID, Prefix: k.Prefix, Name: k.Name, Namespace: k.Namespace,
		Grants: auditedGrants(k.Grants), Owner: k.Owner,
		Active: k.Active && k.RevokedAt.IsZero(), Personal: k.Personal, CreatedAt: k.CreatedAt,
		CreatedBy: k.CreatedBy, ExpiresAt: k.ExpiresAt, RevokedAt: k.RevokedAt,
		RevokedBy: k.RevokedBy, RevokeReason: k.RevokeReason,
		Secrets: auditedSecrets(k.Secrets), AllowedIPs: k.AllowedIPs,
		auditedLimits: auditedLimits(k.Limits), Plan: k.Plan, Metadata: k.Metadata,
		Version: k.Version,
	}
}

// A leakedKey is a key with the report that its token has leaked.
type leakedKey struct {
	*keystore.Key
	leak auditedLeak
}

type auditedLeak struct {
	URL    string              `json:"url"`
	Source string              `json:"source,omitempty"`
	Type   string              `json:"type,omitempty"`
	Signed bool                `json:"signed"` // by a key of `leak_keys`
	Action keystore.LeakAction `json:"action"`
}

// A remindedKey is a key with the reason of a reminder.
type remindedKey struct {
	*keystore.Key
	reminder auditedReminder
}

type auditedReminder struct {
	Before      string    `json:"before,omitempty"`      // time before the expiry; empty after it
	UnusedSince time.Time `json:"unused_since,omitzero"` // the last use, or the creation
}

// AuditedKey returns a key as a row of the audit log has recorded it, before or after the change.
// The key has neither the digests of its tokens nor its last use. Rows of earlier versions do not
// say when and by whom it was created.
func AuditedKey(text string) (*keystore.Key, error) {
	var a auditedKey
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return nil, fmt.Errorf("reading a key in the audit log: %w", err)
	}
	k := &keystore.Key{
		ID: a.ID, Prefix: a.Prefix, Name: a.Name, Namespace: a.Namespace, Owner: a.Owner,
		Active: a.Active, Personal: a.Personal, CreatedAt: a.CreatedAt, CreatedBy: a.CreatedBy,
		ExpiresAt: a.ExpiresAt, RevokedAt: a.RevokedAt, RevokedBy: a.RevokedBy,
		RevokeReason: a.RevokeReason, AllowedIPs: a.AllowedIPs,
		KeyLimits: keystore.KeyLimits{Limits: keystore.Limits(a.auditedLimits), Plan: a.Plan},
		Metadata:  a.Metadata, Version: a.Version,
	}
	for _, g := range a.Grants {
		grant := keystore.Grant{Namespace: g.Namespace, Roles: g.Roles, Connected: g.Connected}
		for _, text := range g.Permissions {
			p, err := keystore.ParsePermission(text)
			if err != nil {
				return nil, fmt.Errorf("reading a key in the audit log: %w", err)
			}
			grant.Permissions = append(grant.Permissions, p)
		}
		k.Grants = append(k.Grants, grant)
	}
	for _, s := range a.Secrets {
		k.Secrets = append(k.Secrets, keystore.Secret{CreatedAt: s.CreatedAt,
			ExpiresAt: s.ExpiresAt, Imported: s.Imported})
	}
	return k, nil
}

type auditedGrant struct {
	Namespace   string   `json:"namespace"`
	Permissions []string `json:"permissions"`
	Roles       []string `json:"roles,omitempty"`
	Connected   bool     `json:"connected,omitempty"`
}

func auditedGrants(grants []keystore.Grant) []auditedGrant {
	out := make([]auditedGrant, len(grants))
	for i, g := range grants {
		out[i] = auditedGrant{g.Namespace, auditedPermissions(g.Own()), g.Roles, g.Connected}
	}
	return out
}

// auditedPermissions returns permissions as a list, as the API does. Rows that earlier versions
// wrote have one text with commas instead. They stay that way, because their hashes cover that
// text.
func auditedPermissions(s *keystore.Set) []string {
	out := make([]string, 0, len(s.Permissions()))
	for _, p := range s.Permissions() {
		out = append(out, p.String())
	}
	return out
}

type auditedSecret struct {
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Imported  bool      `json:"imported,omitempty"`
}

func auditedSecrets(secrets []keystore.Secret) []auditedSecret {
	out := make([]auditedSecret, len(secrets))
	for i, s := range secrets {
		out[i] = auditedSecret{s.CreatedAt, s.ExpiresAt, s.Imported}
	}
	return out
}

type auditedNamespace struct {
	ID          string              `json:"id"`
	Kind        string              `json:"kind,omitempty"`
	Parent      string              `json:"parent,omitempty"`
	Name        string              `json:"name,omitempty"`
	EditPolicy  keystore.EditPolicy `json:"edit_policy"`
	Reach       []string            `json:"reach,omitempty"`
	KeyRoles    []string            `json:"key_roles,omitempty"`
	TokenPrefix string              `json:"token_prefix,omitempty"`
	ChildPrefix string              `json:"child_prefix,omitempty"`
	auditedLimits
	DefaultPlan string `json:"default_plan,omitempty"`
	auditedLifecycle
	Version int64 `json:"version"`
}

type auditedLifecycle struct {
	MaxLifetime string              `json:"max_lifetime,omitempty"`
	Idle        auditedIdle         `json:"idle,omitzero"`
	OnLeak      keystore.LeakAction `json:"on_leak,omitempty"`
}

type auditedIdle struct {
	After string              `json:"after"`
	Then  keystore.IdleAction `json:"then"`
}

func auditedLifecycleOf(l keystore.Lifecycle) auditedLifecycle {
	return auditedLifecycle{keystore.LifetimeText(l.MaxLifetime),
		auditedIdle{keystore.LifetimeText(l.Idle.After), l.Idle.Then}, l.OnLeak}
}

type auditedPlan struct {
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	auditedLimits
	Version int64 `json:"version"`
}

type auditedLimits struct {
	Rate  keystore.RateLimit `json:"rate_limit,omitzero"`
	Quota keystore.Quota     `json:"quota,omitzero"`
}

type auditedRole struct {
	Namespace   string   `json:"namespace"`
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Permissions []string `json:"permissions"`
	Version     int64    `json:"version"`
}

type auditedMember struct {
	ID      string              `json:"id"`
	Name    string              `json:"name"`
	Kind    keystore.MemberKind `json:"kind"`
	Login   string              `json:"login,omitempty"`
	Grants  []auditedGrant      `json:"grants"`
	Labels  map[string]string   `json:"labels,omitempty"`
	Active  bool                `json:"active"`
	Version int64               `json:"version"`
}

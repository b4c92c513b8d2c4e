package events

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// typeOf maps actions of the audit log to types of events. All other actions are types already:
// key.expiring, key.unused, key.leaked, quota.threshold and others.
var typeOf = map[string]string{
	"key.mint":         "key.created",
	"key.edit":         "key.edited",
	"key.revoke":       "key.revoked",
	"key.rotate":       "key.rotated",
	"key.import":       "key.imported",
	"key.delete":       "key.deleted",
	"member.create":    "member.created",
	"member.edit":      "member.edited",
	"member.delete":    "member.deleted",
	"member.token":     "member.token_created",
	"role.create":      "role.created",
	"role.edit":        "role.edited",
	"role.delete":      "role.deleted",
	"plan.create":      "plan.created",
	"plan.edit":        "plan.edited",
	"plan.delete":      "plan.deleted",
	"namespace.create": "namespace.created",
	"namespace.edit":   "namespace.edited",
	"namespace.delete": "namespace.deleted",
	"webhook.replay":   "webhook.replayed",
}

// switched maps the actions that may enable or disable an object to the types of these events.
var switched = map[string][2]string{
	"key.edit":    {"key.inactivated", "key.activated"},
	"member.edit": {"member.disabled", "member.enabled"},
}

// Type returns the type of the event that a row of the audit log stands for.
func Type(r *keystore.AuditRow) string {
	if types, ok := switched[r.Action]; ok {
		var before, after struct{ Active bool }
		if json.Unmarshal([]byte(r.Before), &before) == nil &&
			json.Unmarshal([]byte(r.After), &after) == nil && before.Active != after.Active {
			if after.Active {
				return types[1]
			}
			return types[0]
		}
	}
	if t, ok := typeOf[r.Action]; ok {
		return t
	}
	return r.Action
}

// kinds are the first words of types. A pattern must begin with one of them, so that a typing error
// is noticed. The second word may be one of a later version.
var kinds = []string{"key", "member", "role", "namespace", "plan", "quota", "webhook"}

// validPattern reports whether a pattern can match a type: it is `*`, `KIND.*` or a type.
func validPattern(pattern string) bool {
	kind, rest, dotted := strings.Cut(pattern, ".")
	if !dotted {
		return pattern == "*"
	}
	return slices.Contains(kinds, kind) &&
		(rest == "*" || rest != "" && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz_") == "")
}

// matches reports whether a type matches one of the patterns. An empty list matches every type.
func matches(patterns []string, t string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
		prefix, wildcard := strings.CutSuffix(p, "*")
		return p == t || wildcard && strings.HasPrefix(t, prefix)
	})
}

package sqldb

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// fromTime returns Unix microseconds, or NULL for the zero time.
func fromTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// fromBool returns 1 or 0, because SQLite has no booleans.
func fromBool(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// timeTo is the reverse of fromTime.
type timeTo struct{ t *time.Time }

func (to timeTo) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*to.t = time.Time{}
	case int64:
		*to.t = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a time must be a number of microseconds, not %T", v)
	}
	return nil
}

// digestTo reads NULL as the zero digest.
type digestTo struct{ d *keystore.Digest }

func (to digestTo) Scan(v any) error {
	b, _ := v.([]byte)
	if v != nil && len(b) != len(to.d) {
		return fmt.Errorf("a digest must have %d bytes", len(to.d))
	}
	*to.d = keystore.Digest{}
	copy(to.d[:], b)
	return nil
}

// textTo reads NULL as the empty string.
type textTo struct{ s *string }

func (to textTo) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*to.s = ""
	case string:
		*to.s = v
	case []byte:
		*to.s = string(v)
	default:
		return fmt.Errorf("a text must be a string, not %T", v)
	}
	return nil
}

// A grantJSON is a grant in the column `grants`.
type grantJSON struct {
	Namespace   string   `json:"namespace"`
	Permissions []string `json:"permissions,omitempty"`
	Roles       []string `json:"roles,omitempty"`
	Connected   bool     `json:"connected,omitempty"`
}

func fromGrants(grants []keystore.Grant) (string, error) {
	list := make([]grantJSON, len(grants))
	for i, g := range grants {
		list[i] = grantJSON{Namespace: g.Namespace, Permissions: fromPermissions(g.Permissions),
			Roles: g.Roles, Connected: g.Connected}
	}
	return fromJSON(list)
}

func toGrants(text string) ([]keystore.Grant, error) {
	var list []grantJSON
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	var grants []keystore.Grant
	for _, g := range list {
		if g.Namespace == "" { // it would be the parent of every top-level namespace
			return nil, errors.New("a grant must name a namespace")
		}
		permissions, err := toPermissions(g.Permissions)
		if err != nil {
			return nil, err
		}
		grants = append(grants, keystore.Grant{Namespace: g.Namespace, Permissions: permissions,
			Roles: g.Roles, Connected: g.Connected})
	}
	return grants, nil
}

func fromPermissions(list []keystore.Permission) (words []string) {
	for _, p := range list {
		words = append(words, p.String())
	}
	return words
}

func toPermissions(words []string) (list []keystore.Permission, err error) {
	for _, w := range words {
		p, err := keystore.ParsePermission(w)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func unreadable(object string, err error) error {
	return fmt.Errorf("reading the row of %s: %w", object, err)
}

// fromList returns a JSON array, which is empty for nil.
func fromList[T any](list []T) (string, error) {
	if list == nil {
		return "[]", nil
	}
	return fromJSON(list)
}

// toList returns nil for an empty array.
func toList(text string) (list []string, err error) {
	if text != "[]" {
		err = json.Unmarshal([]byte(text), &list)
	}
	return list, err
}

func fromMap(m map[string]string) (string, error) {
	if m == nil {
		return "{}", nil
	}
	return fromJSON(m)
}

func fromJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

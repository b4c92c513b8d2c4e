package events

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// A renderer turns rows of the audit log into events. The audit log has neither tokens nor digests
// of tokens, and so an event has none either.
type renderer struct {
	keys *manage.Keystore
	api  *admin.API
}

// event returns the event of a row, and the namespace of its object, which is empty for a member,
// but not for the token of one.
func (r *renderer) event(ctx context.Context, row *keystore.AuditRow) (api.Event, string, error) {
	object := make(map[string]json.RawMessage)
	text := row.After
	if text == "" {
		text = row.Before
	}
	if text != "" {
		if err := json.Unmarshal([]byte(text), &object); err != nil {
			return api.Event{}, "", fmt.Errorf("reading row %d of the audit log: %w", row.Seq, err)
		}
	}
	kind, _, _ := strings.Cut(row.Action, ".")
	data := make(map[string]any)
	namespace := ""
	keyText, wrapped := object["key"]
	switch {
	case wrapped: // the row has further values beside the key
		for name, value := range object {
			data[name] = value
		}
	case kind == "key", row.Action == "member.token":
		keyText = json.RawMessage(text)
		for _, cause := range []string{"leak", "reminder"} { // of rows that have one
			if value, ok := object[cause]; ok {
				data[cause] = value
			}
		}
	case kind == "namespace":
		namespace = row.Object
	case kind == "webhook":
		data["webhook"] = row.Object
	case kind == "quota":
		maps.Copy(data, map[string]any{"quota": object["quota"], "percent": object["percent"],
			"used": object["used"], "begin": object["begin"], "end": object["end"]})
		namespace = row.Object
	case text != "":
		data[kind] = json.RawMessage(text)
		_ = json.Unmarshal(object["namespace"], &namespace)
	}
	if len(keyText) > 0 {
		key, err := manage.AuditedKey(string(keyText))
		if err != nil { // a row of an early version
			data["key"] = map[string]string{"id": row.Object}
		} else {
			complete(key, row)
			namespace = key.Namespace
			data["key"] = r.api.ShowKey(key, row.At)
			if row.Action == "key.revoke" {
				data["reason"] = key.RevokeReason
			}
			if row.Action == "member.token" {
				data["member"] = map[string]string{"id": key.Owner, "name": r.name(ctx, key.Owner)}
			}
		}
	}
	if namespace != "" {
		data["namespace"] = namespace
	}
	data["actor"] = api.EventActor{ID: row.Actor, Name: r.name(ctx, row.Actor), Address: row.From}
	e := api.Event{Type: Type(row), Timestamp: row.At, Data: make(map[string]json.RawMessage)}
	for name, value := range data {
		b, err := json.Marshal(value)
		if err != nil {
			return e, "", fmt.Errorf("encoding the event of row %d: %w", row.Seq, err)
		}
		e.Data[name] = b
	}
	return e, namespace, nil
}

// complete adds values that rows of earlier versions lack, as far as they are known.
func complete(k *keystore.Key, row *keystore.AuditRow) {
	if k.CreatedAt.IsZero() && row.Before == "" {
		k.CreatedAt, k.CreatedBy = row.At, row.Actor
	}
	if k.CreatedAt.IsZero() && len(k.Secrets) > 0 {
		k.CreatedAt = k.Secrets[len(k.Secrets)-1].CreatedAt // the oldest
	}
	if !k.RevokedAt.IsZero() && k.RevokedBy == "" && row.Action == "key.revoke" {
		k.RevokedBy = row.Actor
	}
}

// name returns the name of a member or key, or the empty string if it does not exist.
func (r *renderer) name(ctx context.Context, id string) string {
	if id == keystore.RootMember {
		return id
	}
	if m := r.keys.Policy().Member(id); m != nil {
		return m.Name
	}
	if k, err := r.keys.Database().Key(ctx, id); err == nil {
		return k.Name
	}
	return ""
}

package api

import "encoding/json"

// An Optional is a member of a merge patch, which may be absent, null, or a value (RFC 7396). Its
// zero value is absent.
type Optional[T any] struct {
	Sent  bool
	Value *T // nil: null
}

// Some returns a member with a value.
func Some[T any](v T) Optional[T] { return Optional[T]{Sent: true, Value: &v} }

// Null returns a member that goes back to its default.
func Null[T any]() Optional[T] { return Optional[T]{Sent: true} }

// IsZero lets `omitzero` leave out what is absent.
func (o Optional[T]) IsZero() bool { return !o.Sent }

// Or returns the value, or def for null.
func (o Optional[T]) Or(def T) T {
	if o.Value == nil {
		return def
	}
	return *o.Value
}

func (o Optional[T]) MarshalJSON() ([]byte, error) { return json.Marshal(o.Value) }

// UnmarshalJSON is not called when the member is absent.
func (o *Optional[T]) UnmarshalJSON(b []byte) error {
	o.Sent = true
	return json.Unmarshal(b, &o.Value)
}

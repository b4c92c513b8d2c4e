package api

import "encoding/json"

// An Optional is a field of a merge patch (RFC 7396): absent, null or a value. Its zero value is
// absent.
type Optional[T any] struct {
	Sent  bool
	Value *T // nil: null
}

// Some returns a field with a value.
func Some[T any](v T) Optional[T] { return Optional[T]{Sent: true, Value: &v} }

// Null returns a field that restores the default.
func Null[T any]() Optional[T] { return Optional[T]{Sent: true} }

// IsZero reports whether the field is absent, for `omitzero`.
func (o Optional[T]) IsZero() bool { return !o.Sent }

// Or returns the value, or def for null.
func (o Optional[T]) Or(def T) T {
	if o.Value == nil {
		return def
	}
	return *o.Value
}

// MarshalJSON writes the value or null.
func (o Optional[T]) MarshalJSON() ([]byte, error) { return json.Marshal(o.Value) }

// UnmarshalJSON reads a value or null. It is not called for an absent field.
func (o *Optional[T]) UnmarshalJSON(b []byte) error {
	o.Sent = true
	return json.Unmarshal(b, &o.Value)
}

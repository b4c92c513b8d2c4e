package keystore

import "strings"

// Kind is the class of an [Error]. Each maps to one HTTP status.
type Kind uint8

// Kinds of errors, with their HTTP status.
const (
	KindInvalid      Kind = iota + 1 // 422: a field is invalid
	KindForbidden                    // 403: the caller lacks authority
	KindNotFound                     // 404: does not exist, or the caller may not see it
	KindConflict                     // 409: exists already, is in use, or cannot change any more
	KindPrecondition                 // 412: If-Match does not match
	KindBusy                         // 429: too many of these operations, or too large a request
)

// An Error is the refusal of an operation, which has changed nothing. Any other error of an
// operation means that the database failed.
type Error struct {
	Kind   Kind
	Code   string // for programs: "exceeds_caller", "revoked", …
	Detail string // for people: the problem, and what to do about it
	Fields []FieldError
	ID     string // of the conflicting object, if any
	Needed string // the permission that the caller lacks, if any
}

// A FieldError describes one invalid field.
type FieldError struct {
	Field  string // path, such as "grants[1].namespace"
	Detail string
}

// Error returns the detail, or the details of all fields.
func (e *Error) Error() string {
	if len(e.Fields) == 0 {
		return e.Detail
	}
	parts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		parts[i] = f.Field + ": " + f.Detail
	}
	return strings.Join(parts, "; ")
}

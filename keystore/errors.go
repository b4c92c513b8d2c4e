package keystore

import "strings"

// Kind is the class of a managing operation's refusal; it maps to one HTTP status.
type Kind uint8

const (
	KindInvalid      Kind = iota + 1 // 422: the fields are wrong
	KindForbidden                    // 403: the caller may not
	KindNotFound                     // 404: there is none, or the caller may not know of it
	KindConflict                     // 409: exists already, in use, or final
	KindPrecondition                 // 412: If-Match does not fit
	// 429: too many of these run already, or the caller asks for too much at a time
	KindBusy
)

// An Error refuses a managing operation. Nothing has been changed. All other errors of those
// operations mean that the store failed.
type Error struct {
	Kind   Kind
	Code   string // for programs: "exceeds_caller", "revoked", …
	Detail string // for people: what is wrong, and what to do
	Fields []FieldError
	ID     string // of the object in the way, if any
	Needed string // the permission that the caller lacks, if that is it
}

// A FieldError is one field that a body gets wrong.
type FieldError struct {
	Field  string // as a path: "grants[1].namespace"
	Detail string
}

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

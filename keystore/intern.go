package keystore

import (
	"runtime"
	"sync"
	"weak"
)

// An interner returns one copy of equal values, and forgets it when nothing uses it any more. Its
// zero value is ready for use. It is safe for concurrent use.
type interner[T any] struct {
	values sync.Map // text → weak.Pointer[T]
}

// find returns the value for a text, or nil if none is in use.
func (in *interner[T]) find(text string) *T {
	if p, ok := in.values.Load(text); ok {
		return p.(weak.Pointer[T]).Value()
	}
	return nil
}

// intern returns the value in use for a text. If there is none, it stores v and returns it.
func (in *interner[T]) intern(text string, v *T) *T {
	pointer := weak.Make(v)
	for {
		other, loaded := in.values.LoadOrStore(text, pointer)
		if !loaded {
			runtime.AddCleanup(v,
				func(text string) { in.values.CompareAndDelete(text, pointer) }, text)
			return v
		}
		if used := other.(weak.Pointer[T]).Value(); used != nil {
			return used
		}
		in.values.CompareAndDelete(text, other)
	}
}

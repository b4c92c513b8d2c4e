package keystore

import (
	"runtime"
	"sync"
	"weak"
)

// An interner keeps one copy of equal values for as long as anyone uses it. Its zero value is
// ready.
type interner[T any] struct {
	held sync.Map // text → weak.Pointer[T]
}

// find returns the value in use that a text stands for, nil when there is none.
func (in *interner[T]) find(text string) *T {
	if p, ok := in.held.Load(text); ok {
		return p.(weak.Pointer[T]).Value()
	}
	return nil
}

// intern returns the value in use that a text stands for, which is v when there was none.
func (in *interner[T]) intern(text string, v *T) *T {
	made := weak.Make(v)
	for {
		held, loaded := in.held.LoadOrStore(text, made)
		if !loaded {
			runtime.AddCleanup(v, func(text string) { in.held.CompareAndDelete(text, made) }, text)
			return v
		}
		if other := held.(weak.Pointer[T]).Value(); other != nil {
			return other
		}
		in.held.CompareAndDelete(text, held)
	}
}

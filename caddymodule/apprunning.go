package caddymodule

import (
	"slices"
	"sync"
	"sync/atomic"
)

// running holds the apps between Start and Cleanup, in the order in which they started. During a
// reload there are two. The last one serves the admin endpoint, and its settings are in force. If a
// config fails, its app is removed, which restores the settings of the previous one.
var running runningApps

type runningApps struct {
	mu   sync.Mutex
	apps []*App
	last atomic.Pointer[App]
}

// runningApp returns the app whose settings are in force, or nil. Caddy replaces its admin server
// before it starts the apps and keeps it if they fail, so the admin routes must ask at request
// time.
func runningApp() *App { return running.last.Load() }

// add makes a the running app. s is its store, or nil if it is not open yet.
func (r *runningApps) add(a *App, s *store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.apps = append(r.apps, a)
	if s != nil {
		a.publish(s)
	}
	r.last.Store(a)
}

// publish applies the settings of a to the store and lets requests use it.
func (a *App) publish(s *store) {
	s.configure(a)
	a.store.Store(s)
}

// remove removes a, if it is running.
func (r *runningApps) remove(a *App) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.apps, a)
	if i < 0 {
		return
	}
	r.apps = slices.Delete(r.apps, i, i+1)
	if len(r.apps) == 0 {
		r.last.Store(nil)
		return
	}
	last := r.apps[len(r.apps)-1]
	if r.last.Load() == last {
		return
	}
	last.restore()
	r.last.Store(last)
}

// restore applies the settings of the last app again, after one that does not run has changed them.
func (r *runningApps) restore() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := r.last.Load(); last != nil {
		last.restore()
	}
}

// restore applies the settings of a to its store, if that is open.
func (a *App) restore() {
	if s := a.store.Load(); s != nil {
		s.configure(a)
	}
}

// opened publishes the store of an app that has opened it after Start. It does not apply the app's
// settings if those of a later app are in force.
func (r *runningApps) opened(a *App, s *store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.Load() == a {
		a.publish(s)
	} else {
		a.store.Store(s)
	}
}

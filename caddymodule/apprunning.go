package caddymodule

import (
	"slices"
	"sync"
	"sync/atomic"
)

// running holds the apps between Start and Cleanup, in the order in which they started: during a
// reload there are two. The last one's settings are in force, and it is what the admin endpoint
// works on. A config that does not come up removes its app again, which puts the settings of the
// one before back.
var running runningApps

type runningApps struct {
	mu   sync.Mutex
	apps []*App
	last atomic.Pointer[App]
}

// runningApp returns the app whose config is in force, nil when there is none. Caddy replaces its
// admin server before it starts the apps and leaves it there when they fail, so the admin server's
// routes have to ask at request time.
func runningApp() *App { return running.last.Load() }

// add makes a the one in force. s is its store, nil if it is not open yet.
func (r *runningApps) add(a *App, s *store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.apps = append(r.apps, a)
	if s != nil {
		a.publish(s)
	}
	r.last.Store(a)
}

// publish lets requests use the store, once the settings of a are in force in it.
func (a *App) publish(s *store) {
	s.configure(a)
	a.store.Store(s)
}

// remove takes a out; if it is not there, nothing happens.
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
	if s := last.store.Load(); s != nil {
		s.configure(last)
	}
	r.last.Store(last)
}

// opened publishes the store of an app that got it only now. Its settings do not count if another
// app's are in force by now.
func (r *runningApps) opened(a *App, s *store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.Load() == a {
		a.publish(s)
	} else {
		a.store.Store(s)
	}
}

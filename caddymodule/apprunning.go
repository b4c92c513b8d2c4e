package caddymodule

import (
	"slices"
	"sync"
	"sync/atomic"
)

// running holds the apps between Start and Cleanup, in the order in which they started: during a reload there are two. The
// last one's settings are in force, and it is what the admin endpoint works on. A config that does not come up removes its
// app again, which puts the settings of the one before back.
var running runningApps

type runningApps struct {
	mu   sync.Mutex
	apps []*App
	last atomic.Pointer[App]
}

// runningApp returns the app whose config is in force, nil when there is none. Caddy replaces its admin server before it
// starts the apps and leaves it there when they fail, so the admin server's routes have to ask at request time.
func runningApp() *App { return running.last.Load() }

// add makes a the one in force.
func (r *runningApps) add(a *App) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.apps = append(r.apps, a)
	r.update()
}

// remove takes a out; if it is not there, nothing happens.
func (r *runningApps) remove(a *App) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.apps, a); i >= 0 {
		r.apps = slices.Delete(r.apps, i, i+1)
		r.update()
	}
}

func (r *runningApps) update() {
	if len(r.apps) == 0 {
		r.last.Store(nil)
		return
	}
	last := r.apps[len(r.apps)-1]
	if r.last.Swap(last) != last {
		last.configure()
	}
}

// opened puts the settings of an app in force that got its store only now, unless another app's are by now.
func (r *runningApps) opened(a *App) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.Load() == a {
		a.configure()
	}
}

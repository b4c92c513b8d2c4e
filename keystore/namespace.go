package keystore

import (
	"time"
	"unique"
)

const (
	// DefaultNamespace exists from the start and stays.
	DefaultNamespace = "default"
	// HomeNamespace stands for the key's own namespace in a Caddyfile and can name none.
	HomeNamespace = "home"
)

// EditPolicy says how the keys of a namespace may be edited.
type EditPolicy string

const (
	EditFree     EditPolicy = "free"      // the zero value means this too
	EditGrowOnly EditPolicy = "grow_only" // a key's own grants never come to cover less
)

// A Namespace is the partition a key is good for.
type Namespace struct {
	ID         string
	Kind       string
	Name       string
	EditPolicy EditPolicy
	CreatedAt  time.Time
	Version    int64

	counts *outcomeCounts // nil but in a directory
}

// ValidNamespaceID reports whether s is `[A-Za-z0-9][A-Za-z0-9._~-]{0,63}` and not reserved.
func ValidNamespaceID(s string) bool {
	if s == "" || len(s) > 64 || s == HomeNamespace {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isBase62[c] && (i == 0 || c != '.' && c != '_' && c != '~' && c != '-') {
			return false
		}
	}
	return true
}

// A directory is all namespaces, held whole by every node. It does not change once made. Ids are compared byte by byte.
type directory struct {
	namespaces map[string]*Namespace
}

func newDirectory(list []Namespace, counts *requestCounts) *directory {
	d := &directory{namespaces: make(map[string]*Namespace, len(list))}
	for _, ns := range list {
		ns.ID = canonical(ns.ID)
		ns.counts = counts.of(ns.ID)
		d.namespaces[ns.ID] = &ns
	}
	return d
}

// canonical returns one copy of equal strings, for the few that a million keys share.
func canonical(s string) string { return unique.Make(s).Value() }

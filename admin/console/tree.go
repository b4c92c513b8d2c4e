package console

import (
	"cmp"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// A branch is one line of the tree of namespaces.
type branch struct {
	api.Namespace
	Depth    int // 0: on the left, at most maxIndent
	Children int
}

// maxIndent is how deep the tree is drawn. What lies deeper is drawn as deep.
const maxIndent = 6

// tree returns namespaces in the order of a tree, each followed by what lies in it: below root,
// which comes first, or all of them when root is empty. What the visitor may not see above a
// namespace leaves it on the left.
func tree(all []api.Namespace, root string) []branch {
	known := make(map[string]bool, len(all))
	for _, ns := range all {
		known[ns.ID] = true
	}
	inside := make(map[string][]api.Namespace)
	var top []api.Namespace
	for _, ns := range all {
		switch {
		case ns.ID == root,
			root == "" && (ns.Parent == nil || !known[*ns.Parent]),
			root == "" && ns.Unreadable != "": // its parents may form a cycle
			top = append(top, ns)
		case ns.Parent != nil:
			inside[*ns.Parent] = append(inside[*ns.Parent], ns)
		}
	}
	rows := make([]branch, 0, len(all))
	var grow func(list []api.Namespace, depth int)
	grow = func(list []api.Namespace, depth int) {
		slices.SortFunc(list, func(a, b api.Namespace) int {
			return cmp.Or(cmp.Compare(strings.ToLower(a.ID), strings.ToLower(b.ID)),
				cmp.Compare(a.ID, b.ID))
		})
		for _, ns := range list {
			rows = append(rows, branch{ns, min(depth, maxIndent), len(inside[ns.ID])})
			grow(inside[ns.ID], depth+1)
		}
	}
	grow(top, 0)
	return rows
}

// above returns the ancestors of a namespace that the visitor may see, the outermost first and each
// once.
func above(all []api.Namespace, ns api.Namespace) (list []api.Namespace) {
	by := make(map[string]api.Namespace, len(all))
	for _, one := range all {
		by[one.ID] = one
	}
	for ns.Parent != nil {
		delete(by, ns.ID) // in a cycle it would come again
		parent, ok := by[*ns.Parent]
		if !ok {
			break
		}
		list, ns = append(list, parent), parent
	}
	slices.Reverse(list)
	return list
}

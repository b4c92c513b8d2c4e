package console

import (
	"cmp"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// A branch is one row of the tree of namespaces.
type branch struct {
	api.Namespace
	Depth    int // 0: not indented; at most maxIndent
	Children int
}

// maxIndent is the largest indentation. Deeper namespaces are not indented further.
const maxIndent = 6

// tree returns namespaces in tree order, each followed by its children. It begins with root, or
// returns all namespaces if root is empty. A namespace whose parent the visitor may not see is not
// indented.
func tree(all []api.Namespace, root string) []branch {
	known := make(map[string]bool, len(all))
	for _, ns := range all {
		known[ns.ID] = true
	}
	children := make(map[string][]api.Namespace)
	var top []api.Namespace
	for _, ns := range all {
		switch {
		case ns.ID == root,
			root == "" && (ns.Parent == nil || !known[*ns.Parent]),
			root == "" && ns.Unreadable != "": // its parents may form a cycle
			top = append(top, ns)
		case ns.Parent != nil:
			children[*ns.Parent] = append(children[*ns.Parent], ns)
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
			rows = append(rows, branch{ns, min(depth, maxIndent), len(children[ns.ID])})
			grow(children[ns.ID], depth+1)
		}
	}
	grow(top, 0)
	return rows
}

// ancestors returns the ancestors of a namespace that the visitor may see, the outermost first and
// each once.
func ancestors(all []api.Namespace, ns api.Namespace) (list []api.Namespace) {
	by := make(map[string]api.Namespace, len(all))
	for _, one := range all {
		by[one.ID] = one
	}
	for ns.Parent != nil {
		delete(by, ns.ID) // a cycle would return it again
		parent, ok := by[*ns.Parent]
		if !ok {
			break
		}
		list, ns = append(list, parent), parent
	}
	slices.Reverse(list)
	return list
}

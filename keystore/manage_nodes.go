package keystore

import (
	"context"
	"time"
)

// A NodeStatus is a node as the one that was asked sees it.
type NodeStatus struct {
	Node
	Behind Revision // how many changes it has not acknowledged
	Silent bool     // active, and not heard for as long as its lease
	Self   bool     // it is the node that was asked
}

// ListNodes returns the nodes of the deployment, the oldest first. It takes the permission in all
// namespaces (spec section 7a.5).
func (k *Keystore) ListNodes(ctx context.Context, c Caller) ([]NodeStatus, error) {
	by, done, err := k.fresh(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if !by.may(adminNodes, "read", AnyNamespace) {
		refusal := lacks(adminNodes, "read")
		refusal.Detail += " in namespace " + AnyNamespace
		return nil, refusal
	}
	nodes, err := k.db.Nodes(ctx)
	if err != nil {
		return nil, k.storeFailed("reading the nodes", err)
	}
	own := *k.node.incarnation.Load()
	head, err := k.db.Renew(ctx, own, Position{}) // after what they had acknowledged
	if err != nil {
		return nil, k.storeFailed("reading the head of the change log", err)
	}
	list := make([]NodeStatus, len(nodes))
	var since time.Time
	for i, n := range nodes {
		list[i] = NodeStatus{Node: n, Self: n.Incarnation == own}
		if s := &list[i]; s.Self { // alone, it tells nobody what it has applied, or that it lives
			s.Acknowledged, s.Heard, since = Revision(max(0,
				k.node.applied.Load())), head.Now, n.Joined
		}
	}
	for i := range list {
		s := &list[i]
		s.Behind = max(0, head.Revision-s.Acknowledged)
		heard := s.Heard
		if heard.Before(since) {
			heard = since // it may have been alone before this one came, with nobody to tell
		}
		s.Silent = s.State == NodeActive && head.Now.Sub(heard) >= s.Lease
	}
	return list, nil
}

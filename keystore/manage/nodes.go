package manage

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A NodeStatus is a node as the one that was asked sees it.
type NodeStatus struct {
	keystore.Node
	Behind keystore.Revision // how many changes it has not acknowledged
	Silent bool              // active, and not heard for as long as its lease
	Self   bool              // it is the node that was asked
}

// ListNodes returns the nodes of the deployment, the oldest first. It takes the permission in all
// namespaces (spec section 7a.5).
func (k *Keystore) ListNodes(ctx context.Context, c Caller) ([]NodeStatus, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if !auth.may(adminNodes, "read", keystore.AnyNamespace) {
		refusal := permissionRequired(adminNodes, "read")
		refusal.Detail += " in namespace " + keystore.AnyNamespace
		return nil, refusal
	}
	nodes, err := k.Database().Nodes(ctx)
	if err != nil {
		return nil, k.StoreFailed("reading the nodes", err)
	}
	own := k.Incarnation()
	// after what they had acknowledged
	head, err := k.Database().Renew(ctx, own, keystore.Position{})
	if err != nil {
		return nil, k.StoreFailed("reading the head of the change log", err)
	}
	list := make([]NodeStatus, len(nodes))
	var since time.Time
	for i, n := range nodes {
		list[i] = NodeStatus{Node: n, Self: n.Incarnation == own}
		if s := &list[i]; s.Self { // alone, it tells nobody what it has applied, or that it lives
			s.Acknowledged, s.Heard, since = k.Applied(), head.Now, n.Joined
		}
	}
	for i := range list {
		s := &list[i]
		s.Behind = max(0, head.Revision-s.Acknowledged)
		heard := s.Heard
		if heard.Before(since) {
			heard = since // it may have been alone before this one came, with nobody to tell
		}
		s.Silent = s.State == keystore.NodeActive && head.Now.Sub(heard) >= s.Lease
	}
	return list, nil
}

package manage

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A NodeStatus is a node as another node sees it.
type NodeStatus struct {
	keystore.Node
	Behind keystore.Revision // the number of changes that it has not acknowledged
	Silent bool              // active, but last seen longer ago than its lease lasts
	Self   bool              // the node that answers
}

// ListNodes returns the nodes of the deployment, oldest first. It requires `admin.nodes:read` in
// all namespaces (docs/authority.md, rule 10).
func (k *Keystore) ListNodes(ctx context.Context, c Caller) ([]NodeStatus, error) {
	auth, done, err := k.beginRead(ctx, c)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := auth.requireEverywhere(adminNodes, "read"); err != nil {
		return nil, err
	}
	return k.nodes(ctx)
}

// nodes returns the nodes of the deployment, oldest first.
func (k *Keystore) nodes(ctx context.Context) ([]NodeStatus, error) {
	nodes, err := k.Database().Nodes(ctx)
	if err != nil {
		return nil, k.StoreFailed("reading the nodes", err)
	}
	own := k.Incarnation()
	// Read after the nodes, so that no node has acknowledged more than the head.
	head, err := k.Database().Renew(ctx, own, keystore.Position{})
	if err != nil {
		return nil, k.StoreFailed("reading the head of the change log", err)
	}
	list := make([]NodeStatus, len(nodes))
	var since time.Time
	for i, n := range nodes {
		list[i] = NodeStatus{Node: n, Self: n.Incarnation == own}
		// A node that is alone does not write what it has applied, or when it was last alive.
		if s := &list[i]; s.Self {
			s.Acknowledged, s.Heard, since = k.Applied(), head.Now, n.Joined
		}
	}
	for i := range list {
		s := &list[i]
		s.Behind = max(0, head.Revision-s.Acknowledged)
		heard := s.Heard
		if heard.Before(since) {
			heard = since // the other node may have been alone until this one joined
		}
		s.Silent = s.State == keystore.NodeActive && head.Now.Sub(heard) >= s.Lease
	}
	return list, nil
}

package admin_test

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
)

// A fleetDB is a database with additional nodes.
type fleetDB struct {
	keystore.Database
	others []keystore.Node
}

func (f *fleetDB) Nodes(ctx context.Context) ([]keystore.Node, error) {
	nodes, err := f.Database.Nodes(ctx)
	return append(nodes, f.others...), err
}

func TestNodes(t *testing.T) {
	db, err := sqldb.OpenSQLite(context.Background(), fleet.File(t))
	if err != nil {
		t.Fatal(err)
	}
	fleet := &fleetDB{Database: db}
	d := openOn(t, fleet)
	d.mint(t, root, readOnly)
	d.mint(t, root, readOnly)
	list := func() []api.Node {
		t.Helper()
		var nodes api.Nodes
		d.call(t, root, "GET", "/nodes", nil).into(t, 200, &nodes)
		if nodes.NextCursor != nil {
			t.Errorf("a cursor: %v", *nodes.NextCursor)
		}
		return nodes.Items
	}
	alone := list()
	if len(alone) != 1 {
		t.Fatalf("alone: %+v", alone)
	}
	self := alone[0]
	if !self.Self || self.State != "active" || self.Address == "" || self.LeaseMS != 30000 ||
		self.Behind != 0 || self.Revision < 3 ||
		time.Since(self.JoinedAt).Abs() > time.Minute || self.HeardAt.Before(self.JoinedAt) {
		t.Errorf("alone: %+v", self)
	}

	before := self.JoinedAt.Add(-time.Hour)
	other := func(address string, lease time.Duration, state keystore.NodeState,
		at int64) keystore.Node {
		return keystore.Node{
			Incarnation: address, Address: address, Lease: lease, State: state,
			Acknowledged: keystore.Revision(at), Joined: before, Heard: before,
		}
	}
	fleet.others = []keystore.Node{
		other("two changes behind", time.Hour, keystore.NodeActive, self.Revision-2),
		other("past its lease", time.Microsecond, keystore.NodeActive, self.Revision),
		other("being removed", time.Microsecond, keystore.NodeFencing, 0),
	}
	for i, want := range []api.Node{
		{State: "active", LeaseMS: 3600000, Revision: self.Revision - 2, Behind: 2},
		{State: "silent", Revision: self.Revision},
		{State: "fencing", Behind: self.Revision},
	} {
		want.Address, want.JoinedAt, want.HeardAt = fleet.others[i].Address, before, before
		if got := list()[1+i]; got != want {
			t.Errorf("%+v, want\n%+v", got, want)
		}
	}
}

package command

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

func TestNodesCommand(t *testing.T) {
	joined := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	nodes := api.Nodes{Items: []api.Node{
		{Address: "gate1/4711", State: "active", Self: true, LeaseMS: 30000, Revision: 12,
			JoinedAt: joined, HeardAt: joined.Add(time.Hour)},
		{Address: "gate2/\x1b[2J", State: "silent", LeaseMS: 90000, Revision: 9, Behind: 3,
			JoinedAt: joined, HeardAt: joined},
	}}
	s := serveCLI(t, map[string][]cliAnswer{"GET /nodes": {{200, nodes}, {200, nodes},
		problem(503, "unavailable", "the key store is unreachable")}})
	s.run("", "nodes").want(t, 0,
		"NODE           STATE   REVISION  BEHIND  LEASE  JOINED                LAST SEEN\n"+
			"gate1/4711 *   active  12        0       30s    2026-05-04T03:02:01Z  "+
			"2026-05-04T04:02:01Z\n"+
			`gate2/\x1b[2J  silent  9         3       1m30s  2026-05-04T03:02:01Z  2026-05-04T03:02:01Z`+"\n")
	var doc api.Nodes
	if r := s.run("", "nodes", "--json"); r.status != 0 ||
		json.Unmarshal([]byte(r.out), &doc) != nil || len(doc.Items) != 2 ||
		doc.Items[1] != nodes.Items[1] || doc.NextCursor != nil {
		t.Errorf("--json: %+v", r)
	}
	s.run("", "nodes").want(t, 1, "", "Error: the key store is unreachable")
	s.run("", "nodes", cliToken).want(t, 1, "", "accepts flags only")
}

package api

import "time"

// A Node is one process that serves the deployment.
type Node struct {
	Address  string    `json:"address" doc:"Host name and process id" example:"gate1/4711"`
	State    string    `json:"state" enum:"active,silent,fencing" doc:"silent: not heard for as long as its lease, so it lives on nothing it has cached. fencing: given up by another node; it joins anew before it trusts anything, or its row goes."`
	Self     bool      `json:"self" doc:"Whether it is the node that answers"`
	LeaseMS  int64     `json:"lease_ms" doc:"How long it may go on without the database, and a revoke may have to wait for it"`
	Revision int64     `json:"revision" doc:"The last change that it has applied"`
	Behind   int64     `json:"behind" doc:"How many changes there are that it has not applied"`
	JoinedAt time.Time `json:"joined_at" doc:"Since when it is a node, by the clock of the database"`
	HeardAt  time.Time `json:"heard_at" doc:"When it was heard of last, by the same clock; a node that is alone tells nobody"`
}

// Nodes lists all of them, the oldest first, on one page.
type Nodes = Page[Node]

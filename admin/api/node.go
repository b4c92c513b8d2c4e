package api

import "time"

// A Node is one process of the deployment.
type Node struct {
	Address  string    `json:"address" doc:"The host name and process id" example:"gate1/4711"`
	State    string    `json:"state" enum:"active,silent,fencing" doc:"silent: last seen longer ago than its lease, so it no longer uses its cache. fencing: another node is removing it, so it must join again before it uses its cache."`
	Self     bool      `json:"self" doc:"Whether this node answered the request"`
	LeaseMS  int64     `json:"lease_ms" doc:"How long the node serves cached keys without the database. A revoke waits for the node at most 2 % longer"`
	Revision int64     `json:"revision" doc:"The latest change that the node has applied"`
	Behind   int64     `json:"behind" doc:"The number of changes that the node has not applied"`
	JoinedAt time.Time `json:"joined_at" doc:"When the node joined, by the clock of the database"`
	HeardAt  time.Time `json:"heard_at" doc:"When the node was last seen, by the same clock. A node that runs alone does not update it"`
}

// Nodes is the list of all nodes, oldest first, on one page.
type Nodes = Page[Node]

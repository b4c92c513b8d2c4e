package api

import "time"

// A Page is one page of a list.
type Page[T any] struct {
	Items      []T     `json:"items" nullable:"false"`
	NextCursor *string `json:"next_cursor" doc:"The cursor of the next page; null on the last page"`
}

// Propagation reports how far a change has spread. Once it is complete, every node uses the changed
// state.
type Propagation struct {
	Revision     int64         `json:"revision"`
	Complete     bool          `json:"complete" doc:"Whether the change is in force on every node; the status is 202 until it is"`
	Nodes        int           `json:"nodes" doc:"The number of nodes that must apply the change"`
	Acknowledged int           `json:"acknowledged" doc:"The number of nodes that have applied it"`
	MS           int64         `json:"ms" doc:"Milliseconds since the change was committed"`
	Pending      []PendingNode `json:"pending" nullable:"false"`
}

// A PendingNode has not yet acknowledged a change.
type PendingNode struct {
	Node  string    `json:"node"`
	Until time.Time `json:"until" doc:"When the node's lease expires at the latest; from then on it no longer uses its cache"`
}

// A VerifyRequest asks how a request with a given credential would be answered.
type VerifyRequest struct {
	Token      string `json:"token" writeOnly:"true"`
	Namespace  string `json:"namespace,omitempty" doc:"The namespace that the request accesses. Default: the key's home namespace"`
	Permission string `json:"permission,omitempty" doc:"The permission that the request requires, such as read, write, orders:read or orders:search. Default: read if namespace is given, else none; without one the outcome only tells whether the key is valid"`
	Method     string `json:"method,omitempty" maxLength:"64" doc:"With path: the request's method. Default: GET"`
	Path       string `json:"path,omitempty" maxLength:"16384" doc:"The request's path, with its query. The api_key handler that serves such a request determines namespace and permission, which must be absent" example:"/v1/orders"`
	Host       string `json:"host,omitempty" maxLength:"300" doc:"With path: the host that the request is sent to, with the port if servers listen on several. Required only if the handlers of several sites decide differently" example:"api.example.com"`
	ClientIP   string `json:"client_ip,omitempty" doc:"The client's address. Default: an address that the key allows" example:"192.0.2.1"`
}

// A Verdict is the decision about a request.
type Verdict struct {
	Outcome   string  `json:"outcome" doc:"The outcome of the request: ok, unknown, rotated, revoked, …"`
	Status    int     `json:"status" doc:"The status that the handler would answer with; 200 if the request would be accepted"`
	Code      *string `json:"code" doc:"The code of the problem document; null if the request would be accepted"`
	Needed    *string `json:"needed" doc:"The permission that the decision is about; null: none"`
	Namespace string  `json:"namespace,omitempty" doc:"With path: the namespace that the request accesses, if the decision depends on it"`
	Key       *Key    `json:"key,omitempty" doc:"The key; absent unless the caller may read it"`
}

// Self describes the caller: a key, a member, a person that acts for groups, or the member root at
// Caddy's admin endpoint.
type Self struct {
	Member      *string             `json:"member" doc:"The id of the member, root at Caddy's admin endpoint; null for a key and for a person that acts for groups"`
	Login       string              `json:"login,omitempty" doc:"The login of a person who is not a member and acts for groups"`
	Groups      []SelfGroup         `json:"groups,omitempty" doc:"The groups that this person acts for"`
	Key         *Key                `json:"key,omitempty" doc:"The caller's own key; for a member that sent its token, the record of that token"`
	Permissions map[string][]string `json:"permissions" doc:"The caller's permissions by namespace; * is every namespace. A key has no permission that its owner lacks"`
}

// A SelfGroup is a member of kind group that the caller acts for.
type SelfGroup struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Health is the state of the node that answers. The status is 503 if it is unhealthy.
type Health struct {
	Healthy          bool   `json:"healthy"`
	Problem          string `json:"problem,omitempty" doc:"Why the node is unhealthy"`
	Revision         int64  `json:"revision" doc:"The latest change that this node has applied"`
	LeaseRemainingMS int64  `json:"lease_remaining_ms" doc:"How long the node may still serve cached keys without the database"`
}

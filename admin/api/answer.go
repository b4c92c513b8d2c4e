package api

import "time"

// A Page is one page of a list.
type Page[T any] struct {
	Items      []T     `json:"items" nullable:"false"`
	NextCursor *string `json:"next_cursor" doc:"What to pass as cursor for the next page; null on the last one"`
}

// Propagation says how far a change has come: once complete, no node goes by what was before.
type Propagation struct {
	Revision     int64         `json:"revision"`
	Complete     bool          `json:"complete" doc:"Whether the change is in force on every node; if not, the status is 202"`
	Nodes        int           `json:"nodes" doc:"How many nodes there were to wait for"`
	Acknowledged int           `json:"acknowledged"`
	MS           int64         `json:"ms" doc:"Milliseconds since the change was committed"`
	Pending      []PendingNode `json:"pending" nullable:"false"`
}

// A PendingNode has not yet acknowledged a change.
type PendingNode struct {
	Node  string    `json:"node"`
	Until time.Time `json:"until" doc:"When the node surely no longer trusts what it has cached"`
}

// A VerifyRequest asks what a request with some credential would be answered.
type VerifyRequest struct {
	Token      string `json:"token" writeOnly:"true"`
	Namespace  string `json:"namespace,omitempty" doc:"Default: the key's own"`
	Permission string `json:"permission,omitempty" doc:"What the request needs: read, write, orders:read, orders:search. Default: read if namespace is given, else none: the outcome is then whether the key is alive"`
	Method     string `json:"method,omitempty" maxLength:"64" doc:"With path: the request's method. Default: GET"`
	Path       string `json:"path,omitempty" maxLength:"16384" doc:"The request's path, with the query if there is one. The api_key handler of the configuration that judges such a request determines namespace and permission, which must be absent" example:"/v1/orders"`
	Host       string `json:"host,omitempty" maxLength:"300" doc:"With path: the host that the request is sent to, with the port if servers listen on several. Required only if the handlers of several sites decide differently" example:"api.example.com"`
	ClientIP   string `json:"client_ip,omitempty" doc:"The address of the client. Default: one that the key allows" example:"192.0.2.1"`
}

// A Verdict is the decision.
type Verdict struct {
	Outcome   string  `json:"outcome" doc:"One of the outcomes of a request: ok, unknown, rotated, revoked, …"`
	Status    int     `json:"status" doc:"What the gate would answer; 200 for ok"`
	Code      *string `json:"code" doc:"Of the problem document; null for ok"`
	Needed    *string `json:"needed" doc:"The permission that it was decided for; null: none"`
	Namespace string  `json:"namespace,omitempty" doc:"With path: the namespace that the request accesses, if the decision depends on it"`
	Key       *Key    `json:"key,omitempty" doc:"Absent unless the caller may read it"`
}

// Self is what the caller is and may do: a key, a member, or through Caddy's admin endpoint the
// member root.
type Self struct {
	Member      *string             `json:"member" doc:"The member's id, root at Caddy's admin endpoint; null for a key"`
	Key         *Key                `json:"key,omitempty" doc:"The caller's own key; of a member, the record of its token, if that is what it sent"`
	Permissions map[string][]string `json:"permissions" doc:"What the caller may do, and the member it acts for too, by namespace; * is every namespace"`
}

// A Health is how the node that answers stands. The status is 503 when it is not healthy.
type Health struct {
	Healthy          bool   `json:"healthy"`
	Problem          string `json:"problem,omitempty"`
	Revision         int64  `json:"revision" doc:"The last change that this node has applied"`
	LeaseRemainingMS int64  `json:"lease_remaining_ms" doc:"How long it may go on without the database"`
}

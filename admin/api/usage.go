package api

import "time"

// A Usage is the number of requests with keys over time.
type Usage struct {
	Items []UsageItem `json:"items" nullable:"false" doc:"The buckets in order of time, also those without requests; grouped: by group, then by time"`
	Total UsageCounts `json:"total" doc:"The sums over all items"`
}

// A UsageItem is the usage in one bucket of time. A grouped answer sets one of Key, Namespace,
// Owner, Outcome and Operation.
type UsageItem struct {
	Start     time.Time `json:"start" doc:"The beginning of the bucket"`
	Key       string    `json:"key,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
	Owner     string    `json:"owner,omitempty"`
	Outcome   string    `json:"outcome,omitempty"`
	Operation string    `json:"operation,omitempty" doc:"The permission that the requests needed"`
	UsageCounts
}

// UsageCounts are sums over requests with known keys.
type UsageCounts struct {
	Allowed  int64            `json:"allowed" doc:"Requests that were passed on"`
	Denied   map[string]int64 `json:"denied" nullable:"false" doc:"Refused requests by outcome" example:"{\"limited\":3}"`
	Units    int64            `json:"units" doc:"Units charged"`
	Status   map[string]int64 `json:"status" nullable:"false" doc:"Responses by class, including those of Caddy, such as 502" example:"{\"2xx\":11,\"5xx\":1}"`
	BytesIn  int64            `json:"bytes_in" doc:"Bytes of request bodies that Caddy has read for the API"`
	BytesOut int64            `json:"bytes_out" doc:"Bytes of response bodies"`
	Latency  map[string]int64 `json:"latency" nullable:"false" doc:"Responses by the time from the request to the end of the response. Each name is an upper bound; more counts the rest" example:"{\"10ms\":9,\"50ms\":2,\"more\":1}"`
}

// Refused returns the number of refused requests.
func (c *UsageCounts) Refused() (n int64) {
	for _, requests := range c.Denied {
		n += requests
	}
	return n
}

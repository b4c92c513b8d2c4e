package api

// An Operation is a row of the permission table: a call with its own permission, declared by an
// `api_key` handler of the running configuration.
type Operation struct {
	Permission string `json:"permission" doc:"The permission for this call alone" example:"orders:search"`
	Class      string `json:"class" enum:"read,write" doc:"The class of permissions that also allow the call, for the resource or for all resources"`
	Method     string `json:"method"`
	Path       string `json:"path" doc:"The pattern of paths, as the API sees them" example:"/v1/orders/{id}"`
	Summary    string `json:"summary" doc:"The summary from the OpenAPI document; empty for operations declared in the configuration"`
}

// Operations is one page of the permission table, sorted by permission.
type Operations struct {
	Items      []Operation `json:"items" nullable:"false"`
	NextCursor *string     `json:"next_cursor" doc:"The cursor of the next page; null on the last page"`
}

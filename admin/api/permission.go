package api

// An Operation is a row of the permission table: a call with a permission of its own, which some
// `api_key` handler of the running configuration declares.
type Operation struct {
	Permission string `json:"permission" doc:"What allows this call and no other" example:"orders:search"`
	Class      string `json:"class" enum:"read,write" doc:"What allows it too, for the resource or for all of them"`
	Method     string `json:"method"`
	Path       string `json:"path" doc:"The pattern, as the API sees the path" example:"/v1/orders/{id}"`
	Summary    string `json:"summary" doc:"What the OpenAPI document says of it; empty for operations that are written into the configuration"`
}

// Operations is one page of the permission table, by permission.
type Operations struct {
	Items      []Operation `json:"items" nullable:"false"`
	NextCursor *string     `json:"next_cursor" doc:"What to pass as cursor for the next page; null on the last one"`
}

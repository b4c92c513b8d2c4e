package api

import "net/http"

// A Problem is a problem document (RFC 9457): the body of every error of the REST interface, and of
// every request that an `api_key` handler refuses.
type Problem struct {
	Type      string       `json:"type" doc:"about:blank"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Code      string       `json:"code" doc:"Identifies the problem for programs"`
	Detail    string       `json:"detail,omitempty" doc:"A human-readable explanation: what is wrong and what to do"`
	Errors    []FieldError `json:"errors,omitempty" doc:"With 422: the invalid fields, at most 100"`
	Needed    string       `json:"needed,omitempty" doc:"With 403: the missing permission"`
	Namespace string       `json:"namespace,omitempty" doc:"With 403: the namespace in which the permission is required"`
	ID        string       `json:"id,omitempty" doc:"With 409: the id of the conflicting object"`
	RequestID string       `json:"request_id,omitempty" doc:"The uuid of the request in Caddy's access log. Present if the site uses {http.request.uuid} before api_keys_admin"`
	Refused   []Refused    `json:"refused,omitempty" doc:"With a failed import: the refused lines, at most 1000"`
}

// NewProblem returns a problem with the text of its status as the title. Its type is about:blank,
// because code identifies the problem. An empty detail is omitted.
func NewProblem(status int, code, detail string) Problem {
	return Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code,
		Detail: detail}
}

// Error returns the code, the detail or title, and all field errors in one line.
func (p *Problem) Error() string {
	s := p.Code + ": " + p.Title
	if p.Detail != "" {
		s = p.Code + ": " + p.Detail
	}
	for _, e := range p.Errors {
		s += "; " + e.Field + ": " + e.Detail
	}
	return s
}

// A FieldError explains why one field is invalid.
type FieldError struct {
	Field  string `json:"field" example:"grants[1].namespace"`
	Detail string `json:"detail"`
}

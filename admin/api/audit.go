package api

import (
	"encoding/json"
	"time"
)

// An AuditRow records one change. It never holds a token or the digest of one.
type AuditRow struct {
	Seq        int64           `json:"seq" doc:"1, 2, 3, … without gaps"`
	At         time.Time       `json:"at"`
	Actor      string          `json:"actor" doc:"The id of the member or key that made the change. For a person who acts for groups: the login, the word via and the ids of the groups, as in ada@example.com via m_2sD8kQ1hTz4f"`
	Address    string          `json:"address" doc:"The address that the change came from"`
	Action     string          `json:"action" example:"key.mint"`
	Object     string          `json:"object" doc:"The id of the changed object"`
	Namespaces []string        `json:"namespaces" nullable:"false" doc:"The namespaces that the change affects"`
	Before     json.RawMessage `json:"before" doc:"The object before the change; null if the change created it"`
	After      json.RawMessage `json:"after" doc:"The object after the change; null if the change deleted it"`
	Hash       string          `json:"hash" doc:"SHA-256, in hex, over the previous row's hash and this row: see GET /audit/verify"`
}

// AuditRows is one page of the audit log, newest first.
type AuditRows = Page[AuditRow]

// An AuditVerdict reports whether rows of the audit log were changed, removed or reordered. It does
// not cover rows that were removed from the end.
type AuditVerdict struct {
	Intact bool   `json:"intact"`
	Rows   int64  `json:"rows" doc:"The number of intact rows, counted from the first"`
	Last   string `json:"last" doc:"The hash of the last intact row. A copy kept elsewhere also reveals rows that are later removed from the end"`
	Wrong  int64  `json:"wrong,omitempty" doc:"The seq of the first row that is not intact"`
	Cause  string `json:"cause,omitempty" doc:"A human-readable explanation of what is wrong with that row"`
}

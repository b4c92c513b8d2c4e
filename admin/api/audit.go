package api

import (
	"encoding/json"
	"time"
)

// An AuditRow is one change as it is kept. It never holds a token or a digest of one.
type AuditRow struct {
	Seq        int64           `json:"seq" doc:"1, 2, 3, … without gaps"`
	At         time.Time       `json:"at"`
	Actor      string          `json:"actor" doc:"A member or key id"`
	Address    string          `json:"address" doc:"Where the change came from"`
	Action     string          `json:"action" example:"key.mint"`
	Object     string          `json:"object" doc:"The id of what was changed"`
	Namespaces []string        `json:"namespaces" nullable:"false" doc:"Those that the change has to do with"`
	Before     json.RawMessage `json:"before" doc:"The object as it was; null: it was made"`
	After      json.RawMessage `json:"after" doc:"The object as it became; null: it was deleted"`
	Hash       string          `json:"hash" doc:"SHA-256, in hex, over the row before it and this one: see GET /audit/verify"`
}

// AuditRows is one page of the audit log, newest first.
type AuditRows = Page[AuditRow]

// An AuditVerdict says whether the audit log is as it was written.
type AuditVerdict struct {
	Intact bool   `json:"intact"`
	Rows   int64  `json:"rows" doc:"How many rows are as they were written, counted from the first"`
	Last   string `json:"last" doc:"The hash of the last of these: kept elsewhere, it also tells rows that were cut off at the end"`
	Wrong  int64  `json:"wrong,omitempty" doc:"The seq of the first row that is not"`
	Cause  string `json:"cause,omitempty" doc:"What is wrong with it, for people"`
}

package keystore

import (
	"crypto/sha256"
	"encoding/json"
)

// Chain returns the row's hash: SHA-256 over the hash of the previous row (32 zero bytes for the
// first row) and the row's other fields as one JSON array. Changing, removing or reordering a row
// changes the hashes of all later rows.
func (r *AuditRow) Chain(previous Digest) Digest {
	fields, err := json.Marshal([]any{r.Seq, r.At.UnixMicro(), r.Actor, r.From, r.Action, r.Object,
		r.Namespaces, r.Before, r.After})
	if err != nil {
		panic(err) // impossible: only numbers and strings
	}
	return sha256.Sum256(append(previous[:], fields...))
}

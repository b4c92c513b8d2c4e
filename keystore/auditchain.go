package keystore

import (
	"crypto/sha256"
	"encoding/json"
)

// chain is the row's hash: SHA-256 over the hash of the row before it (32 zero bytes before the
// first) and the row's other fields as one JSON array. Whoever changes, removes or reorders a row
// has to change all hashes after it.
func (r *AuditRow) Chain(previous Digest) Digest {
	fields, err := json.Marshal([]any{r.Seq, r.At.UnixMicro(), r.Actor, r.From, r.Action, r.Object,
		r.Namespaces, r.Before, r.After})
	if err != nil {
		panic(err) // numbers and strings only
	}
	return sha256.Sum256(append(previous[:], fields...))
}

package keystore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
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

const eventIDPrefix = "evt_"

// EventID returns the id of the row as an event. It contains a part of the hash, because a database
// that has lost rows assigns their Seqs to other rows.
func (r *AuditRow) EventID() string {
	return fmt.Sprintf("%s%d_%s", eventIDPrefix, r.Seq, hex.EncodeToString(r.Hash[:8]))
}

// ParseEventID returns the Seq of the row with this [AuditRow.EventID].
func ParseEventID(id string) (seq int64, ok bool) {
	rest, found := strings.CutPrefix(id, eventIDPrefix)
	number, hash, both := strings.Cut(rest, "_")
	seq, err := strconv.ParseInt(number, 10, 64)
	_, notHex := hex.DecodeString(hash)
	return seq, found && both && err == nil && notHex == nil && len(hash) == 16 && seq > 0
}

// WebhookTest is the action of a row that only tests a webhook. Its object is the webhook.
const WebhookTest = "webhook.test"

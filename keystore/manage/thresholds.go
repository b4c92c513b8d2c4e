package manage

import (
	"context"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

const (
	// thresholdInterval is how often reached thresholds of quotas are written to the audit log.
	thresholdInterval = 5 * time.Second
	// thresholdBatch is how many one transaction writes.
	thresholdBatch = 100
)

// auditedThreshold is the threshold of a quota. Key is nil for the quota of a namespace.
type auditedThreshold struct {
	Key     *auditedKey    `json:"key,omitempty"`
	Quota   keystore.Quota `json:"quota"`
	Percent int            `json:"percent"`
	Used    int64          `json:"used"`
	Begin   time.Time      `json:"begin"`
	End     time.Time      `json:"end"`
}

// noteThresholds writes the thresholds that quotas have reached on this node to the audit log,
// unless another node has done so.
func (k *Keystore) noteThresholds(ctx context.Context) {
	for list := k.TakeThresholds(thresholdBatch); len(list) > 0; {
		err := k.writeThresholds(ctx, list)
		if err != nil {
			k.ReturnThresholds(list)
			return
		}
		list = k.TakeThresholds(thresholdBatch)
	}
}

func (k *Keystore) writeThresholds(ctx context.Context, list []node.QuotaThreshold) error {
	_, err := k.commitBulk(ctx, Root("a node that has seen a threshold of a quota"),
		func(tx keystore.Tx, auth authority) error {
			var changes []auditedChange
			for _, t := range list {
				known, err := tx.QuotaThreshold(t.Quota, t.Begin)
				if err != nil {
					return err
				}
				if known >= t.Percent {
					continue
				}
				if err := tx.NoteQuotaThreshold(t.Quota, t.Begin, t.End, t.Percent); err != nil {
					return err
				}
				id, per, ofNamespace := node.ParseQuota(t.Quota)
				after := auditedThreshold{Quota: keystore.Quota{Units: t.Units, Per: per},
					Percent: t.Percent, Used: t.Used, Begin: t.Begin, End: t.End}
				touches := []string{id}
				if !ofNamespace {
					key, err := tx.Key(id)
					if isNotFound(err) {
						continue
					} else if err != nil {
						return err
					}
					shown := auditedKeyOf(key)
					after.Key, touches = &shown, key.Touches(auth.policy)
				}
				changes = append(changes, auditedChange{id, touches, nil, after})
			}
			return auditAll(tx, auth, "quota.threshold", changes)
		})
	return err
}

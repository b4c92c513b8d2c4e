package manage

import (
	"context"
	"slices"
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
			changes, err := newThresholds(tx, auth, list)
			if err != nil {
				return err
			}
			return auditAll(tx, auth, "quota.threshold", changes)
		})
	return err
}

// newThresholds stores thresholds, and returns the rows for those that were not stored before.
func newThresholds(
	tx keystore.Tx, auth authority, list []node.QuotaThreshold,
) (changes []auditedChange, err error) {
	stored := make([]keystore.QuotaThreshold, len(list))
	for i := range list {
		stored[i] = list[i].QuotaThreshold
	}
	news, err := tx.NoteQuotaThresholds(stored)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, quota := range news {
		if id, _, ofNamespace := node.ParseQuota(quota); !ofNamespace {
			ids = append(ids, id)
		}
	}
	found, err := tx.Keys(ids)
	if err != nil {
		return nil, err
	}
	keys := make(map[string]*keystore.Key, len(found))
	for i := range found {
		keys[found[i].ID] = &found[i]
	}
	for i := range list {
		t := &list[i]
		id, per, ofNamespace := node.ParseQuota(t.Quota)
		key := keys[id]
		if !slices.Contains(news, t.Quota) || key == nil && !ofNamespace {
			continue
		}
		after := auditedThreshold{Quota: keystore.Quota{Units: t.Units, Per: per},
			Percent: t.Percent, Used: t.Used, Begin: t.Begin, End: t.End}
		touches := []string{id}
		if !ofNamespace {
			shown := auditedKeyOf(key)
			after.Key, touches = &shown, key.Touches(auth.policy)
		}
		changes = append(changes, auditedChange{id, touches, nil, after})
	}
	return changes, nil
}

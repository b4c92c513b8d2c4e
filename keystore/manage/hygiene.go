package manage

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A Finding is a reason to look at a key that is active.
type Finding string

// Findings. A key that was not used for 90 days has both findings for unused keys. A key that was
// never used has neither.
const (
	NeverUsed    Finding = "never_used" // and at least a day old
	Unused30Days Finding = "unused_30_days"
	Unused90Days Finding = "unused_90_days"
	NeverExpires Finding = "never_expires"
	ExpiresSoon  Finding = "expires_soon" // within 30 days
	// DisabledOwner means that requests with the key are refused because its owner is disabled.
	DisabledOwner Finding = "owner_disabled"
	// UnusedPermissions means that the key was used, but some of its permissions were not needed
	// for 90 days.
	UnusedPermissions Finding = "unused_permissions"
)

// Findings lists every [Finding].
var Findings = []Finding{NeverUsed, Unused30Days, Unused90Days, NeverExpires, ExpiresSoon,
	DisabledOwner, UnusedPermissions}

const (
	day         = 24 * time.Hour
	month       = 30 * 24 * time.Hour
	threeMonths = 90 * 24 * time.Hour
)

// A HygieneFilter selects keys with findings.
type HygieneFilter struct {
	Namespace string  // home of the keys; empty selects any
	Finding   Finding // that the key has; empty selects any
}

// A KeyHygiene is an active key with its findings.
type KeyHygiene struct {
	keystore.Key
	Findings []Finding
	// Unused lists the permissions for which the key has the finding UnusedPermissions, sorted,
	// including those of roles.
	Unused []keystore.Permission
}

// Hygiene examines a page of at most limit active keys that the caller may read, newest first. It
// returns those with findings, and the cursor of the next page. A page may be empty without being
// the last one.
func (k *Keystore) Hygiene(
	ctx context.Context, c Caller, f HygieneFilter, cursor string, limit int,
) ([]KeyHygiene, string, error) {
	var p fieldErrors
	if f.Finding != "" && !slices.Contains(Findings, f.Finding) {
		p.add("finding", "must be one of: %v", Findings)
		return nil, "", p.err()
	}
	ctx, auth, done, err := k.beginLongRead(ctx, c)
	if err != nil {
		return nil, "", err
	}
	defer done()
	filter := keystore.KeyFilter{Status: keystore.StatusActive}
	if f.Namespace != "" {
		filter.Namespaces = []string{f.Namespace}
	}
	keys, next, err := k.listKeys(ctx, auth, filter, cursor, limit)
	if err != nil {
		return nil, "", err
	}
	now := k.Now()
	var unused map[string][]keystore.Permission
	if f.Finding == "" || f.Finding == UnusedPermissions {
		if unused, err = k.unusedPermissions(ctx, auth.policy, keys, now); err != nil {
			return nil, "", err
		}
	}
	var found []KeyHygiene
	for i := range keys {
		h := KeyHygiene{Key: keys[i], Unused: unused[keys[i].ID]}
		h.Findings = findings(&keys[i], auth.policy, now)
		if len(h.Unused) > 0 {
			h.Findings = append(h.Findings, UnusedPermissions)
		}
		if len(h.Findings) > 0 && (f.Finding == "" || slices.Contains(h.Findings, f.Finding)) {
			found = append(found, h)
		}
	}
	return found, next, nil
}

// findings returns the findings that need no usage.
func findings(key *keystore.Key, d *keystore.Directory, now time.Time) (list []Finding) {
	if key.LastUsedAt.IsZero() {
		if now.Sub(key.CreatedAt) >= day { // a younger key may not have been handed over yet
			list = append(list, NeverUsed)
		}
	} else if unused := now.Sub(key.LastUsedAt); unused >= month {
		list = append(list, Unused30Days)
		if unused >= threeMonths {
			list = append(list, Unused90Days)
		}
	}
	if key.ExpiresAt.IsZero() {
		list = append(list, NeverExpires)
	} else if key.ExpiresAt.Sub(now) <= month {
		list = append(list, ExpiresSoon)
	}
	if !d.OwnerActive(key.Owner) {
		list = append(list, DisabledOwner)
	}
	return list
}

// unusedPermissions returns the permissions that no request of the last 90 days needed, by key. It
// judges only keys that were used in this time and for which usage was counted before it: otherwise
// the key or the usage is too new to know.
func (k *Keystore) unusedPermissions(
	ctx context.Context, d *keystore.Directory, keys []keystore.Key, now time.Time,
) (map[string][]keystore.Permission, error) {
	since := now.Add(-threeMonths)
	judged := make(map[string]*keystore.Key)
	for i := range keys {
		if key := &keys[i]; key.CreatedAt.Before(since) && key.LastUsedAt.After(since) {
			judged[key.ID] = key
		}
	}
	if len(judged) == 0 {
		return nil, nil
	}
	// Months are kept longest. The month in which the 90 days begin is partly too new.
	until, _ := keystore.Month.Of(since)
	before, err := k.Database().Usage(ctx, keystore.UsageQuery{
		Step: keystore.Month, From: until.AddDate(-1, 0, 0), To: until,
		Keys: slices.Sorted(maps.Keys(judged)), By: keystore.ByKey,
	})
	if err != nil {
		return nil, k.RefusalOr("reading usage", err)
	}
	var known []string
	for _, s := range before {
		if !slices.Contains(known[max(0, len(known)-1):], s.Group) { // ordered by group
			known = append(known, s.Group)
		}
	}
	if len(known) == 0 {
		return nil, nil
	}
	used, err := k.Database().UsedOperations(ctx, known)
	if err != nil {
		return nil, k.RefusalOr("reading used operations", err)
	}
	unused := make(map[string][]keystore.Permission, len(known))
	for id, operations := range used {
		maps.DeleteFunc(operations, func(_ string, day time.Time) bool {
			return !day.After(since.Add(-24 * time.Hour)) // day is when the day begins
		})
		if len(operations) > 0 {
			unused[id] = unneeded(judged[id], d, slices.Collect(maps.Keys(operations)))
		}
	}
	return unused, nil
}

// unneeded returns the permissions of a key's grants that allow none of the operations. It leaves
// out permissions to manage keys: such requests are not counted.
func unneeded(key *keystore.Key, d *keystore.Directory, operations []string) []keystore.Permission {
	var list []keystore.Permission
	for i := range key.Grants {
		for _, p := range d.Expand(&key.Grants[i]).Permissions() {
			set := keystore.NewSet(p)
			allows := func(operation string) bool {
				return slices.ContainsFunc(needsOf(operation), set.Allows)
			}
			if !p.IsAdmin() && !slices.ContainsFunc(operations, allows) {
				list = append(list, p)
			}
		}
	}
	return keystore.NewSet(list...).Permissions()
}

// needsOf returns the needs whose text is operation: see [keystore.Need.String]. The class of a
// named operation is not known.
func needsOf(operation string) []keystore.Need {
	resource, action, scoped := strings.Cut(operation, ":")
	if !scoped {
		resource, action = "", operation
	}
	switch action {
	case "read":
		return []keystore.Need{{Class: keystore.Read, Resource: resource}}
	case "write":
		return []keystore.Need{{Class: keystore.Write, Resource: resource}}
	case "*":
		return []keystore.Need{{Class: keystore.UnknownClass, Resource: resource}}
	case "":
		return nil
	}
	return []keystore.Need{
		{Class: keystore.Read, Resource: resource, Operation: action},
		{Class: keystore.Write, Resource: resource, Operation: action},
	}
}

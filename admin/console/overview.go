package console

import (
	"cmp"
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

const overviewPath = Root + "/overview"

func overviewPages() []page {
	return []page{{"GET " + overviewPath, "admin.usage:read", showOverview}}
}

type overviewPage struct {
	Usage *usagePart
	Top   []keyUsage // the keys with the most requests
	Near  []nearQuota
	// Newest means that only the newest maxQuotaKeys keys were compared with their quotas.
	Newest bool
}

const (
	topKeys      = 10
	shownNear    = 20 // keys near their quota
	maxQuotaKeys = 2000
	// nearShare is the part of a quota from which a key is near it.
	nearShare = 0.8
)

// A keyUsage is the usage of a key.
type keyUsage struct {
	ID    string
	Key   *keystore.Key // nil if it is deleted or the visitor may not read it
	Total manage.UsageTally
	Spark *spark
}

// A nearQuota is a key of whose quota most has been spent.
type nearQuota struct {
	Key keystore.Key
	quotaUse
}

func showOverview(v *visit) error {
	chosen, ok := v.chosenRange()
	if !ok {
		return nil
	}
	usage := func(f manage.UsageFilter) (*manage.Usage, error) {
		f.Namespace = v.namespace()
		return v.keys.Usage(v.ctx, v.Caller, f)
	}
	var p overviewPage
	p.Usage = v.usagePart(chosen, nil, func(s manage.UsageSpan) (*manage.Usage, error) {
		return usage(manage.UsageFilter{UsageSpan: s})
	})
	if p.Usage.Problem != "" {
		return v.show("overview", "Overview", p)
	}
	top, err := usage(manage.UsageFilter{UsageSpan: manage.UsageSpan{Step: chosen.step},
		By: keystore.ByKey, Limit: topKeys})
	if err == nil {
		for i := range top.Series {
			s := &top.Series[i]
			k := keyUsage{ID: s.Group, Total: s.Total, Spark: newSpark(s, chosen.Label)}
			k.Spark.Short = "" // other columns have the numbers
			// an error means that there is no such key for the visitor
			k.Key, _ = v.keys.FindKey(v.ctx, v.Caller, s.Group)
			p.Top = append(p.Top, k)
		}
		p.Near, p.Newest, err = v.nearQuotas()
	}
	if err != nil {
		p.Usage.Problem = v.usageProblem(err)
	}
	return v.show("overview", "Overview", p)
}

// nearQuotas returns the active keys that have spent most of their quotas, in the order of the
// share, and whether there are more keys than it has examined.
func (v *visit) nearQuotas() (near []nearQuota, more bool, err error) {
	f := keystore.KeyFilter{Status: keystore.StatusActive}
	if in := v.namespace(); in != "" {
		f.Namespaces = []string{in}
	}
	cursor := ""
	for n := 0; n == 0 || cursor != "" && n < maxQuotaKeys; {
		keys, next, err := v.keys.ListKeys(v.ctx, v.Caller, f, cursor, maxRead)
		if err != nil {
			return nil, false, err
		}
		uses, err := v.quotaUses(keys)
		if err != nil {
			return nil, false, err
		}
		for i := range keys {
			if use, has := uses[keys[i].ID]; has && use.share() >= nearShare {
				near = append(near, nearQuota{keys[i], use})
			}
		}
		n, cursor = n+maxRead, next
	}
	slices.SortStableFunc(near,
		func(a, b nearQuota) int { return cmp.Compare(b.share(), a.share()) })
	return near[:min(len(near), shownNear)], cursor != "", nil
}

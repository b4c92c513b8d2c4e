package console

import (
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
}

const (
	topKeys   = 10
	shownNear = 20 // quotas
	// nearShare is the share of a quota from which it is nearly used up.
	nearShare = 0.8
)

// A keyUsage is the usage of a key.
type keyUsage struct {
	ID    string
	Key   *keystore.Key // nil if it is deleted or the visitor may not read it
	Total manage.UsageTally
	Spark *spark
}

// A nearQuota is a quota that is nearly used up.
type nearQuota struct {
	Key       *keystore.Key // nil: a quota of the namespace
	Namespace string
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
		p.Near, err = v.nearQuotas()
	}
	if err != nil {
		p.Usage.Problem = v.usageProblem(err)
	}
	return v.show("overview", "Overview", p)
}

// nearQuotas returns the quotas that are nearly used up, as far as the visitor may read usage.
func (v *visit) nearQuotas() (near []nearQuota, err error) {
	list, err := v.keys.NearQuotas(v.ctx, v.Caller, v.namespace(), nearShare, shownNear)
	if err != nil {
		return nil, err
	}
	for _, q := range list {
		owner := "" // a namespace has none
		if q.Key != nil {
			owner = q.Key.Owner
		}
		if v.showsUsage(q.Namespace, owner) {
			_, quota := limitsAsShown(keystore.Limits{Quota: q.Quota})
			near = append(near, nearQuota{q.Key, q.Namespace, newQuotaUse(quota, q.Used, q.Begin)})
		}
	}
	return near, nil
}

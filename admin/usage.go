package admin

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"iter"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

const usagePath = api.Prefix + "/usage"

func (a *API) registerUsage() {
	const formats = "The answer is JSON, CSV (`Accept: text/csv`) or one item per line (`Accept: " +
		"application/x-ndjson`). It has an item for every bucket, also for those without requests."
	ofKey := a.key.operation("show-usage-of", http.MethodGet, "/usage", "Show the usage of a key")
	ofKey.Description = formats
	register(a, ofKey, a.key.permission("read"), a.showKeyUsage)
	self := huma.Operation{
		OperationID: "show-usage-of-self", Method: http.MethodGet, Path: api.Prefix + "/self/usage",
		Summary: "Show the usage of the calling key", Tags: []string{"self"}, Description: formats,
	}
	register(a, self, "", a.showSelfUsage)
	all := huma.Operation{
		OperationID: "show-usage", Method: http.MethodGet, Path: usagePath,
		Summary: "Show the usage of keys", Tags: []string{"usage"},
		Description: "Sums up requests with keys whose home is a namespace in which the caller " +
			"has the permission. A member also gets the requests with keys that it owned at the " +
			"time. " + formats,
	}
	register(a, all, "admin.usage:read", a.showUsage)

	schemas := a.huma.OpenAPI().Components.Schemas
	whole := schemas.Schema(reflect.TypeFor[api.Usage](), true, "")
	item := schemas.Schema(reflect.TypeFor[api.UsageItem](), true, "")
	for _, path := range []string{ofKey.Path, self.Path, all.Path} {
		a.huma.OpenAPI().Paths[path].Get.Responses["200"] = &huma.Response{
			Description: "The usage",
			Content: map[string]*huma.MediaType{
				api.JSON: {Schema: whole}, api.NDJSON: {Schema: item}, api.CSV: {},
			},
		}
	}
}

// UsageSpan holds the time of a read of usage and the format of the answer. It is exported because
// huma sets it by reflection.
type UsageSpan struct {
	From   time.Time `query:"from" doc:"The beginning (RFC 3339), rounded down to a bucket. Default: 60 minutes, 24 hours, 30 days or 12 months before to"`
	To     time.Time `query:"to" doc:"The end (RFC 3339), exclusive, rounded up to a bucket. Default: now"`
	Step   string    `query:"step" enum:"minute,hour,day,month" default:"hour" doc:"The length of the buckets, in UTC"`
	Accept string
}

// Resolve implements huma.Resolver.
func (s *UsageSpan) Resolve(ctx huma.Context) []error {
	s.Accept = listed(ctx, "Accept")
	return nil
}

func (s *UsageSpan) span() manage.UsageSpan {
	return manage.UsageSpan{Step: keystore.Period(s.Step), From: s.From, To: s.To}
}

type keyUsageInput struct {
	ByID
	UsageSpan
}

func (a *API) showKeyUsage(
	ctx context.Context, c manage.Caller, in *keyUsageInput,
) (*huma.StreamResponse, error) {
	u, err := a.keys.KeyUsage(ctx, c, in.ID, in.span())
	return a.usage(ctx, in.Accept, "", u, err)
}

func (a *API) showSelfUsage(
	ctx context.Context, c manage.Caller, in *UsageSpan,
) (*huma.StreamResponse, error) {
	u, err := a.keys.SelfUsage(ctx, c, in.span())
	return a.usage(ctx, in.Accept, "", u, err)
}

type usageInput struct {
	UsageSpan
	Namespace string `query:"namespace" doc:"Only keys with this home namespace"`
	GroupBy   string `query:"group_by" enum:"key,namespace,owner,outcome,operation" doc:"Default: one sum of all keys"`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"20" doc:"The number of groups, those with the most requests"`
}

func (a *API) showUsage(
	ctx context.Context, c manage.Caller, in *usageInput,
) (*huma.StreamResponse, error) {
	var wrong fields
	wrong.namespaceID("namespace", in.Namespace)
	if err := wrong.err(); err != nil {
		return nil, err
	}
	by := keystore.UsageGroup(in.GroupBy)
	u, err := a.keys.Usage(ctx, c, manage.UsageFilter{UsageSpan: in.span(),
		Namespace: in.Namespace, By: by, Limit: in.Limit})
	return a.usage(ctx, in.Accept, by, u, err)
}

// usage returns u as an answer in an acceptable format, or the error. The items are encoded one by
// one, because there may be many.
func (a *API) usage(
	ctx context.Context, accept string, by keystore.UsageGroup, u *manage.Usage, err error,
) (*huma.StreamResponse, error) {
	if err != nil {
		return nil, err
	}
	const copies = 2 // the buckets, and the sums from the database that fill them
	bucket := copies * int64(reflect.TypeFor[manage.UsageBucket]().Size())
	for i := range u.Series {
		if err := accountOf(ctx).take(int64(len(u.Series[i].Buckets)) * bucket); err != nil {
			return nil, err
		}
	}
	format := negotiate(accept, api.JSON, api.NDJSON, api.CSV)
	write := map[string]func(*bufio.Writer, *manage.Usage, keystore.UsageGroup) error{
		api.JSON: writeUsageJSON, api.NDJSON: writeUsageLines, api.CSV: writeUsageCSV,
	}[format]
	return &huma.StreamResponse{Body: func(out huma.Context) {
		out.SetHeader("Content-Type", format)
		out.SetHeader("Vary", "Accept")
		out.SetStatus(http.StatusOK)
		w := bufio.NewWriterSize(a.stream(out), streamBytes)
		err := write(w, u, by)
		if err == nil {
			err = w.Flush()
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the client must not mistake a part for the whole
		}
	}}, nil
}

// usageItems returns the items of an answer.
func usageItems(u *manage.Usage, by keystore.UsageGroup) iter.Seq[*api.UsageItem] {
	return func(yield func(*api.UsageItem) bool) {
		for i := range u.Series {
			s := &u.Series[i]
			for j := range s.Buckets {
				item := api.UsageItem{Start: s.Buckets[j].Begin,
					UsageCounts: showUsage(&s.Buckets[j].UsageTally)}
				switch by {
				case keystore.ByKey:
					item.Key = s.Group
				case keystore.ByNamespace:
					item.Namespace = s.Group
				case keystore.ByOwner:
					item.Owner = s.Group
				case keystore.ByOperation:
					item.Operation = s.Group
				case manage.ByOutcome:
					item.Outcome = s.Group
				}
				if !yield(&item) {
					return
				}
			}
		}
	}
}

// showUsage returns the wire type of a tally.
func showUsage(t *manage.UsageTally) api.UsageCounts {
	c := api.UsageCounts{Allowed: t.Allowed(), Units: t.Units, BytesIn: t.BytesIn,
		BytesOut: t.BytesOut, Denied: make(map[string]int64), Status: make(map[string]int64),
		Latency: make(map[string]int64)}
	add := func(m map[string]int64, name string, n int64) {
		if n != 0 {
			m[name] = n
		}
	}
	for o, n := range t.Outcomes {
		if o := keystore.Outcome(o); o.Refuses() {
			add(c.Denied, o.String(), n)
		}
	}
	for i, n := range t.Status {
		add(c.Status, statusClass(i), n)
	}
	for i, n := range t.Latency {
		add(c.Latency, latencyName(i), n)
	}
	return c
}

// statusClass names an element of [keystore.UsageCounts.Status].
func statusClass(i int) string { return strconv.Itoa(i+1) + "xx" }

// latencyName names an element of [keystore.UsageCounts.Latency].
func latencyName(i int) string {
	if i == len(keystore.LatencyBounds) {
		return "more"
	}
	return keystore.LatencyBounds[i].String()
}

// The functions that write usage ignore write errors outside of loops, because the Flush of w
// returns the first one. Inside a loop they check for errors, to end it early.

func writeUsageJSON(w *bufio.Writer, u *manage.Usage, by keystore.UsageGroup) error {
	e := json.NewEncoder(w)
	_, _ = w.WriteString(`{"items":[`)
	separator := ""
	for item := range usageItems(u, by) {
		_, _ = w.WriteString(separator)
		separator = ","
		if err := e.Encode(item); err != nil {
			return err
		}
	}
	_, _ = w.WriteString(`],"total":`)
	if err := e.Encode(showUsage(&u.Total)); err != nil {
		return err
	}
	_, _ = w.WriteString("}\n")
	return nil
}

func writeUsageLines(w *bufio.Writer, u *manage.Usage, by keystore.UsageGroup) error {
	e := json.NewEncoder(w)
	for item := range usageItems(u, by) {
		if err := e.Encode(item); err != nil {
			return err
		}
	}
	return nil
}

// usageDenials are the outcomes of refused requests with a known key, in the order of their columns
// in CSV (docs/usage.md).
var usageDenials = []keystore.Outcome{
	keystore.Revoked, keystore.Expired, keystore.Inactive, keystore.OwnerDisabled, keystore.Rotated,
	keystore.Address, keystore.Early, keystore.Forbidden, keystore.Limited, keystore.Exhausted,
	keystore.Unavailable,
}

// usageColumns are the columns of CSV. They are the same in every answer, and new ones are added at
// the end.
func usageColumns() []string {
	columns := []string{"start", "key", "namespace", "owner", "outcome", "operation", "allowed",
		"denied", "units", "bytes_in", "bytes_out"}
	for i := range (keystore.UsageCounts{}).Status {
		columns = append(columns, "status_"+statusClass(i))
	}
	for i := range (keystore.UsageCounts{}).Latency {
		columns = append(columns, "latency_"+latencyName(i))
	}
	for _, o := range usageDenials {
		columns = append(columns, "denied_"+o.String())
	}
	return columns
}

func writeUsageCSV(w *bufio.Writer, u *manage.Usage, by keystore.UsageGroup) error {
	columns := usageColumns()
	out := csv.NewWriter(w)
	_ = out.Write(columns)
	for item := range usageItems(u, by) {
		row := make([]string, 0, len(columns))
		row = append(row, item.Start.Format(time.RFC3339), item.Key, item.Namespace, item.Owner,
			item.Outcome, item.Operation)
		add := func(n int64) { row = append(row, strconv.FormatInt(n, 10)) }
		for _, n := range []int64{
			item.Allowed, item.Refused(), item.Units, item.BytesIn, item.BytesOut,
		} {
			add(n)
		}
		for i := range (keystore.UsageCounts{}).Status {
			add(item.Status[statusClass(i)])
		}
		for i := range (keystore.UsageCounts{}).Latency {
			add(item.Latency[latencyName(i)])
		}
		for _, o := range usageDenials {
			add(item.Denied[o.String()])
		}
		if err := out.Write(row); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// A UsageSpan is the time of a request for usage, in buckets. Its zero value is the last 24 hours.
type UsageSpan struct {
	Step string // of the buckets: minute, hour, day or month; empty means hour
	// From is rounded down to a bucket. To is exclusive and rounded up. A zero To means now. A zero
	// From means 60 minutes, 24 hours, 30 days or 12 months before To, depending on Step.
	From, To time.Time
}

// A UsageFilter selects usage. Its zero value selects the last 24 hours of all keys.
type UsageFilter struct {
	UsageSpan
	// Key is the id of one key. It cannot be combined with the fields below.
	Key       string
	Namespace string // home of the keys
	GroupBy   string // key, namespace, owner, outcome or operation; empty means one sum
	Limit     int    // groups, those with the most requests: at most 1000, 0 means 20
}

func (f *UsageFilter) request(accept string) *request {
	r := get(api.Prefix + "/usage")
	if f.Key != "" {
		r.path = keyPath(f.Key) + "/usage"
		if f.Namespace+f.GroupBy != "" || f.Limit != 0 {
			r.err = errors.New("the field Key cannot be combined with Namespace, GroupBy or Limit")
		}
	}
	r.parameter("namespace", f.Namespace)
	r.parameter("group_by", f.GroupBy)
	if f.Limit > 0 {
		r.parameter("limit", strconv.Itoa(f.Limit))
	}
	f.UsageSpan.add(r)
	r.header("Accept", accept)
	return r
}

func (s *UsageSpan) add(r *request) {
	r.parameter("step", s.Step)
	r.time("from", s.From)
	r.time("to", s.To)
}

// Usage returns the usage that f selects.
func (c *Client) Usage(ctx context.Context, f UsageFilter) (api.Usage, error) {
	return call[api.Usage](ctx, c, f.request(api.JSON))
}

// SelfUsage returns the usage of the calling key.
func (c *Client) SelfUsage(ctx context.Context, s UsageSpan) (api.Usage, error) {
	r := get(api.Prefix + "/self/usage")
	s.add(r)
	return call[api.Usage](ctx, c, r)
}

// AllUsage iterates over the items of the usage that f selects while they arrive, so that a large
// answer needs no memory. Iteration stops after an error.
func (c *Client) AllUsage(ctx context.Context, f UsageFilter) iter.Seq2[api.UsageItem, error] {
	return func(yield func(api.UsageItem, error) bool) {
		resp, err := c.do(ctx, f.request(api.NDJSON), api.NDJSON)
		if err != nil {
			yield(api.UsageItem{}, err)
			return
		}
		defer resp.Body.Close()
		d := json.NewDecoder(resp.Body)
		for {
			var item api.UsageItem
			err := d.Decode(&item)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(item, fmt.Errorf("reading usage: the answer is incomplete: %w", err))
				return
			}
			if !yield(item, nil) {
				return
			}
		}
	}
}

// UsageCSV writes the usage that f selects to w as CSV, with a header. After an error, w holds an
// incomplete answer.
func (c *Client) UsageCSV(ctx context.Context, f UsageFilter, w io.Writer) error {
	resp, err := c.do(ctx, f.request(api.CSV), api.CSV)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("writing usage: the output is incomplete: %w", err)
	}
	return nil
}

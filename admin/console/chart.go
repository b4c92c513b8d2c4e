package console

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// A chart draws requests over time as SVG. A bar shows the allowed requests and, above them, the
// refused ones by cause. Horizontal positions are percentages, so that the chart fills any width
// while its texts keep their size.
type chart struct {
	ID          string // the prefix of the ids of its elements
	Title, Text string // what it shows, in words
	Step        keystore.Period
	Series      []series // those that it shows
	Bars        []chartBar
	Values      []chartTick // on the vertical axis
	Times       []chartTick // on the horizontal axis
	Quota       *chartQuota
	Units       bool // whether it shows units: only if they differ from the allowed requests

	Outcomes []keystore.Outcome   // of the refused requests, for the table
	Rows     []manage.UsageBucket // those with requests
}

// A series is one kind of request. Its parts of all bars share a pattern.
type series struct {
	Name, Label string
	outcomes    []keystore.Outcome // nil: all refusals that no other series has
}

// refusals are the series of refused requests, from the bottom of a bar to its top.
var refusals = []series{
	{"limited", "Refused: rate limit", []keystore.Outcome{keystore.Limited}},
	{"exhausted", "Refused: quota", []keystore.Outcome{keystore.Exhausted}},
	{"forbidden", "Refused: permission", []keystore.Outcome{keystore.Forbidden}},
	{"invalid", "Refused: key not valid", []keystore.Outcome{keystore.Revoked, keystore.Expired,
		keystore.Inactive, keystore.OwnerDisabled, keystore.Rotated}},
	{"other", "Refused: other", nil},
}

// A chartBar is one bucket. Slot and Share are the beginning and the length of its part of the
// axis.
type chartBar struct {
	Text                  string // its values, in words
	X, Width, Slot, Share string
	Parts                 []chartPart
	Units                 float64 // the position of its units; zero: not shown
}

// A chartPart is the requests of one series.
type chartPart struct {
	Name      string // of the series
	Y, Height float64
}

// A chartTick is a label of an axis.
type chartTick struct {
	X     string  // on the horizontal axis
	Y     float64 // on the vertical axis
	Label string
	Minor bool // left out in narrow windows
	Last  bool // the text ends at X, instead of being centered there
}

// A chartQuota is the quota of a key.
type chartQuota struct {
	Text string
	Y    float64 // zero: beyond the scale
}

// The vertical measures of a chart, in pixels.
const (
	plotTop    = 14
	plotHeight = 180
	plotBottom = plotTop + plotHeight
	minPart    = 2 // keeps every part visible
)

// newChart returns a chart of usage. id must be unique on the page. A quota, which may be nil, is
// shown if its period is that of the buckets.
func newChart(id string, step keystore.Period, u *manage.UsageSeries, quota *api.Quota) *chart {
	c := &chart{ID: id, Step: step}
	var peak int64
	most := 0
	for i := range u.Buckets {
		b := &u.Buckets[i]
		c.Units = c.Units || b.Units != b.Allowed()
		if b.Requests > 0 {
			c.Rows = append(c.Rows, *b)
		}
		if b.Requests > peak {
			peak, most = b.Requests, i
		}
	}
	for o, n := range u.Total.Outcomes {
		if outcome := keystore.Outcome(o); n > 0 && outcome.Refuses() {
			c.Outcomes = append(c.Outcomes, outcome)
		}
	}
	highest := peak
	if c.Units {
		for i := range u.Buckets {
			highest = max(highest, u.Buckets[i].Units)
		}
	}
	var line float64
	if quota != nil && !quota.Unlimited && quota.Per == string(step) {
		c.Quota = &chartQuota{Text: quotaWords(quota)}
		// A quota far above the bars would make them too small to read.
		if highest > 0 && quota.Requests/4 <= highest {
			line = float64(quota.Requests)
		}
	}
	top := c.scale(max(float64(highest), line))
	y := func(n int64) float64 { return round(plotBottom - float64(n)/top*plotHeight) }
	if line > 0 {
		c.Quota.Y = y(quota.Requests)
	}
	shown := c.draw(u.Buckets, y)
	c.Series = slices.DeleteFunc(append([]series{{Name: "allowed", Label: "Allowed"}},
		refusals...), func(s series) bool { return s.Name != "allowed" && !shown[s.Name] })
	c.describe(u, most)
	return c
}

// scale sets the labels of the vertical axis, at most five round numbers, and returns its end.
func (c *chart) scale(highest float64) (top float64) {
	if highest <= 0 {
		return 1
	}
	step := math.Pow(10, math.Floor(math.Log10(max(1, highest/4))))
	for _, factor := range []float64{1, 2, 5, 10} {
		if highest <= 4*factor*step {
			step *= factor
			break
		}
	}
	steps := math.Ceil(highest / step)
	for i := range int(steps) + 1 {
		c.Values = append(c.Values, chartTick{Y: round(plotBottom - float64(i)/steps*plotHeight),
			Label: compact(float64(i) * step)})
	}
	return steps * step
}

// draw sets the bars and the labels of the horizontal axis, and returns the names of the series
// that have requests. y returns the position of a number of requests.
func (c *chart) draw(buckets []manage.UsageBucket, y func(int64) float64) map[string]bool {
	shown := make(map[string]bool)
	share := 100 / float64(max(1, len(buckets)))
	every := (len(buckets) + 7) / 8
	for i := range buckets {
		bucket := &buckets[i]
		left := float64(i) * share
		b := chartBar{Text: bucketWords(bucket, c.Step), X: percent(left + share/8),
			Width: percent(share * 3 / 4), Slot: percent(left), Share: percent(share)}
		at := float64(plotBottom)
		add := func(name string, n int64) {
			if n > 0 {
				height := max(minPart, plotBottom-y(n))
				at -= height
				b.Parts = append(b.Parts, chartPart{name, round(at), round(height)})
				shown[name] = true
			}
		}
		add("allowed", bucket.Allowed())
		others := bucket.Denied()
		for _, s := range refusals {
			n := others
			if s.outcomes != nil {
				n = 0
				for _, o := range s.outcomes {
					n += bucket.Outcomes[o]
				}
			}
			others -= n
			add(s.Name, n)
		}
		if c.Units && bucket.Units > 0 {
			b.Units = y(bucket.Units)
		}
		c.Bars = append(c.Bars, b)
		if until := len(buckets) - 1 - i; until%every == 0 {
			t := chartTick{X: percent(left + share/2), Minor: until%(2*every) != 0,
				Label: bucket.Begin.Format(layouts[c.Step].axis)}
			if until == 0 && i > 0 {
				t.X, t.Last = "100%", true
			}
			c.Times = append(c.Times, t)
		}
	}
	return shown
}

// describe sets the texts of the chart. most is the index of the bucket with the most requests.
func (c *chart) describe(u *manage.UsageSeries, most int) {
	c.Title = "Requests per " + string(c.Step)
	if n := len(u.Buckets); n > 0 {
		c.Title += ", " + c.Time(u.Buckets[0].Begin)
		if n > 1 {
			c.Title += " to " + c.Time(u.Buckets[n-1].Begin)
		}
		c.Title += " UTC"
	}
	if len(c.Rows) == 0 {
		c.Text = "No requests."
		return
	}
	c.Text = tallyWords(&u.Total) + "."
	if len(u.Buckets) > 1 {
		c.Text += " Most in " + bucketWords(&u.Buckets[most], c.Step) + "."
	}
	if c.Quota != nil {
		c.Text += " Quota: " + c.Quota.Text + "."
	}
}

// Begins returns the name of the buckets: "Day".
func (c *chart) Begins() string {
	name := string(c.Step)
	return strings.ToUpper(name[:1]) + name[1:]
}

// Time returns the beginning of a bucket, in UTC.
func (c *chart) Time(begin time.Time) string { return begin.Format(layouts[c.Step].full) }

// layouts are the forms of a bucket's beginning, in full and on an axis.
var layouts = map[keystore.Period]struct{ full, axis string }{
	keystore.Minute: {"2006-01-02 15:04", "15:04"}, keystore.Hour: {"2006-01-02 15:04", "15:04"},
	keystore.Day: {time.DateOnly, "2 Jan"}, keystore.Month: {"2006-01", "Jan 06"},
}

// bucketWords describes a bucket: "2026-11-28: 12 allowed".
func bucketWords(b *manage.UsageBucket, step keystore.Period) string {
	return b.Begin.Format(layouts[step].full) + ": " + tallyWords(&b.UsageTally)
}

// tallyWords returns numbers of requests: "1,204 allowed, refused 3 (rate limit 1, quota 2)".
func tallyWords(t *manage.UsageTally) string {
	text := humanize.Comma(t.Allowed()) + " allowed"
	if t.Denied() > 0 {
		text += ", refused " + refusedWords(*t)
	}
	return text
}

// refusedWords returns the number of refused requests with their causes: "3 (rate limit 1,
// quota 2)", or "3 (quota)" for a single cause.
func refusedWords(t manage.UsageTally) string {
	var causes []string
	for o, n := range t.Outcomes {
		if outcome := keystore.Outcome(o); n > 0 && outcome.Refuses() {
			causes = append(causes, outcomeWords(outcome)+" "+humanize.Comma(n))
		}
	}
	total := humanize.Comma(t.Denied())
	switch {
	case causes == nil:
		return "None"
	case len(causes) == 1:
		causes[0] = strings.TrimSuffix(causes[0], " "+total)
	}
	return fmt.Sprintf("%s (%s)", total, strings.Join(causes, ", "))
}

var outcomeLabels = map[keystore.Outcome]string{
	keystore.Limited: "rate limit", keystore.Exhausted: "quota", keystore.Forbidden: "permission",
	keystore.Revoked: "revoked", keystore.Expired: "expired", keystore.Inactive: "inactive",
	keystore.OwnerDisabled: "owner disabled", keystore.Rotated: "old token",
	keystore.Address: "address", keystore.Early: "too early",
}

// outcomeWords returns the cause of a refusal in words.
func outcomeWords(o keystore.Outcome) string { return cmp.Or(outcomeLabels[o], o.String()) }

// compact returns a number in at most four characters, rounded down: "999", "1.5k", "20M".
func compact(n float64) string {
	size, unit := 1.0, ""
	for _, next := range []string{"k", "M", "G", "T", "P", "E"} {
		if n < 1000*size {
			break
		}
		size, unit = 1000*size, next
	}
	if n /= size; n < 10 && unit != "" {
		n = math.Floor(n*10) / 10
	} else {
		n = math.Floor(n)
	}
	return strconv.FormatFloat(n, 'f', -1, 64) + unit
}

func round(n float64) float64 { return math.Round(n*10) / 10 }

func percent(n float64) string {
	return strconv.FormatFloat(math.Round(n*100)/100, 'f', -1, 64) + "%"
}

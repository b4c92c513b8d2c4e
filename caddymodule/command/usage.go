package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func (c *cli) usageCommand() *cobra.Command {
	var f client.UsageFilter
	var since, until string
	var asCSV bool
	cmd := &cobra.Command{
		Use:   "usage [KEY]",
		Short: "Shows the usage of keys over time",
		Long: `
Shows the requests with a key, with the keys of a namespace, or with all keys, in
buckets of time. --top and --by show groups instead, those with the most requests
first. On a terminal, a line of bars shows the requests over time.

REFUSED are the requests that api_key refused, UNITS the charged units, even of
keys without a quota, 5XX the responses with a server error. IN and OUT are the
bytes of bodies.

Without --step, the buckets are minutes, hours, days or months, whichever suits
--since. Times are in UTC. Usage is up to 10 s behind.`,
		Example: `  caddy apikeys usage 4fYQ0hTz81Lk
  caddy apikeys usage 4fYQ0hTz81Lk --since 7d --step day
  caddy apikeys usage --namespace acme --since 30d
  caddy apikeys usage --top 20 --since 7d
  caddy apikeys usage --by outcome --namespace acme
  caddy apikeys usage --top 1000 --since 365d --csv > usage.csv
  caddy apikeys usage 4fYQ0hTz81Lk --json | jq .total.denied`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("give the ID of one key: " + cmd.UseLine())
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.Namespace, "namespace", "", "Only keys of this `NAMESPACE`")
	flags.IntVar(&f.Limit, "top", 0, "Show the `N` keys, or groups of --by, with the most requests")
	flags.StringVar(&f.GroupBy, "by", "",
		"Show groups by `FIELD`: key, namespace, owner, outcome or operation")
	flags.StringVar(&since, "since", "",
		"Only since this `TIME`: 2026-01-01T00:00:00Z, or 24h or 90d ago (default 24h "+
			"before --until; 60m with --step minute, 30d with day, 12 months with month)")
	flags.StringVar(&until, "until", "", "Only before this `TIME` (default now)")
	flags.StringVar(&f.Step, "step", "", "Length of the buckets, a `PERIOD`: minute, hour, day or month")
	flags.BoolVar(&asCSV, "csv", false, "Write the result as CSV")
	cmd.RunE = c.run(func(ctx context.Context, args []string) (err error) {
		grouped := f.GroupBy != "" || flags.Changed("top")
		switch {
		case c.json && asCSV:
			return errors.New("give --csv or --json, not both")
		case len(args) > 0 && (grouped || f.Namespace != ""):
			return errors.New("give a KEY, or --namespace, --top and --by, not both")
		case flags.Changed("top") && (f.Limit < 1 || f.Limit > maxPage):
			return fmt.Errorf("--top %d must be 1 to %d", f.Limit, maxPage)
		case len(args) > 0:
			if err := keyNaming.check(args[0]); err != nil {
				return err
			}
		}
		if grouped && f.GroupBy == "" {
			f.GroupBy = "key"
		}
		now := time.Now()
		if f.From, err = parsePast("since", since, now); err != nil {
			return err
		}
		if f.To, err = parsePast("until", until, now); err != nil {
			return err
		}
		if f.Step == "" && since != "" {
			end := now
			if until != "" {
				end = f.To
			}
			f.Step = stepOf(end.Sub(f.From))
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		if len(args) > 0 {
			if f.Key, err = keyNaming.find(ctx, server, args[0]); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if asCSV {
			return server.UsageCSV(ctx, f, c.out)
		}
		u, err := server.Usage(ctx, f)
		switch {
		case err != nil:
			return err
		case c.json:
			return c.writeJSON(u)
		case grouped:
			return c.showUsageGroups(u, f.GroupBy)
		}
		return c.showUsageBuckets(u)
	})
	return cmd
}

// stepOf returns a length of buckets, so that the table of a span fits on a few screens.
func stepOf(span time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case span <= 2*time.Hour:
		return "minute"
	case span <= 3*day:
		return "hour"
	case span <= 92*day:
		return "day"
	}
	return "month"
}

const usageHeader = "ALLOWED\tREFUSED\tUNITS\t5XX\tIN\tOUT"

func usageCells(u *api.UsageCounts) []string {
	cells := make([]string, 0, 6)
	for _, n := range []int64{u.Allowed, u.Refused(), u.Units, u.Status["5xx"]} {
		cells = append(cells, strconv.FormatInt(n, 10))
	}
	for _, n := range []int64{u.BytesIn, u.BytesOut} {
		cells = append(cells, humanize.Bytes(uint64(max(0, n))))
	}
	return cells
}

// showUsageBuckets writes a row for each bucket of usage without groups.
func (c *cli) showUsageBuckets(u api.Usage) error {
	if _, terminal := terminal(c.out); terminal && len(u.Items) > 0 {
		fmt.Fprintf(c.out, "%s\n\n", sparkline(requestsOf(u.Items)))
	}
	table := c.columns()
	fmt.Fprintln(table, "TIME\t"+usageHeader)
	for i := range u.Items {
		item := &u.Items[i]
		row(table, append([]string{timeText(item.Start)}, usageCells(&item.UsageCounts)...)...)
	}
	return c.endUsage(table, &u.Total)
}

// showUsageGroups writes a row for each group of usage.
func (c *cli) showUsageGroups(u api.Usage, by string) error {
	if len(u.Items) == 0 {
		c.say("No results.")
		return nil
	}
	_, terminal := terminal(c.out)
	table := c.columns()
	header := strings.ToUpper(by) + "\t" + usageHeader
	if terminal {
		header += "\tREQUESTS"
	}
	fmt.Fprintln(table, header)
	for items := u.Items; len(items) > 0; {
		name := usageGroup(&items[0])
		n := slices.IndexFunc(items, func(i api.UsageItem) bool { return usageGroup(&i) != name })
		if n < 0 {
			n = len(items)
		}
		cells := append([]string{cmp.Or(name, "-")}, usageCells(usageSum(items[:n]))...)
		if terminal {
			cells = append(cells, sparkline(requestsOf(items[:n])))
		}
		row(table, cells...)
		items = items[n:]
	}
	return c.endUsage(table, &u.Total)
}

// endUsage writes the last row of a table of usage, and why requests were refused.
func (c *cli) endUsage(table *tabwriter.Writer, total *api.UsageCounts) error {
	row(table, append([]string{"total"}, usageCells(total)...)...)
	if err := table.Flush(); err != nil {
		return err
	}
	c.showDenied(total)
	return nil
}

// usageGroup returns the group of an item: only one of these fields is set.
func usageGroup(i *api.UsageItem) string {
	return i.Key + i.Namespace + i.Owner + i.Outcome + i.Operation
}

// usageSum returns the sums that tables show.
func usageSum(items []api.UsageItem) *api.UsageCounts {
	sum := &api.UsageCounts{Denied: make(map[string]int64), Status: make(map[string]int64)}
	for i := range items {
		item := &items[i]
		sum.Allowed += item.Allowed
		sum.Units = keystore.AddUnits(sum.Units, item.Units)
		sum.BytesIn += item.BytesIn
		sum.BytesOut += item.BytesOut
		for outcome, n := range item.Denied {
			sum.Denied[outcome] += n
		}
		for class, n := range item.Status {
			sum.Status[class] += n
		}
	}
	return sum
}

// showDenied says why requests were refused, the most frequent outcome first.
func (c *cli) showDenied(u *api.UsageCounts) {
	outcomes := slices.SortedFunc(maps.Keys(u.Denied), func(a, b string) int {
		return cmp.Or(cmp.Compare(u.Denied[b], u.Denied[a]), strings.Compare(a, b))
	})
	for i, outcome := range outcomes {
		outcomes[i] = fmt.Sprintf("%s %d", outcome, u.Denied[outcome])
	}
	if len(outcomes) > 0 {
		c.say("Refused: %s.", strings.Join(outcomes, ", "))
	}
}

// requestsOf returns the requests in each bucket.
func requestsOf(items []api.UsageItem) []int64 {
	list := make([]int64, len(items))
	for i := range items {
		list[i] = items[i].Allowed + items[i].Refused()
	}
	return list
}

// sparkWidth is the maximum number of bars of a sparkline.
const sparkWidth = 60

// sparkline draws a bar for each value, or for the sum of several if there are too many. A value
// above zero has at least the lowest bar, and zero a space.
func sparkline(values []int64) string {
	bars := []rune(" ▁▂▃▄▅▆▇█")
	each := max(1, (len(values)+sparkWidth-1)/sparkWidth)
	var sums []int64
	for part := range slices.Chunk(values, each) {
		var sum int64
		for _, n := range part {
			sum += n
		}
		sums = append(sums, sum)
	}
	var line strings.Builder
	for _, n := range sums {
		share := float64(n) / max(1, float64(slices.Max(sums)))
		line.WriteRune(bars[int(math.Ceil(share*float64(len(bars)-1)))])
	}
	return line.String()
}

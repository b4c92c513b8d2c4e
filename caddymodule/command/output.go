package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// writeJSON writes the document of --json.
func (c *cli) writeJSON(v any) error {
	e := json.NewEncoder(c.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// columns returns a writer that aligns tab-separated rows.
func (c *cli) columns() *tabwriter.Writer { return tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0) }

// row writes the cells of a row. It escapes control characters, so that a cell cannot move the
// cursor or look like another cell.
func row(w *tabwriter.Writer, cells ...string) {
	for i, cell := range cells {
		cells[i] = printable(cell)
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// writeIDs writes the id of each item, as commands accept it, on a line of its own.
func writeIDs[T any](c *cli, items []T) error {
	var b strings.Builder
	for _, item := range items {
		id := idOf(item)
		if id == "" {
			return errNoID
		}
		b.WriteString(printable(id) + "\n")
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

var errNoID = errors.New("this result has no ids: use another --output")

// idOf returns the id of an object as commands accept it, or "" if it has none.
func idOf(object any) string {
	switch o := object.(type) {
	case api.Key:
		return o.ID
	case api.Namespace:
		return o.ID
	case api.Member:
		return o.ID
	case api.Role:
		return o.Namespace + "/" + o.Name
	case api.Plan:
		return o.Namespace + "/" + o.Name
	case api.AuditRow:
		return strconv.FormatInt(o.Seq, 10)
	case api.Node:
		return o.Address
	case string:
		return o
	}
	return ""
}

// writeTable aligns rows. On a terminal it makes them fit, unless --output is wide.
func (c *cli) writeTable(rows [][]string) error {
	for _, cells := range rows {
		for i, cell := range cells {
			cells[i] = printable(cell)
		}
	}
	if fd, ok := terminal(c.out); ok && c.output != outputWide {
		if width, _, err := term.GetSize(fd); err == nil && width > 0 {
			fit(rows, width)
		}
	}
	table := c.columns()
	for _, cells := range rows {
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}

// minColumn is the width to which fit may cut a column.
const minColumn = 6

// fit shortens cells so that a line has at most width characters, if that is possible: first it cuts
// times to dates, then it cuts the widest columns. It never cuts the first column, which has the id
// in most tables.
func fit(rows [][]string, width int) {
	widths := widthsOf(rows)
	if lineWidth(widths) > width {
		for _, cells := range rows {
			for i, cell := range cells {
				if _, err := time.Parse(time.RFC3339, cell); err == nil {
					cells[i] = cell[:len(time.DateOnly)]
				}
			}
		}
		widths = widthsOf(rows)
	}
	for lineWidth(widths) > width {
		widest := 0
		for i := 1; i < len(widths); i++ {
			if widths[i] > minColumn && (widest == 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest == 0 {
			break
		}
		widths[widest]--
	}
	for _, cells := range rows {
		for i, cell := range cells {
			if letters := []rune(cell); len(letters) > widths[i] {
				cells[i] = string(letters[:widths[i]-1]) + "…"
			}
		}
	}
}

func widthsOf(rows [][]string) (widths []int) {
	for _, cells := range rows {
		for i, cell := range cells {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

// lineWidth returns the width of a line, with two spaces between columns.
func lineWidth(widths []int) int {
	sum := 2 * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	return sum
}

// printable escapes the characters that a terminal would act upon.
func printable(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// timeOr returns t as text, or none if t is nil.
func timeOr(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return timeText(*t)
}

// say writes a message to standard error.
func (c *cli) say(format string, args ...any) {
	fmt.Fprintln(c.err, printable(fmt.Sprintf(format, args...)))
}

// confirm asks for confirmation of a change that cannot be undone, unless yes (--yes) is true.
// Without a terminal it returns an error.
func (c *cli) confirm(ctx context.Context, yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	question := printable(fmt.Sprintf(format, args...))
	if _, ok := terminal(c.in); !ok {
		return errors.New(strings.TrimSuffix(question, "?") +
			": no terminal to confirm this; give --yes")
	}
	fmt.Fprint(c.err, question, " [y/N] ")
	answer, err := interruptible(ctx, func() (string, error) {
		return bufio.NewReader(c.in).ReadString('\n')
	})
	if answer = strings.ToLower(strings.TrimSpace(answer)); err == nil &&
		(answer == "y" || answer == "yes") {
		return nil
	}
	return errors.New("not confirmed: nothing was changed")
}

// propagated reports the nodes that may not have applied a change and returns errPending if there
// are any. Times are rounded up to the second, because no node may accept the key after them.
func (c *cli) propagated(p api.Propagation) error {
	if p.Complete {
		return nil
	}
	for _, n := range p.Pending {
		c.say("pending: node %s may still accept it until %s", n.Node,
			timeText(n.Until.Add(time.Second-1)))
	}
	c.say("The change is committed; %d of %d nodes have applied it.", p.Acknowledged, p.Nodes)
	return errPending
}

package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
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

// report writes an error to standard error, with advice.
func (c *cli) report(err error) {
	for line := range strings.Lines(c.explain(err)) {
		c.say("%s", strings.TrimSuffix(line, "\n"))
	}
}

// explain returns an error and, in the lines that follow, advice.
func (c *cli) explain(err error) string {
	if refusal, ok := errors.AsType[*client.Error](err); ok {
		return c.explainRefusal(refusal)
	}
	op, _ := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, context.Canceled):
		return "Error: interrupted; a change may have been committed"
	case errors.Is(err, context.DeadlineExceeded):
		return "Error: no answer from " + c.where +
			" in time; a change may have been committed: check before you repeat it"
	case op == nil || op.Op != "dial":
		return "Error: " + err.Error()
	case errors.Is(err, os.ErrPermission):
		return fmt.Sprintf("Error: cannot reach %s: %v\nPermission to open the socket is "+
			"denied: use sudo, or run this as the user of Caddy.", c.where, op.Err)
	case c.server == "":
		return fmt.Sprintf("Error: cannot reach %s: %v\nIs Caddy running there? --address names "+
			"another address, --config a configuration with the address. Use --server if the admin "+
			"endpoint is off.", c.where, op.Err)
	}
	return fmt.Sprintf("Error: cannot reach %s: %v", c.where, op.Err)
}

func (c *cli) explainRefusal(e *client.Error) string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch {
	case len(e.Errors) > 0:
		for _, f := range e.Errors {
			add("Error: %s: %s", f.Field, f.Detail)
		}
	case e.Status == http.StatusNotFound && e.Code == "" && c.server == "":
		add("Error: %s does not manage API keys", c.where)
		add("Check that `caddy list-modules` of that Caddy lists admin.api.api_keys.")
	case e.Status == http.StatusNotFound && e.Code == "":
		add("Error: %s does not manage API keys", c.where)
		add("Check that the site has api_keys_admin, and that no other handler responds first.")
	case e.Status == http.StatusUnauthorized:
		add("Error: %s does not accept the token: %s", c.where, e.Message())
	default:
		add("Error: %s", e.Message())
	}
	for _, r := range e.Refused {
		add("line %d: %s", r.Line, r.Detail)
	}
	if e.Code == "already_made" && e.ID != "" && !strings.Contains(e.Detail, e.ID) {
		add("The key's id is %s.", e.ID)
	}
	if e.Needed != "" && !strings.Contains(e.Detail, e.Needed) {
		add("Permission %s in namespace %s is required.", e.Needed, e.Namespace)
	}
	if e.RetryAfter > 0 {
		add("Try again in %s.", e.RetryAfter)
	}
	return strings.Join(lines, "\n")
}

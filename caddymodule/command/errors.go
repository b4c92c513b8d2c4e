package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

// errFailed ends the command with status 1 after the command has reported the failure itself.
var errFailed = errors.New("failed")

// errPending ends the command with [exitPending]: the change is committed, but not every node has
// confirmed it.
var errPending = errors.New("not yet in force on every node")

// errNotFound ends the command with [exitNotFound].
var errNotFound = errors.New("not found")

// A reportedError has been reported already.
type reportedError struct{ error }

func (e reportedError) Unwrap() error { return e.error }

// Exit statuses. 2 is free, because shells use it for their own errors.
const (
	exitFailed      = 1
	exitPending     = 3
	exitNotFound    = 4
	exitDenied      = 5
	exitUnavailable = 6
	exitConflict    = 7
)

// exitStatus returns the exit status of an error.
func exitStatus(err error) int {
	if refusal, ok := errors.AsType[*client.Error](err); ok {
		return exitOfRefusal(refusal)
	}
	_, network := errors.AsType[*net.OpError](err)
	_, request := errors.AsType[*url.Error](err)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errPending):
		return exitPending
	case errors.Is(err, errNotFound):
		return exitNotFound
	case network && errors.Is(err, os.ErrPermission): // of the socket
		return exitDenied
	case network, request, errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.ErrUnexpectedEOF):
		return exitUnavailable
	}
	return exitFailed
}

func exitOfRefusal(e *client.Error) int {
	switch e.Status {
	case http.StatusNotFound:
		if e.Code == "" { // no api_keys there
			return exitUnavailable
		}
		return exitNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return exitDenied
	case http.StatusConflict, http.StatusPreconditionFailed:
		return exitConflict
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable,
		http.StatusGatewayTimeout:
		return exitUnavailable
	}
	return exitFailed
}

// run makes f a command's RunE. Errors go to standard error, not through Caddy's logger.
func (c *cli) run(
	f func(ctx context.Context, args []string) error,
) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c.in, c.out, c.err = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
		cmd.SilenceErrors = true
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
		defer stop()
		err := c.settle()
		if err == nil {
			err = f(ctx, args)
		}
		_, reported := errors.AsType[reportedError](err)
		if err != nil && !reported && !errors.Is(err, errPending) && !errors.Is(err, errFailed) {
			c.report(err)
		}
		if status := exitStatus(err); status > exitFailed {
			// Only this wrapper makes Caddy's main exit with a status other than 1.
			exit := func(caddycmd.Flags) (int, error) { return status, nil }
			return caddycmd.WrapCommandFuncForCobra(exit)(cmd, nil)
		}
		return err
	}
}

// failure reports an error that cobra would report as text, if errors are to be JSON. The flags
// need not be parsed yet.
func (c *cli) failure(cmd *cobra.Command, err error) error {
	if err != nil && (c.json || c.output == outputJSON || slices.Contains(os.Args, "--json")) {
		c.json, c.err = true, cmd.ErrOrStderr()
		cmd.SilenceErrors = true
		c.report(err)
	}
	return err
}

// report writes an error to standard error, with advice.
func (c *cli) report(err error) {
	text := c.explain(err)
	if !c.json {
		for line := range strings.Lines(text) {
			c.say("%s", strings.TrimSuffix(line, "\n"))
		}
		return
	}
	failed := failure{ExitStatus: exitStatus(err), Text: text}
	for line := range strings.SplitSeq(text, "\n") {
		if message, ok := strings.CutPrefix(line, "Error: "); ok {
			failed.Error = joined(failed.Error, message)
		} else {
			failed.Advice = joined(failed.Advice, line)
		}
	}
	if refusal, ok := errors.AsType[*client.Error](err); ok {
		failed.Problem = &refusal.Problem
	}
	_ = json.NewEncoder(c.err).Encode(failed)
}

// A failure is an error as --json writes it.
type failure struct {
	Error      string       `json:"error"`
	Advice     string       `json:"advice,omitempty"`
	Text       string       `json:"text"` // what is written without --json
	ExitStatus int          `json:"exit_status"`
	Problem    *api.Problem `json:"problem,omitempty"` // the answer of the REST interface
}

func joined(text, more string) string {
	if text == "" {
		return more
	}
	return text + "; " + more
}

// explain returns an error and, in the lines that follow, advice.
func (c *cli) explain(err error) string {
	if refusal, ok := errors.AsType[*client.Error](err); ok {
		return c.explainRefusal(strings.TrimSuffix(err.Error(), refusal.Error()), refusal)
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

// explainRefusal explains the answer of a server. The error begins with about, which is empty or
// says which of several objects was refused.
func (c *cli) explainRefusal(about string, e *client.Error) string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch {
	case len(e.Errors) > 0:
		for _, f := range e.Errors {
			add("Error: %s%s: %s", about, f.Field, f.Detail)
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
		add("Error: %s%s", about, e.Message())
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

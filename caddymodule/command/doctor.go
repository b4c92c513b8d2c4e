package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

func (c *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Checks that a running Caddy protects its sites with API keys",
		Long: `
Runs these checks, one line each, with advice if a check fails:

  - Caddy's admin endpoint, or with --server the site, is reachable
  - a key store is running and healthy: lease and database
  - some route has the api_key handler; which operations of OpenAPI documents
    it leaves out
  - no api_key refuses the requests for api_keys_admin on its site
  - no log contains keys: if keys are accepted from sources that Caddy does not
    redact, the logs of HTTP requests use 'format api_keys'
  - the namespaces that the configuration names exist
  - the token prefixes of all live keys are accepted, or abandoned on purpose
  - manual database edits have left no unreadable namespace, role, member or
    plan, and the default plans of namespaces exist
  - several Caddy processes share rate limits in Redis; without it, each admits
    its share of a limit. This is a warning: it does not change the exit status

  - the routes: no upstream is reached without passing api_key, no matcher lets
    forged headers through, clients cannot choose the names that trust_user and
    trust_groups use, and no option is without effect. These are mostly
    warnings, with the line of the Caddyfile that --config names or that is in
    the working directory, else with the path in the configuration. They are
    checked in the file if Caddy is not running

It changes nothing. With --server it checks only the key store and the token
prefixes. The exit status is 1 if a check fails, else 0, even if some checks
could not be run.`,
		Example: `  caddy apikeys doctor
  caddy apikeys doctor --address unix//run/caddy/admin.sock --json`,
		Args: noArguments,
		RunE: c.run(func(ctx context.Context, _ []string) error {
			server, err := c.connect(ctx)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
			defer cancel()
			d := doctor{cli: c, server: server}
			d.examine(ctx)
			return d.end()
		}),
	}
}

// doctorTimeout limits the time of all checks together. A healthy server answers at once, and a
// person is waiting.
const doctorTimeout = 30 * time.Second

// A doctor runs the checks and collects their findings.
type doctor struct {
	*cli
	server   *client.Client
	findings []finding
	rated    bool              // whether a plan or a namespace has a rate limit
	lines    map[string]string // in the Caddyfile, by check
}

// A finding is the result of one check.
type finding struct {
	Check string `json:"check"`
	OK    *bool  `json:"ok"` // null: could not be checked
	// Warning marks a finding that does not change the exit status but needs attention.
	Warning bool   `json:"warning,omitempty"`
	Found   string `json:"found"`
	Advice  string `json:"advice,omitempty"`
	At      string `json:"at,omitempty"` // FILE:LINE of the Caddyfile, or a path in the configuration
}

// found adds and prints a finding. advice is dropped if the check passes.
func (d *doctor) found(check string, ok bool, advice, format string, args ...any) {
	if ok {
		advice = ""
	}
	f := finding{Check: check, OK: &ok, Found: fmt.Sprintf(format, args...), Advice: advice}
	if !ok {
		f.At = d.lines[check]
	}
	d.add(f)
}

// warn adds and prints a finding that does not change the exit status.
func (d *doctor) warn(check, advice, format string, args ...any) {
	ok := true
	d.add(finding{Check: check, OK: &ok, Warning: true, Found: fmt.Sprintf(format, args...),
		Advice: advice})
}

// unknown adds a finding for a check that could not be run.
func (d *doctor) unknown(check, why string) {
	d.add(finding{Check: check, Found: "not checked: " + why})
}

func (d *doctor) add(f finding) {
	d.findings = append(d.findings, f)
	if d.json {
		return
	}
	mark := "–"
	switch {
	case f.Warning:
		mark = "!"
	case f.OK != nil && *f.OK:
		mark = "✓"
	case f.OK != nil:
		mark = "✗"
	}
	fmt.Fprintln(d.out, mark, printable(f.Found))
	if f.At != "" {
		fmt.Fprintln(d.out, "  at", printable(f.At))
	}
	if f.Advice != "" {
		fmt.Fprintln(d.out, "  →", printable(f.Advice))
	}
}

func (d *doctor) end() error {
	healthy := true
	for _, f := range d.findings {
		healthy = healthy && (f.OK == nil || *f.OK)
	}
	if d.json {
		err := d.writeJSON(struct {
			Healthy bool      `json:"healthy"`
			Checks  []finding `json:"checks"`
		}{healthy, d.findings})
		if err != nil {
			return err
		}
	}
	if !healthy {
		return errFailed
	}
	return nil
}

func (d *doctor) examine(ctx context.Context) {
	plugin, ours := versions()
	d.found("version", true, "", "this program is caddy-apikeys %s in Caddy %s", plugin, ours)
	var config *Config
	var dangers []Danger
	if d.cli.server == "" {
		raw, err := d.server.CaddyConfig(ctx)
		if err != nil {
			d.unreached("endpoint", err)
			d.guards(d.dangers(nil))
			return
		}
		d.found("endpoint", true, "", "%s is reachable", d.where)
		inspected, err := d.modules.Inspect(raw)
		if err != nil {
			d.found("configuration", false, "Check that this is Caddy's admin endpoint.",
				"reading its configuration: %v", err)
			return
		}
		config = &inspected
		dangers = d.dangers(raw)
	}
	if !d.store(ctx) {
		d.guards(dangers)
		return
	}
	d.prefixes(ctx)
	if config == nil {
		for _, check := range []string{"handlers", "logs", "namespaces"} {
			d.unknown(check, "the "+check+
				" of the configuration are visible only through Caddy's admin endpoint")
		}
		return
	}
	d.found("handlers", config.Handlers > 0,
		"Add api_key to a site: without it, requests need no key.",
		"api_key handlers in the configuration: %d", config.Handlers)
	d.documents(config)
	d.sites(config)
	d.logs(config)
	d.guards(dangers)
	d.namespaces(ctx, config)
	d.rows(ctx)
	d.rates(ctx, config)
}

// dangers returns the mistakes in the routes of a configuration, or of the configuration file if
// there is none. It remembers the lines that other checks report.
func (d *doctor) dangers(config json.RawMessage) (dangers []Danger) {
	file, err := d.configFile()
	if err == nil && file.Name != "" {
		if _, wrong := file.JSON(); wrong != nil {
			d.warn("configuration_file", "Correct it: `caddy reload` would refuse it.", "%v", wrong)
			file = ConfigFile{}
		}
	}
	if err != nil || file.Name == "" && config == nil {
		return nil
	}
	found, err := d.modules.Guard(config, file)
	if err != nil {
		d.unknown("routes", err.Error())
		return nil
	}
	d.lines = make(map[string]string)
	for _, one := range found {
		if one.Problem == "" || one.Check == "sites" {
			d.lines[one.Check] = one.Where
			continue
		}
		if file.Name == "" {
			one.Where += " (give --config FILE for the line in the Caddyfile)"
		}
		dangers = append(dangers, one)
	}
	return dangers
}

// guards reports mistakes in the routes. Most are warnings, because they may be on purpose.
func (d *doctor) guards(dangers []Danger) {
	for _, one := range dangers {
		ok := !one.Certain
		d.add(finding{Check: one.Check, OK: &ok, Warning: ok, Found: one.Problem, Advice: one.Advice,
			At: one.Where})
	}
}

// unreached adds a finding for an error, with the advice that other commands give.
func (d *doctor) unreached(check string, err error) {
	said, advice, _ := strings.Cut(strings.TrimPrefix(d.explain(err), "Error: "), "\n")
	d.found(check, false, strings.ReplaceAll(advice, "\n", " "), "%s", said)
}

// store reports whether a key store answers. The checks after it need one.
func (d *doctor) store(ctx context.Context) bool {
	health, err := d.server.Health(ctx)
	if err != nil {
		d.unreached("store", err)
		return false
	}
	d.found("store", true, "", "a key store is running")
	lease := time.Duration(health.LeaseRemainingMS) * time.Millisecond
	if health.Healthy {
		d.found("health", true, "", "it is healthy: revision %d, %s of its lease left",
			health.Revision, lease)
	} else {
		d.found("health", false, "See Caddy's log for the cause.",
			"it is not healthy: %s; revision %d, %s of its lease left", health.Problem,
			health.Revision, lease)
	}
	return true
}

// prefixes looks for live keys whose token prefix the configuration does not accept.
func (d *doctor) prefixes(ctx context.Context) {
	list, err := d.server.ListPrefixes(ctx)
	if err != nil {
		d.unknown("prefixes", "live keys with other token prefixes: "+err.Error())
		return
	}
	var refused, counts, abandoned []string
	for _, p := range list.Others {
		count := fmt.Sprintf("%s (%d)", p.Prefix, p.Keys)
		if p.Abandoned {
			abandoned = append(abandoned, count)
			continue
		}
		refused, counts = append(refused, p.Prefix), append(counts, count)
	}
	switch {
	case len(refused) > 0:
		d.found("prefixes", false, d.modules.PrefixAdvice(list.Accepted, refused),
			"live keys are refused because token_prefix does not accept their prefixes: %s",
			strings.Join(counts, ", "))
	case len(abandoned) > 0:
		d.found("prefixes", true, "",
			"live keys are refused because the configuration abandons their prefixes: %s",
			strings.Join(abandoned, ", "))
	default:
		d.found("prefixes", true, "", "the token prefixes of all live keys are accepted: %s",
			strings.Join(list.Accepted, " "))
	}
}

// documents lists the operations that handlers leave out of their OpenAPI documents.
func (d *doctor) documents(config *Config) {
	if config.Unread != nil {
		d.unknown("documents", "which operations are left out: "+config.Unread.Error())
	}
	if len(config.LeftOut) > 0 {
		d.found("documents", true, "",
			"skip_unsupported leaves out of OpenAPI documents: %s",
			strings.Join(config.LeftOut, "; "))
	}
}

func (d *doctor) sites(config *Config) {
	switch {
	case len(config.Refused) > 0:
		d.found("sites", false, d.modules.PublicAdvice,
			"api_key refuses the requests for api_keys_admin on the same site: %s",
			strings.Join(config.Refused, ", "))
	case config.AdminSites > 0:
		d.found("sites", true, "", "no api_key refuses the requests for api_keys_admin")
	}
}

func (d *doctor) logs(config *Config) {
	exposed, open := config.ExposedSources, config.UnredactedLogs
	switch {
	case len(open) == 0:
		d.found("logs", true, "", "every log of HTTP requests redacts keys")
	case len(exposed) == 0:
		d.found("logs", true, "",
			"keys are accepted only from sources that Caddy's own log encoders redact; logs "+
				"without `format api_keys`: %s", strings.Join(open, ", "))
	default:
		d.found("logs", false,
			"Add `log { format api_keys }` to the global options, for the default log, and to "+
				"every site that has an access log.",
			"keys from %s are written in plain text to: %s", strings.Join(exposed, ", "),
			strings.Join(open, ", "))
	}
}

func (d *doctor) namespaces(ctx context.Context, config *Config) {
	named := config.Namespaces
	var missing []string
	for _, id := range named {
		if _, err := d.server.FindNamespace(ctx, id); client.StatusOf(err) == 404 {
			missing = append(missing, id)
		} else if err != nil {
			d.unreached("namespaces", err)
			return
		}
	}
	switch {
	case len(named) == 0:
		d.found("namespaces", true, "",
			"the configuration names no namespaces; requests or keys determine them")
		return
	case len(missing) == 0:
		d.found("namespaces", true, "", "the namespaces that the configuration names exist: %s",
			strings.Join(named, ", "))
		return
	}
	d.found("namespaces", false, "Create them: caddy apikeys namespaces create "+missing[0],
		"requests are refused because these namespaces do not exist: %s",
		strings.Join(missing, ", "))
}

// rows looks for unreadable rows that manual database edits have left.
func (d *doctor) rows(ctx context.Context) {
	var wrong []string
	var namespaces []api.Namespace
	err := errors.Join(
		each(d.server.AllNamespaces(ctx), func(ns api.Namespace) {
			namespaces = append(namespaces, ns)
			d.rated = d.rated || ns.RateLimit != nil
			wrong = unreadable(wrong, "namespace "+ns.ID, ns.Unreadable)
		}),
		each(d.server.AllRoles(ctx), func(r api.Role) {
			wrong = unreadable(wrong, "role "+r.Namespace+"/"+r.Name, r.Unreadable)
		}),
		each(d.server.AllMembers(ctx),
			func(m api.Member) { wrong = unreadable(wrong, "member "+m.ID, m.Unreadable) }),
	)
	switch {
	case err != nil:
		d.unreached("rows", err)
		return
	case len(wrong) == 0:
		d.found("rows", true, "", "all namespaces, roles and members are readable")
	default:
		d.found("rows", false,
			"Set their fields again: caddy apikeys roles edit, members edit, namespaces edit.",
			"unreadable rows, which grant nothing: %s", strings.Join(wrong, "; "))
	}
	d.plans(ctx, namespaces)
}

// plans looks for unreadable plans, and for default plans that do not exist. Only manual database
// edits leave them. It does not look at keys: there may be millions.
func (d *doctor) plans(ctx context.Context, namespaces []api.Namespace) {
	var wrong []string
	exists := make(map[string]bool)
	err := each(d.server.AllPlans(ctx, ""), func(p api.Plan) {
		exists[p.Namespace+"/"+p.Name] = true
		d.rated = d.rated || p.RateLimit != nil
		wrong = unreadable(wrong, "plan "+p.Namespace+"/"+p.Name, p.Unreadable)
	})
	for _, ns := range namespaces {
		if p := ns.DefaultPlan; p != nil && !exists[ns.ID+"/"+*p] && !exists[client.Shared+"/"+*p] {
			wrong = append(wrong, "namespace "+ns.ID+" (its default plan "+*p+" does not exist)")
		}
	}
	switch {
	case err != nil:
		d.unreached("plans", err)
	case len(wrong) == 0:
		d.found("plans", true, "", "all plans are readable, and all default plans exist")
	default:
		d.found("plans", false,
			"Set them again: caddy apikeys plans edit, namespaces edit --default-plan.",
			"requests with keys that use these plans get 503, "+
				"because their limits are unknown: %s", strings.Join(wrong, "; "))
	}
}

// rates reports how the processes of the deployment share rate limits. It does not look at the
// limits of keys: there may be millions.
func (d *doctor) rates(ctx context.Context, config *Config) {
	if config.SharedRates {
		d.found("rates", true, "", "the processes share rate limits in Redis")
		return
	}
	list, err := d.server.ListNodes(ctx)
	if err != nil {
		d.unreached("rates", err)
		return
	}
	live := 0
	for _, n := range list.Items {
		if n.State == "active" {
			live++
		}
	}
	switch {
	case live <= 1:
		d.found("rates", true, "", "only one process is running, so it need not share rate limits")
	case !d.rated:
		d.found("rates", true, "", "no plan and no namespace has a rate limit")
	default:
		d.warn("rates", "Add `cache redis URL` to api_keys, so that they share each limit.",
			"%d processes without Redis: each admits 1/%d of a rate limit, so a client that "+
				"reaches only one of them is refused early", live, live)
	}
}

func unreadable(list []string, object, cause string) []string {
	if cause != "" {
		list = append(list, object+" ("+cause+")")
	}
	return list
}

// each calls f with every item, until an error.
func each[T any](items iter.Seq2[T, error], f func(T)) error {
	for item, err := range items {
		if err != nil {
			return err
		}
		f(item)
	}
	return nil
}

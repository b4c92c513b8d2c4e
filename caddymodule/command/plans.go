package command

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

type planObjects struct {
	objects[api.Plan, api.PlanPatch, api.PlanChanged]
}

func (c *cli) plansCommand() *cobra.Command {
	p := &planObjects{objects[api.Plan, api.PlanPatch, api.PlanChanged]{
		cli: c, noun: "plan", argument: "NAMESPACE/NAME", example: "acme/gold", id: planID,
		describe: func(p api.Plan) string { return shareableText("plan", p.Namespace, p.Name) },
		header:   "NAMESPACE\tNAME\tRATE\tQUOTA\tCREATED",
		cells: func(p api.Plan) []string {
			return []string{p.Namespace, p.Name, planRate(p),
				planQuota(p), timeText(p.CreatedAt)}
		},
		rows: func(p api.Plan) [][2]string {
			rows := [][2]string{{"Name", p.Name}, {"Namespace", p.Namespace}}
			if p.Description != "" {
				rows = append(rows, [2]string{"Description", p.Description})
			}
			if p.Unreadable != "" {
				rows = append(rows, [2]string{"Unreadable", p.Unreadable})
			}
			return append(rows, [2]string{"Rate limit", planRate(p)},
				[2]string{"Quota", planQuota(p)},
				[2]string{"Created", timeText(p.CreatedAt)},
				[2]string{"Version", strconv.FormatInt(p.Version, 10)})
		},
		changes: func(done api.PlanChanged) (api.Plan, api.Propagation) {
			return done.Plan, done.Propagation
		},
		limitsOf: func(p api.Plan) (*api.RateLimit, *api.Quota, int64) {
			return p.RateLimit, p.Quota, p.Version
		},
		find:   findByName((*client.Client).FindPlan),
		edit:   editByName((*client.Client).EditPlan),
		remove: removeByName((*client.Client).DeletePlan),
	}}
	return group(&cobra.Command{
		Use:     "plans",
		Aliases: []string{"plan"},
		Short:   "Lists, creates, edits and deletes plans",
		Long: `
A plan is a named pair of a rate limit and a quota. It belongs to one namespace,
whose keys can name it: acme/gold. A name without a namespace, or */NAME, is a
shared plan: all keys can name it. Changes of a plan apply to all keys that have
it. Keys with the same plan do not share its limits.`,
	}, p.listCommand(), p.showCommand("Shows a plan",
		"  caddy apikeys plans show acme/gold\n  caddy apikeys plans show free"),
		p.createCommand(), p.editCommand(),
		p.deleteCommand("Deletes an unused plan", `
Deletes a plan that no key names and that is no namespace's default plan.`))
}

func planRate(p api.Plan) string {
	return rateText(p.RateLimit, unreadableOr("none", p.Unreadable, "rate_limit"))
}

func planQuota(p api.Plan) string {
	return quotaText(p.Quota, unreadableOr("none", p.Unreadable, "quota"))
}

// planID returns a plan's NAMESPACE/NAME from the command line.
func planID(args []string) (string, error) { return shareableID("plan", args[0]) }

func (p *planObjects) listCommand() *cobra.Command {
	var namespace string
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "Lists plans, newest first", Args: noArguments,
		Example: `  caddy apikeys plans list
  caddy apikeys plans list --namespace acme --json | jq -r '.items[].name'`,
	}
	cmd.Flags().StringVar(&namespace, "namespace", "",
		"Only plans of this `NAMESPACE`; * for shared plans")
	limitFlag(cmd, &limit)
	cmd.RunE = p.cli.run(func(ctx context.Context, _ []string) error {
		return p.listed(ctx, "", limit,
			func(server *client.Client, ctx context.Context, cursor string, size int) (api.Plans,
				error) {
				return server.ListPlans(ctx, namespace, cursor, size)
			})
	})
	return cmd
}

const planKeys = "each key"

func (p *planObjects) createCommand() *cobra.Command {
	var description string
	var limits limitFlags
	cmd := &cobra.Command{
		Use:   "create NAMESPACE/NAME",
		Short: "Creates a plan",
		Long: `
Creates a plan in a namespace or, with only a NAME, for all namespaces. Without
--rate or --quota there is no such limit.`,
		Example: `  caddy apikeys plans create acme/gold --rate 100/1s --burst 200 --quota 100000/month
  caddy apikeys plans create free --rate 10/1m --description "For trials"`,
		Args: oneID,
	}
	limits.register(cmd, planKeys)
	descriptionFlag(cmd, &description)
	cmd.RunE = p.cli.run(func(ctx context.Context, args []string) error {
		id, err := planID(args)
		if err != nil {
			return err
		}
		spec := api.PlanRequest{Description: description}
		spec.Namespace, spec.Name, _ = strings.Cut(id, "/")
		if spec.RateLimit, spec.Quota, err = limits.read(cmd); err != nil {
			return err
		}
		return p.created(ctx, func(server *client.Client, ctx context.Context) (api.Plan, error) {
			return server.CreatePlan(ctx, spec)
		})
	})
	return cmd
}

func (p *planObjects) editCommand() *cobra.Command {
	var description string
	var noDescription bool
	var limits limitFlags
	cmd := &cobra.Command{
		Use:   "edit NAMESPACE/NAME",
		Short: "Changes a plan's limits or description",
		Long: `
Changes what the flags name and keeps the rest, for every key that has the plan.
--rate replaces the whole rate limit, with its burst, and --quota the quota.
--burst, --shadow-rate and --shadow-quota alone change only that part of the
current limit; --shadow-rate=false enforces it.

Exit status 0 means that every node has applied the change. Exit status 3 means
that the change is committed and some nodes may not have applied it yet;
standard error names them and says until when.`,
		Example: `  caddy apikeys plans edit acme/gold --rate 200/1s
  caddy apikeys plans edit acme/gold --burst 500 --shadow-quota=false
  caddy apikeys plans edit acme/gold --no-quota --description "For large customers"`,
	}
	limits.register(cmd, planKeys)
	limits.registerRemovals(cmd, "")
	descriptionFlag(cmd, &description)
	cmd.Flags().BoolVar(&noDescription, "no-description", false, "Remove the description")
	cmd.MarkFlagsMutuallyExclusive("description", "no-description")
	return p.editing(cmd, "Changed", func(current currentLimits) (patch api.PlanPatch, err error) {
		patch.Description = given(cmd, "description", description)
		if noDescription {
			patch.Description = api.Null[string]()
		}
		patch.RateLimit, patch.Quota, err = limits.patch(cmd, current)
		return patch, err
	})
}

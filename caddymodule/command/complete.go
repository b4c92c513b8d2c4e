package command

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

// fixedValues are the values that the shell proposes for flags, by the name of the flag. If a name
// has several meanings, the group of commands precedes it: "members/kind".
var fixedValues = map[string][]cobra.Completion{
	"access": {"read_only\tmay read", "read_write\tmay read and write"},
	"status": {"active", "inactive", "expired", "revoked",
		"owner_disabled\tactive, but its owner is disabled",
		"usable\tactive, and its owner is enabled"},
	"keys/sort": {"created_at", "name", "expires_at", "last_used_at", "-created_at", "-name",
		"-expires_at", "-last_used_at"},
	"edit-policy":  {"free", "grow_only\tno edit removes permissions from its keys"},
	"members/kind": {"person", "service", "group\ta group of an identity provider"},
	"on-leak":      {"notify\tonly report it", "inactivate", "revoke"},
	"by":           {"key", "namespace", "owner", "outcome", "operation"},
	"step":         {"minute", "hour", "day", "month"},
	"method":       {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"},
	"output":       {"table", "wide\tnot cut to the terminal", "json", "id\tonly ids, one per line"},
	"permission":   {"read", "write", "*"},
}

// completionTime limits how long the shell waits for proposals.
const completionTime = 3 * time.Second

// maxProposals is how many objects the shell proposes.
const maxProposals = 200

// completion returns what the shell proposes for the values of a flag, or nil if the shell should
// propose files.
func (c *cli) completion(cmd *cobra.Command, flag string) cobra.CompletionFunc {
	noun := cmd.Name()
	if cmd.HasParent() {
		noun = cmd.Parent().Name()
	}
	for _, name := range []string{noun + "/" + flag, flag} {
		if values, ok := fixedValues[name]; ok {
			return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
		}
	}
	switch flag {
	case "namespace", "home", "parent":
		return propose(c, (*client.Client).AllNamespaces, describeNamespace)
	case "grant", "add-grant", "remove-grant":
		grants := propose(c, (*client.Client).AllNamespaces, func(n api.Namespace) (string, string) {
			return n.ID + "=", n.Name
		})
		return func(cmd *cobra.Command, args []string, word string) (
			[]cobra.Completion, cobra.ShellCompDirective,
		) {
			list, directive := grants(cmd, args, word)
			return list, directive | cobra.ShellCompDirectiveNoSpace
		}
	case "to":
		if noun != "members" { // a time
			return nil
		}
		fallthrough
	case "owner", "actor", "created-by":
		return propose(c, (*client.Client).AllMembers, describeMember)
	case "role", "add-role", "remove-role", "key-role":
		return propose(c, (*client.Client).AllRoles, func(r api.Role) (string, string) {
			return r.Name, strings.Join(r.Permissions, ", ")
		})
	case "plan", "default-plan":
		return proposePlans(c, func(p api.Plan) string { return p.Name })
	case "context":
		return func(*cobra.Command, []string, string) (
			[]cobra.Completion, cobra.ShellCompDirective,
		) {
			config, _ := readClientConfig()
			return config.names(), cobra.ShellCompDirectiveNoFileComp
		}
	}
	return nil
}

// arguments returns what the shell proposes for the arguments of a command.
func (c *cli) arguments(cmd *cobra.Command) cobra.CompletionFunc {
	noun := cmd.Parent().Name()
	switch cmd.Name() {
	case "create", "mint", "list", "set": // which name no existing object
		return cobra.NoFileCompletions
	case "usage":
		noun = "keys"
	}
	switch noun {
	case "keys":
		return func(cmd *cobra.Command, args []string, word string) (
			[]cobra.Completion, cobra.ShellCompDirective,
		) {
			filter := client.KeyFilter{Text: word, Limit: maxProposals}
			return propose(c, func(server *client.Client, ctx context.Context) iter.Seq2[api.Key,
				error] {
				return server.AllKeys(ctx, filter)
			}, func(k api.Key) (string, string) {
				return k.ID, k.Name + ", " + k.Namespace + ", " + k.EffectiveStatus()
			})(cmd, args, word)
		}
	case "namespaces":
		return propose(c, (*client.Client).AllNamespaces, describeNamespace)
	case "members":
		return propose(c, (*client.Client).AllMembers, describeMember)
	case "roles":
		return propose(c, (*client.Client).AllRoles, func(r api.Role) (string, string) {
			return idOf(r), strings.Join(r.Permissions, ", ")
		})
	case "plans":
		return proposePlans(c, func(p api.Plan) string { return idOf(p) })
	case "contexts":
		return c.completion(cmd, "context")
	}
	return cobra.NoFileCompletions
}

func describeNamespace(n api.Namespace) (id, about string) { return n.ID, n.Name }
func describeMember(m api.Member) (id, about string)       { return m.ID, m.Name }

func proposePlans(c *cli, id func(api.Plan) string) cobra.CompletionFunc {
	return propose(c, func(server *client.Client, ctx context.Context) iter.Seq2[api.Plan, error] {
		return server.AllPlans(ctx, "")
	}, func(p api.Plan) (string, string) { return id(p), p.Description })
}

// propose returns a function that proposes objects of the server. It proposes none if the server
// does not answer soon, and never asks for a token.
func propose[T any](
	c *cli, list func(*client.Client, context.Context) iter.Seq2[T, error],
	describe func(T) (id, about string),
) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, word string) (
		found []cobra.Completion, directive cobra.ShellCompDirective,
	) {
		directive = cobra.ShellCompDirectiveNoFileComp
		if c.settle() != nil || c.server != "" && c.tokenFile == "" {
			return nil, directive
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		server, err := c.connect(ctx)
		if err != nil {
			return nil, directive
		}
		for t, err := range list(server, ctx) {
			if err != nil || len(found) == maxProposals {
				break
			}
			id, about := describe(t)
			if strings.HasPrefix(id, word) {
				about = printable(about)
				found = append(found, cobra.CompletionWithDesc(printable(id), about))
			}
		}
		return found, directive
	}
}

package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

type memberObjects struct {
	objects[api.Member, api.MemberPatch, api.MemberChanged]
}

func (c *cli) membersCommand() *cobra.Command {
	m := &memberObjects{objects[api.Member, api.MemberPatch, api.MemberChanged]{
		cli: c, noun: "member", argument: "ID", example: "m_0hTz81Lk4fYQ", id: memberID,
		naming:   memberNaming,
		describe: func(m api.Member) string { return fmt.Sprintf("member %s (%s)", m.ID, m.Name) },
		header:   "ID\tNAME\tKIND\tLOGIN\tSTATUS\tNAMESPACES\tCREATED",
		cells: func(m api.Member) []string {
			var namespaces []string
			for _, g := range m.Grants {
				namespaces = append(namespaces, g.Namespace)
			}
			return []string{m.ID, m.Name, m.Kind, textOr(m.Login, ""), memberStatus(m),
				strings.Join(namespaces, ", "), timeText(m.CreatedAt)}
		},
		rows: memberRows,
		changes: func(done api.MemberChanged) (api.Member, api.Propagation) {
			return done.Member, done.Propagation
		},
		find: (*client.Client).FindMember, edit: (*client.Client).EditMember,
		remove: (*client.Client).DeleteMember,
	}}
	return group(&cobra.Command{
		Use:     "members",
		Aliases: []string{"member"},
		Short:   "Manages members: people, services and groups that manage keys",
		Long: `
A member is a person, a service or a group that manages and owns keys. A key
never has more permissions than its owner. A member's token authenticates on
sites with api_keys_admin, but not on your API. Requests through Caddy's admin
endpoint come from the member root, who may do everything and is not listed.`,
	}, m.listCommand("Lists members, newest first", `  caddy apikeys members list
  caddy apikeys members list --json | jq -r '.items[] | select(.active | not).id'`,
		(*client.Client).ListMembers),
		m.showCommand("Shows a member, without its token",
			`  caddy apikeys members show m_0hTz81Lk4fYQ`),
		m.createCommand(), m.editCommand(),
		m.activeCommand("disable", "Disabled", false,
			"Disables a member, its token and all keys it owns"),
		m.activeCommand("enable", "Enabled", true,
			"Enables a disabled member and its keys"),
		m.tokenCommand(), m.transferCommand(),
		m.deleteCommand("Deletes a member that owns no unrevoked keys", `
Deletes a member and its token. First revoke the keys that it owns, or transfer
them to another member.`))
}

// memberID returns a member's id from the command line.
func memberID(args []string) (string, error) {
	id, ok := strings.CutPrefix(args[0], "m_")
	if _, err := keyID([]string{id}); err != nil || !ok {
		return "", errors.New("a member's id is m_ and 12 letters and digits, as `caddy apikeys " +
			"members list` shows it; if that was a token, others may have seen it: rotate it")
	}
	return args[0], nil
}

func memberStatus(m api.Member) string {
	if m.Active {
		return "active"
	}
	return "disabled"
}

func memberRows(m api.Member) [][2]string {
	rows := [][2]string{{"Id", m.ID}, {"Name", m.Name}, {"Kind", m.Kind},
		{"Login", textOr(m.Login, "none")}, {"Status", memberStatus(m)}}
	for _, g := range m.Grants {
		rows = append(rows, [2]string{"Grant", grantText(g)})
	}
	for _, name := range slices.Sorted(maps.Keys(m.Labels)) {
		rows = append(rows, [2]string{"Label", name + "=" + m.Labels[name]})
	}
	return append(rows, [2]string{"Created", timeText(m.CreatedAt) + " by " + m.CreatedBy},
		[2]string{"Version", strconv.FormatInt(m.Version, 10)})
}

// memberFlags are the flags that members create and edit share.
type memberFlags struct {
	name, kind, login string
	grants, labels    []string
}

func (f *memberFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "Display `NAME`")
	flags.StringVar(&f.kind, "kind", "", "`KIND`: person (default), service or group")
	flags.StringVar(&f.login, "login", "",
		"`USER` of a site with trust_user who authenticates as the member or, for a\n"+
			"group, its name in trust_groups")
	flags.StringArrayVar(&f.grants, "grant", nil,
		"A grant, `NAMESPACE=@ROLE,PERMISSION,...`; * is every namespace; may be repeated")
	flags.StringArrayVar(&f.labels, "label", nil,
		"Label `NAME=VALUE`; may be repeated")
}

func (m *memberObjects) createCommand() *cobra.Command {
	var f memberFlags
	cmd := &cobra.Command{
		Use:   "create --name NAME",
		Short: "Creates a member, without a token",
		Long: `
Creates a member without a token. Create its token with

  caddy apikeys members token ID

or let a site authenticate it, with --login here and trust_user there. A group
has no token: with --kind group, --login is its name in trust_groups of a site,
and everybody in it acts for it. In --grant, @ROLE is a role, and NAMESPACE+
includes the namespace's children, present and future. The built-in roles are
for members: client-admin may do everything, developer manages keys, roles and
plans, viewer reads everything except data.`,
		Example: `  caddy apikeys members create --name Ada --grant '*=@client-admin'
  caddy apikeys members create --name "Acme CI" --kind service --grant acme=@developer
  caddy apikeys members create --name Grace --login grace@acme.example --grant acme+=@viewer
  caddy apikeys members create --name Operations --kind group --login ops --grant acme=@developer`,
		Args: noArguments,
	}
	f.register(cmd)
	cmd.RunE = m.cli.run(func(ctx context.Context, _ []string) error {
		if f.name == "" {
			return errors.New("the member needs a name: give --name")
		}
		grants, err := parseGrants("grant", f.grants)
		if err != nil {
			return err
		}
		labels, err := parseTexts("label", f.labels)
		if err != nil {
			return err
		}
		spec := api.MemberRequest{Name: f.name, Kind: f.kind, Login: f.login, Grants: grants,
			Labels: labels}
		return m.created(ctx, func(server *client.Client, ctx context.Context) (api.Member, error) {
			return server.CreateMember(ctx, spec)
		})
	})
	return cmd
}

func (m *memberObjects) editCommand() *cobra.Command {
	var f memberFlags
	var dropped []string
	var noLogin bool
	cmd := &cobra.Command{
		Use:   "edit ID",
		Short: "Changes a member's name, kind, login, grants or labels",
		Long: `
Changes what the flags name and keeps the rest. --grant replaces all grants
that you may see. --no-login removes the login. --label adds or replaces one
label, --drop-label removes one. Keys lose the permissions that their owner
loses.

Exit status 3 means that the change is committed and some nodes may not have
applied it yet; standard error names them and says until when.`,
		Example: `  caddy apikeys members edit m_0hTz81Lk4fYQ --grant acme=@viewer --grant acme-eu=@developer
  caddy apikeys members edit m_0hTz81Lk4fYQ --label team=erp --drop-label ticket`,
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&noLogin, "no-login", false, "Remove the login")
	cmd.Flags().StringArrayVar(&dropped, "drop-label", nil,
		"`NAME` of a label to remove; may be repeated")
	cmd.MarkFlagsMutuallyExclusive("login", "no-login")
	return m.editing(cmd, "Changed", func(currentLimits) (api.MemberPatch, error) {
		grants, err := parseGrants("grant", f.grants)
		patch := api.MemberPatch{
			Name: given(cmd, "name", f.name), Kind: given(cmd, "kind", f.kind),
			Login: given(cmd, "login", f.login), Grants: given(cmd, "grant", grants),
		}
		if noLogin {
			patch.Login = api.Null[string]()
		}
		if err == nil {
			patch.Labels, err = textsPatch("label", f.labels, dropped)
		}
		return patch, err
	})
}

func (m *memberObjects) activeCommand(use, verb string, active bool, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use + " ID...", Short: short,
		Example: "  caddy apikeys members " + use + " m_0hTz81Lk4fYQ",
	}
	m.editing(cmd, verb, func(currentLimits) (api.MemberPatch, error) {
		return api.MemberPatch{Active: api.Some(active)}, nil
	})
	cmd.Args = someIDs
	return cmd
}

func (m *memberObjects) transferCommand() *cobra.Command {
	var f changeFlags
	var to string
	var yes bool
	cmd := &cobra.Command{
		Use:   "transfer ID --to ID",
		Short: "Transfers all keys of a member to another member",
		Long: `
Makes another member the owner of all keys of a member that are not revoked.
Their tokens stay valid. A key never has more permissions than its owner, so a
transferred key may have fewer. If you may not change one of the keys or
transfer it to the new owner, none changes. After any other error, run the
command again: it transfers the rest.

Exit status 3 means that the change is committed and some nodes may not have
applied it yet; standard error names them and says until when.`,
		Example: "  caddy apikeys members transfer m_0hTz81Lk4fYQ --to m_7Kd0aPq3XnWb --yes",
		Args:    oneID,
	}
	cmd.Flags().StringVar(&to, "to", "", "`ID` of the new owner")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "Do not ask for confirmation")
	f.register(cmd)
	cmd.RunE = m.cli.run(func(ctx context.Context, args []string) error {
		if to == "" {
			return errors.New("give the id of the new owner with --to")
		}
		if to != keystore.RootMember {
			if err := m.check(to); err != nil {
				return err
			}
		}
		server, ids, err := m.chosen(ctx, args)
		if err != nil {
			return err
		}
		if to, err = ownerNamed(ctx, server, to); err != nil {
			return err
		}
		if err := m.confirmed(ctx, server, yes, "Transfer all keys of %s to member "+to+"?",
			ids); err != nil {
			return err
		}
		ctx, cancel := f.context(ctx)
		defer cancel()
		done, err := server.TransferKeys(ctx, ids[0], to, f.options()...)
		if err != nil {
			return err
		}
		if m.cli.json {
			if err := m.cli.writeJSON(done); err != nil {
				return err
			}
		} else if n := *done.Transferred; n == 1 {
			m.cli.say("Transferred 1 key to member %s.", to)
		} else {
			m.cli.say("Transferred %d keys to member %s.", n, to)
		}
		return m.cli.propagated(done.Propagation)
	})
	return cmd
}

func (m *memberObjects) tokenCommand() *cobra.Command {
	var f changeFlags
	var spec api.TokenRequest
	var expires string
	cmd := &cobra.Command{
		Use:   "token ID",
		Short: "Creates or rotates the token of a member",
		Long: `
Creates a token for a member and writes it to standard output. It is not shown
again. The member's previous token is revoked.

Exit status 3 means that the new token is valid and some nodes may still accept
the old one; standard error names them and says until when.`,
		Example: `  caddy apikeys members token m_0hTz81Lk4fYQ > token
  caddy apikeys members token m_0hTz81Lk4fYQ --expires 90d --allow-ip 10.0.0.0/8`,
		Args: oneID,
	}
	flags := cmd.Flags()
	flags.StringVar(&expires, "expires", "", expiryUsage)
	m.cli.tokenOutFlag(cmd)
	flags.StringSliceVar(&spec.AllowedIPs, "allow-ip", nil,
		"Address or `RANGE` (10.0.0.0/8) from which it may be used; may be repeated (default any)")
	f.register(cmd)
	cmd.RunE = m.cli.run(func(ctx context.Context, args []string) error {
		var err error
		if spec.ExpiresAt, err = parseExpiry(expires, time.Now()); err != nil {
			return err
		}
		server, ids, err := m.chosen(ctx, args)
		if err != nil {
			return err
		}
		ctx, cancel := f.context(ctx)
		defer cancel()
		done, err := server.NewMemberToken(ctx, ids[0], spec, f.options()...)
		if err != nil {
			return err
		}
		about := fmt.Sprintf("Member %s (%s), expires %s.", done.Member.ID, done.Member.Name,
			timeOr(spec.ExpiresAt, "never"))
		if err := m.cli.showToken(done, done.Token, "member "+done.Member.ID, about,
			"create a new one"); err != nil {
			return err
		}
		if m.cli.output == outputID {
			if err := writeIDs(m.cli, []api.Member{done.Member}); err != nil {
				return err
			}
		}
		return m.cli.propagated(done.Propagation)
	})
	return cmd
}

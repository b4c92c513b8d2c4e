package console

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const membersPath = Root + "/members"

func memberPages() []page {
	const one = membersPath + "/{id}"
	return []page{
		{"GET " + membersPath, "admin.members:read", listMembers},
		{"GET " + membersPath + "/new", "admin.members:create", newMember},
		{"POST " + membersPath + "/new", "admin.members:create", createMember},
		{"GET " + one, "admin.members:read", showMember},
		{"GET " + one + "/edit", "admin.members:update", editMember},
		{"POST " + one + "/edit", "admin.members:update", saveMember},
		{"GET " + one + "/disable", "admin.members:update", askToDisableMember},
		{"POST " + one + "/disable", "admin.members:update", disableMember},
		{"POST " + one + "/enable", "admin.members:update", enableMember},
		{"GET " + one + "/transfer", "admin.keys:update", askToTransfer},
		{"POST " + one + "/transfer", "admin.keys:update", transferKeys},
		{"GET " + one + "/token", "admin.members:update", newMemberToken},
		{"POST " + one + "/token", "admin.members:update", createMemberToken},
		{"GET " + one + "/delete", "admin.members:delete", askToDeleteMember},
		{"POST " + one + "/delete", "admin.members:delete", deleteMember},
	}
}

// MemberLink returns the address of a member's page.
func (v *visit) MemberLink(id string, more ...string) string {
	return v.link(membersPath + "/" + url.PathEscape(id) + strings.Join(more, ""))
}

type membersPage struct {
	Members []api.Member
	Next    *string
	Tokens  map[string]tokenState // by member; without those that have none
}

// A tokenState is what a list of members says about a token.
type tokenState struct {
	keystore.Key
	Ended bool // whether it has expired
}

// tokens returns the tokens of members that the visitor may read.
func (v *visit) tokens(members ...api.Member) (map[string]tokenState, error) {
	ids := make([]string, len(members))
	for i, m := range members {
		ids[i] = m.ID
	}
	keys, err := v.keys.MemberTokens(v.ctx, v.Caller, ids)
	states := make(map[string]tokenState, len(keys))
	for id, k := range keys {
		states[id] = tokenState{k, k.Status(v.keys.Now()) != keystore.StatusActive}
	}
	return states, err
}

// listMembers shows members. With the switcher set, it shows those with a grant there or in all
// namespaces.
func listMembers(v *visit) error {
	var match func(api.Member) bool
	if in, text := v.namespace(), v.query("q"); in+text != "" {
		match = func(m api.Member) bool {
			login := ""
			if m.Login != nil {
				login = *m.Login
			}
			return contains(text, m.Name, m.ID, login) &&
				(in == "" || slices.ContainsFunc(m.Grants,
					func(g api.Grant) bool {
						return g.Namespace == in || g.Namespace == client.Shared
					}))
		}
	}
	list, next, err := selected(v.query("cursor"), v.listMembers, match)
	if err != nil {
		return err
	}
	tokens, err := v.tokens(list...)
	if err != nil {
		return err
	}
	return v.show("members", "Members", membersPage{list, next, tokens})
}

type memberPage struct {
	Member  api.Member
	Self    bool        // whether it is the visitor
	Creator string      // a name or id
	Keys    []api.Key   // the newest keys that act for it
	More    bool        // whether there are more keys
	Token   *tokenState // nil: none

	MayUpdate bool // whether the visitor may change more than the grants that it sees
	MaySignIn bool // whether the visitor may create a token for the member and enable it
	MayDelete bool
}

// shownKeys is the number of keys that a member's page shows.
const shownKeys = 10

func (v *visit) memberFromPath() (api.Member, error) {
	return v.api.FindMember(v.ctx, v.r.PathValue("id"))
}

func showMember(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	p := memberPage{Member: m, Self: m.ID == v.Caller.Member(),
		Creator:   nameOf(v.names(), m.CreatedBy),
		MayUpdate: v.keys.MayMember(v.Caller, "update", m.ID),
		MayDelete: v.keys.MayMember(v.Caller, "delete", m.ID)}
	if p.MaySignIn, err = v.keys.MaySignInAs(v.ctx, v.Caller, m.ID); err != nil {
		return err
	}
	tokens, err := v.tokens(m)
	if err != nil {
		return err
	}
	if token, ok := tokens[m.ID]; ok {
		p.Token = &token
	}
	// an error means that the visitor may not read keys
	if keys, err := v.api.ListKeys(v.ctx,
		client.KeyFilter{Owner: m.ID, Limit: shownKeys}); err == nil {
		p.Keys, p.More = keys.Items, keys.NextCursor != nil
	}
	return v.show("member", shownName(m.Name, m.ID), p)
}

func (v *visit) memberRemoval(m api.Member) removal {
	p := removal{
		Section: "Members", Kind: "member", Name: shownName(m.Name, m.ID), List: v.link(membersPath),
		Back: v.MemberLink(m.ID),
		Text: "The member's token is revoked and its sessions are signed out. The audit log " +
			"keeps its changes.",
		First: "Revoke the keys of this member or transfer them to another member first:",
	}
	if v.may("admin.keys:update") {
		p.Transfer = v.MemberLink(m.ID, "/transfer")
	}
	p.Keys = v.link(keysPath, "owner", m.ID, "namespace", "")
	for _, status := range []string{"active", "inactive", "expired"} {
		keys, err := v.api.ListKeys(v.ctx,
			client.KeyFilter{Owner: m.ID, Status: status, Limit: maxDependents})
		if err != nil {
			continue
		}
		for _, k := range keys.Items {
			p.Dependents = append(p.Dependents, v.keyDependent(k))
		}
		p.More = p.More || keys.NextCursor != nil
	}
	if len(p.Dependents) > maxDependents {
		p.Dependents, p.More = p.Dependents[:maxDependents], true
	}
	return p
}

func askToDeleteMember(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	return v.ask("delete", "Delete "+m.Name, v.memberRemoval(m))
}

func deleteMember(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	done, err := v.api.DeleteMember(v.ctx, m.ID, client.Wait(shortWait))
	if err != nil {
		f := v.form()
		if f.fail(err) {
			return v.again("delete", "Delete "+m.Name, v.memberRemoval(m), f)
		}
		return err
	}
	return v.changed(v.link(membersPath), "Member "+m.Name+" deleted", done.Propagation)
}

type memberTokenPage struct {
	Member      api.Member
	Self        bool
	Expiries    []choice
	Token       string
	Propagation api.Propagation
}

func (v *visit) memberTokenPage(m api.Member) memberTokenPage {
	return memberTokenPage{Member: m, Self: m.ID == v.Caller.Member(),
		Expiries: expiryChoices(v.keys.Now())}
}

func newMemberToken(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	f := blank("version", strconv.FormatInt(m.Version, 10), "expires", never)
	return v.write(http.StatusOK, "member_token", "Create token for "+m.Name, v.memberTokenPage(m),
		f)
}

// createMemberToken answers with the token itself, because a redirect cannot carry it. The version
// keeps a reload from creating another one.
func createMemberToken(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	f := v.form()
	p := v.memberTokenPage(m)
	title := "Create token for " + m.Name
	spec := api.TokenRequest{ExpiresAt: f.expiry(v.keys.Now()),
		AllowedIPs: words(f.Value("allowed_ips"))}
	if !f.Ok() {
		return v.again("member_token", title, p, f)
	}
	done, err := v.api.NewMemberToken(v.ctx, m.ID, spec, f.ifVersion(), client.Wait(shortWait))
	if client.StatusOf(err) == http.StatusPreconditionFailed {
		return v.done(v.MemberLink(m.ID),
			notice{Kind: "warning", Title: "The member has been changed",
				Text: "If you created a token, it was shown once and cannot be shown again. If it " +
					"is lost, create another one."})
	}
	if err != nil {
		if f.fail(err) {
			return v.again("member_token", title, p, f)
		}
		return err
	}
	p.Token, p.Propagation = done.Token, done.Propagation
	// see showToken
	return v.write(http.StatusCreated, "member_token_shown", "Token for "+m.Name, p, nil)
}

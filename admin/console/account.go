package console

import (
	"slices"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const accountPath = Root + "/account"

func accountPages() []page {
	return []page{
		{"GET " + accountPath, anyMember, showAccount},
		{"POST " + accountPath + "/sign-out", anyMember, signOutEverywhere},
	}
}

type accountPage struct {
	Groups   []api.Member // that the visitor acts for
	Token    *tokenState  // nil: none
	Sessions []sessionLine
	Mine     string // the address of the visitor's keys
}

// A sessionLine is a session as shown.
type sessionLine struct {
	keystore.Session
	Here bool // whether it is the session of this browser
}

func showAccount(v *visit) error {
	own := v.Caller.Member()
	tokens, err := v.tokens(api.Member{ID: own})
	if err != nil {
		return err
	}
	p := accountPage{Mine: v.link(keysPath, "owner", own, "namespace", "")}
	for _, group := range v.groups() {
		m, err := v.api.FindMember(v.ctx, group.Value)
		if err != nil {
			return err
		}
		p.Groups = append(p.Groups, m)
	}
	if v.Caller.Login() != "" { // neither token nor sessions
		return v.show("account", "My account", p)
	}
	if token, ok := tokens[own]; ok {
		p.Token = &token
	}
	list, current, err := v.keys.Sessions(v.ctx, v.Caller, v.Session)
	if err != nil {
		return err
	}
	for i, s := range list {
		line := sessionLine{s, i == current && !v.Trusted}
		if line.Here {
			p.Sessions = slices.Insert(p.Sessions, 0, line)
		} else {
			p.Sessions = append(p.Sessions, line)
		}
	}
	return v.show("account", "My account", p)
}

// signOutEverywhere ends all sessions of the visitor, including that of this browser.
func signOutEverywhere(v *visit) error {
	if err := v.keys.CloseSessions(v.ctx, v.Caller); err != nil {
		return err
	}
	if v.Trusted { // this site signs the visitor in with every request
		return v.done(accountPath, notice{Title: "All sessions are signed out"})
	}
	v.dropSession()
	v.redirect(signInPath)
	return nil
}

package console

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const checkPath = Root + "/check"

func checkPages() []page {
	return []page{
		{"GET " + checkPath, "admin.keys:read", askForTokenToCheck},
		{"POST " + checkPath, "admin.keys:read", checkToken},
	}
}

// A checkPage is the form to check a token, with the answer about the last one. It never contains
// the token.
type checkPage struct {
	Answered bool
	Good     bool        // whether requests with the token are accepted
	Title    string      // what the token is
	Text     string      // why it is refused
	Key      *api.Key    // nil: none that the visitor may read
	Member   *api.Member // whose token it is; nil for the token of a key
}

func askForTokenToCheck(v *visit) error { return v.show("check", "Check a token", checkPage{}) }

// checkToken checks the token in a form. No address, cookie or page contains the token.
func checkToken(v *visit) error {
	token := strings.TrimSpace(v.form().Value("token"))
	if scheme, rest, ok := strings.Cut(token, " "); ok && strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(rest) // copied from a header
	}
	if token == "" {
		f := &form{status: http.StatusUnprocessableEntity}
		f.wrong("token", "paste a token")
		return v.again("check", "Check a token", checkPage{}, f)
	}
	if keystore.HasTokenPrefix(keystore.TrimSecretToken(token), keystore.MemberPrefix) {
		return v.checkMemberToken(keystore.TrimSecretToken(token))
	}
	verdict, err := v.api.Verify(v.ctx, api.VerifyRequest{Token: token})
	if err != nil {
		return err
	}
	p := checkPage{Answered: true, Good: verdict.Outcome == keystore.OK.String(),
		Title: "This token is refused", Text: whyRefused[verdict.Outcome], Key: verdict.Key}
	derived := keystore.IsDerived(keystore.TrimSecretToken(token))
	switch {
	case p.Good && derived:
		p.Title, p.Text = "This derived token works", "Anyone who has it can call the API until "+
			"it expires, with at most the permissions of the key that it was derived from. If it "+
			"has leaked, revoke the key or rotate its token."
	case derived && verdict.Outcome == keystore.Malformed.String():
		p.Text = "This derived token is not valid here. It may be incomplete, not valid yet or " +
			"valid for too long. Or it was not derived from a current token of a key, or this " +
			"deployment does not accept derived tokens of that key."
	case p.Good:
		p.Title, p.Text = "This token works", "Anyone who has it can call the API with the "+
			"permissions of the key. If it has leaked, revoke the key or rotate the token."
	case verdict.Outcome == keystore.Expired.String() && p.Key == nil:
		p.Text = "This derived token has expired. The key that it was derived from may still work."
	case p.Text == "":
		p.Text = "The outcome of requests with it is " + verdict.Outcome + "."
	}
	return v.show("check", "Check a token: "+p.Title, p)
}

// checkMemberToken checks the token of a member. Only visitors who may read the member learn whose
// token it is.
func (v *visit) checkMemberToken(token string) error {
	a, err := v.keys.LookupMember(v.ctx, token, time.Now())
	if err != nil {
		return err
	}
	p := checkPage{Answered: true, Title: "This member token is refused",
		Text: "No member that you may see has this token."}
	if a.Record != nil {
		if m, err := v.api.FindMember(v.ctx, a.Record.Owner); err == nil {
			p.Member = &m
		}
	}
	if p.Member == nil {
		return v.show("check", "Check a token: "+p.Title, p)
	}
	policy := v.keys.Policy()
	outcome := keystore.Decide(a.Record, &keystore.Request{Now: a.Now, Policy: policy,
		Namespace: policy.Namespace(keystore.DefaultNamespace)})
	switch outcome {
	case keystore.OK, keystore.Forbidden, keystore.Address: // the token itself is valid
		p.Good, p.Title = true, "This member token works"
		p.Text = "Anyone who has it can sign in as the member. If it has leaked, create another " +
			"token for the member, which replaces this one, or disable the member."
	default:
		p.Text = cmp.Or(whyMemberRefused[outcome], outcome.Title()+".")
	}
	return v.show("check", "Check a token: "+p.Title, p)
}

// whyRefused says why a token is refused, by outcome.
var whyRefused = map[string]string{
	keystore.Malformed.String(): "It is not a token of this deployment, or it is incomplete. " +
		"Check that you copied all of it.",
	keystore.Unknown.String(): "No key that you may see has this token.",
	keystore.Rotated.String(): "The token was rotated: the key has a newer one. Give the new " +
		"token to programs that still send this one.",
	keystore.Revoked.String():  "The key is revoked. This cannot be undone.",
	keystore.Expired.String():  "The key has expired. Create another key.",
	keystore.Inactive.String(): "The key is inactive. It works again once it is activated.",
	keystore.OwnerDisabled.String(): "The member that the key acts for is disabled. The key works " +
		"again when the member is enabled or the key is transferred.",
}

// whyMemberRefused says why the token of a member is refused, by outcome.
var whyMemberRefused = map[keystore.Outcome]string{
	keystore.Revoked: "The token was revoked or replaced by another one. This cannot be undone.",
	keystore.Expired: "The token has expired. Create another token for the member.",
	keystore.OwnerDisabled: "The member is disabled. The token works again when the member is " +
		"enabled.",
}

package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

func (a *API) registerMembers() {
	k := &kind[keystore.Member, api.Member, api.MemberPatch, api.MemberChanged]{
		one: "member", many: "members", deletes: "Delete a member that owns no unrevoked keys",
		identify: func(m *keystore.Member) identity {
			return identity{m.ID, m.CreatedAt, m.Version, m.Size()}
		},
		show: showMember,
		answer: func(m api.Member, token keystore.Token, p api.Propagation) api.MemberChanged {
			return api.MemberChanged{Member: m, Token: token.Reveal(), Propagation: p}
		},
		find: func(ctx context.Context, c manage.Caller, id string) (*keystore.Member, error) {
			return a.keys.FindMember(ctx, c, id)
		},
		edit: a.editMember,
		remove: func(ctx context.Context, c manage.Caller, id string,
			o manage.ChangeOptions) (*keystore.Member, node.Propagation, error) {
			return a.keys.DeleteMember(ctx, c, id, o)
		},
	}
	list := func(ctx context.Context, c manage.Caller, _ *Paging) ([]keystore.Member, error) {
		return a.keys.ListMembers(ctx, c)
	}
	registerAll(a, k, list, a.createMember)
	k.registerOne(a)

	token := k.operation("token-of", http.MethodPost, "/token",
		"Create a token for a member, which replaces its current token")
	token.RequestBody = jsonBody(false, api.JSON)
	register(a, token, k.permission("update"),
		func(ctx context.Context, c manage.Caller,
			in *editInput[api.TokenRequest]) (*changed[api.MemberChanged], error) {
			o, err := in.options()
			if err != nil {
				return nil, err
			}
			var wrong fields
			spec := manage.TokenSpec{ExpiresAt: wrong.expiry(in.Body.ExpiresAt),
				AllowedIPs: wrong.addresses(in.Body.AllowedIPs)}
			if err := wrong.err(); err != nil {
				return nil, err
			}
			m, token, p, err := a.keys.NewMemberToken(ctx, c, in.ID, spec, o)
			return k.changed(m, token, p, err)
		}, mayPend)

	transfer := k.operation("transfer-keys-of", http.MethodPost, "/transfer",
		"Transfer all keys of a member to another member")
	transfer.RequestBody = jsonBody(true, api.JSON)
	register(a, transfer, "admin.keys:update",
		func(ctx context.Context, c manage.Caller,
			in *editInput[api.TransferRequest]) (*changed[api.MemberChanged], error) {
			o, err := in.options()
			if err != nil {
				return nil, err
			}
			m, n, p, err := a.keys.TransferKeys(ctx, c, in.ID, in.Body.To, o)
			out, err := k.changed(m, keystore.Token{}, p, err)
			if err == nil {
				out.Body.Transferred = &n
			}
			return out, err
		}, mayPend)
}

func showMember(m *keystore.Member) api.Member {
	labels := m.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return api.Member{
		ID: m.ID, Name: m.Name, Kind: string(m.Kind), Login: nilIfEmpty(m.Login),
		Grants: showGrants(m.Grants), Labels: labels, Active: m.Active,
		CreatedAt: m.CreatedAt, CreatedBy: m.CreatedBy, Version: m.Version,
		Unreadable: m.Unreadable,
	}
}

func (a *API) createMember(
	ctx context.Context, c manage.Caller, r *api.MemberRequest,
) (*keystore.Member, error) {
	var wrong fields
	m := keystore.Member{Name: r.Name, Kind: keystore.MemberKind(r.Kind), Login: r.Login,
		Grants: wrong.grants(r.Grants), Labels: r.Labels}
	return a.keys.CreateMember(wrong.in(ctx), c, m)
}

func (a *API) editMember(
	ctx context.Context, c manage.Caller, id string, r *api.MemberPatch, o manage.ChangeOptions,
) (*keystore.Member, node.Propagation, error) {
	var wrong fields
	patch := manage.MemberPatch{
		Name:  wrong.needed("name", r.Name),
		Kind:  (*keystore.MemberKind)(sent(r.Kind, string(keystore.Person))),
		Login: sent(r.Login, ""), Active: sent(r.Active, true),
	}
	if r.Grants.Sent {
		list := wrong.grants(r.Grants.Or(nil))
		patch.Grants = &list
	}
	if r.Labels.Sent {
		patch.Labels, patch.ClearLabels = r.Labels.Or(nil), r.Labels.Value == nil
	}
	return a.keys.EditMember(wrong.in(ctx), c, id, patch, o)
}

// expiry returns *at. It turns nil into the zero time, which means never.
func (f *fields) expiry(at *time.Time) time.Time {
	if at == nil {
		return time.Time{}
	}
	if at.IsZero() { // it would mean never
		f.add("expires_at", "must be in the future")
	}
	return *at
}

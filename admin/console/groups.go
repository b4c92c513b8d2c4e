package console

import (
	"cmp"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// groups returns the groups that the visitor acts for, by name. It is empty for a member.
func (v *visit) groups() (list []choice) {
	if v.Caller.Login() == "" {
		return nil
	}
	for _, id := range v.Caller.Members() {
		if m := v.keys.Policy().Member(id); m != nil {
			list = append(list, choice{Value: id, Label: shownName(m.Name, id)})
		}
	}
	slices.SortFunc(list, compareChoices)
	return list
}

// owns reports whether a member is the visitor or a group that the visitor acts for.
func (v *visit) owns(id string) bool { return slices.Contains(v.Caller.Members(), id) }

// ownOwner returns the owner of a new key of the visitor if there is only one.
func (v *visit) ownOwner() string {
	if own := v.Caller.Members(); len(own) == 1 {
		return own[0]
	}
	return ""
}

// who returns the visitor as a member: one without an id for a person that acts for groups.
func (v *visit) who() *api.Member {
	if login := v.Caller.Login(); login != "" {
		return &api.Member{Name: login, Active: true}
	}
	// The page that reports an unavailable database must not need it.
	if m, err := v.api.FindMember(v.ctx, v.Caller.Member()); err == nil {
		return &m
	}
	return &api.Member{ID: v.Caller.Member(), Name: v.Caller.Member()}
}

// ActorName returns the name of an actor: see nameOf.
func (v *visit) ActorName(actor string) string { return nameOf(v.names(), actor) }

// nameOf returns the name of a member by its id, or of a person that acts for groups by the name of
// the actor: see [keystore.GroupActor]. Ids without a name stay as they are.
func nameOf(names map[string]string, actor string) string {
	login, groups, ok := keystore.ParseGroupActor(actor)
	if !ok {
		return cmp.Or(names[actor], actor)
	}
	for i, id := range groups {
		groups[i] = cmp.Or(names[id], id)
	}
	return login + " via " + strings.Join(groups, ", ")
}

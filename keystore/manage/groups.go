package manage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// chooseGroup chooses the owner of a new key for a person that acts for groups. A key belongs to a
// group that has all of its permissions, so that it works and outlives the person
// (docs/authority.md, rule 7). It does nothing for other callers and for another owner.
func (a authority) chooseGroup(k *keystore.Key) error {
	if !a.person || k.Owner != "" && !slices.Contains(a.members, k.Owner) {
		return nil
	}
	candidates := a.members
	if k.Owner != "" {
		candidates = []string{k.Owner}
	}
	var covering []string
	var refusal error
	for _, id := range candidates {
		owned := *k
		owned.Owner = id
		if err := a.actingFor(id).checkToken(&owned); err == nil {
			covering = append(covering, id)
		} else {
			refusal = err
		}
	}
	switch {
	case len(covering) == 1:
		k.Owner = covering[0]
		return nil
	case len(covering) > 1:
		var p fieldErrors
		p.add("owner", "must be one of the groups that have all permissions of the key: %s",
			strings.Join(a.named(covering), ", "))
		return p.err()
	case len(candidates) == 1:
		return exceedsCaller("the key would belong to the group %s: %s", a.named(candidates)[0],
			refusal)
	}
	return exceedsCaller("none of the caller's groups has all permissions of the key; create a " +
		"key for each group")
}

// actingFor returns the authority of a person for only one of its groups.
func (a authority) actingFor(group string) authority {
	a.members = []string{group}
	a.owners, a.memberGrants = a.members, a.policy.GrantsOf(group)
	return a
}

// named returns the names and ids of members.
func (a authority) named(ids []string) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = fmt.Sprintf("%s (%s)", a.policy.Member(id).Name, id)
	}
	return list
}

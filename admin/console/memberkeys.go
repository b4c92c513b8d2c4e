package console

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A disablePage asks for confirmation before a member is disabled.
type disablePage struct {
	Member api.Member
	Name   string    // to type
	Stop   string    // "12 active keys": how many keys stop, as far as the visitor may see them
	Keys   []api.Key // some of them
	More   bool      // whether there are more
}

func (v *visit) disablePage(m api.Member) disablePage {
	p := disablePage{Member: m, Name: shownName(m.Name, m.ID)}
	keys, more := v.keysOf(m, string(keystore.StatusActive))
	p.Stop = more + count(int64(len(keys)), "active key", "active keys")
	p.Keys = keys[:min(len(keys), shownKeys)]
	p.More = len(keys) > shownKeys
	return p
}

// keysOf returns the keys of a member that the visitor may see and that are not revoked, with this
// status unless it is empty. It reads one page. more is "at least " if there may be more keys.
func (v *visit) keysOf(m api.Member, status string) (keys []api.Key, more string) {
	// an error means that the visitor may not read keys
	list, _ := v.api.ListKeys(v.ctx, client.KeyFilter{Owner: m.ID, Status: status, Limit: maxRead})
	if list.NextCursor != nil {
		more = "at least "
	}
	return slices.DeleteFunc(list.Items, func(k api.Key) bool {
		return k.Status == string(keystore.StatusRevoked)
	}), more
}

func askToDisableMember(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	if !v.keys.MayMember(v.Caller, "update", m.ID) {
		v.refuse(http.StatusForbidden, "Access denied", "Disabling this member requires "+
			"admin.members:update in every namespace in which it has a grant.")
		return nil
	}
	p := v.disablePage(m)
	return v.ask("member_disable", "Disable "+p.Name, p)
}

// disableMember disables a member if its name has been typed.
func disableMember(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	f, p := v.form(), v.disablePage(m)
	if !sameWords(f.Value("confirm"), p.Name) {
		f.wrong("confirm", "type the name "+p.Name+" to confirm")
		return v.again("member_disable", "Disable "+p.Name, p, f)
	}
	done, err := v.api.EditMember(v.ctx, m.ID, api.MemberPatch{Active: api.Some(false)},
		client.Wait(shortWait))
	if err != nil {
		if f.fail(err) {
			return v.again("member_disable", "Disable "+p.Name, p, f)
		}
		return err
	}
	return v.changed(v.MemberLink(m.ID), "Member "+p.Name+
		" disabled; all keys that act for it are refused", done.Propagation)
}

// sameWords reports whether two texts look the same: a browser shows several spaces as one.
func sameWords(a, b string) bool {
	return strings.EqualFold(strings.Join(strings.Fields(a), " "),
		strings.Join(strings.Fields(b), " "))
}

func enableMember(v *visit) error {
	done, err := v.api.EditMember(v.ctx, v.r.PathValue("id"),
		api.MemberPatch{Active: api.Some(true)}, client.Wait(shortWait))
	if err != nil {
		return err
	}
	return v.changed(v.MemberLink(done.Member.ID),
		"Member "+shownName(done.Member.Name, done.Member.ID)+" enabled", done.Propagation)
}

// A transferPage is the form that transfers the keys of a member to another member.
type transferPage struct {
	Member api.Member
	Keys   string   // "12 keys": how many the visitor may see
	To     []choice // the members to choose from
	Typed  bool     // whether there are more, so that an id can be typed
}

func (v *visit) transferPage(m api.Member, chosen string) (p transferPage, err error) {
	p.Member = m
	keys, more := v.keysOf(m, "")
	p.Keys = more + count(int64(len(keys)), "key", "keys")
	list, err := v.api.ListMembers(v.ctx, "", maxMembers)
	if err != nil {
		return p, err
	}
	for _, other := range list.Items {
		if other.Active && other.ID != m.ID {
			p.To = append(p.To, choice{Value: other.ID, Label: shownName(other.Name, other.ID)})
		}
	}
	slices.SortFunc(p.To, compareChoices)
	if p.Typed = list.NextCursor != nil; !p.Typed {
		p.To = append([]choice{{Label: "Choose a member"}}, p.To...)
		p.To = offer(p.To, chosen)
	}
	return p, nil
}

func askToTransfer(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	p, err := v.transferPage(m, "")
	if err != nil {
		return err
	}
	return v.ask("member_transfer", "Transfer keys of "+shownName(m.Name, m.ID), p)
}

func transferKeys(v *visit) error {
	m, err := v.memberFromPath()
	if err != nil {
		return err
	}
	f := v.form()
	to := strings.TrimSpace(f.Value("to"))
	again := func() error {
		p, err := v.transferPage(m, to)
		if err != nil {
			return err
		}
		return v.again("member_transfer", "Transfer keys of "+shownName(m.Name, m.ID), p, f)
	}
	if to == "" {
		f.wrong("to", "choose a member")
		return again()
	}
	done, err := v.api.TransferKeys(v.ctx, m.ID, to, client.Wait(shortWait))
	if err != nil {
		if f.fail(err) {
			return again()
		}
		return err
	}
	title := "No keys to transfer"
	if n := done.Transferred; n != nil && *n > 0 {
		title = fmt.Sprintf("%s transferred to %s", count(int64(*n), "key", "keys"),
			cmp.Or(v.names()[to], to))
	}
	return v.changed(v.MemberLink(m.ID), title, done.Propagation)
}

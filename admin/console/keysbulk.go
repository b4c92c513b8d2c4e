package console

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const bulkPath = keysPath + "/bulk"

// bulkPages are the pages that change several keys of a list. The list posts the selected keys and
// the action. The address of the summary then has the keys and the filters of the list.
func bulkPages() []page {
	pages := []page{
		{"POST " + bulkPath, anyMember, chooseBulk},
		{"GET " + bulkPath + "/export.csv", anyMember, exportKeys},
	}
	for _, a := range bulkActions {
		// One pattern each: {action} would be ambiguous beside /keys/{id}/edit.
		pages = append(pages,
			page{"GET " + bulkPath + "/" + a.Name, anyMember,
				func(v *visit) error { return askForBulk(v, a) }},
			page{"POST " + bulkPath + "/" + a.Name, anyMember,
				func(v *visit) error { return changeBulk(v, a) }})
	}
	return pages
}

// A bulkAction is a change of several keys.
type bulkAction struct {
	Name   string // in addresses
	Button string
	Title  string // with a verb for "12 keys"
	Done   string // with a verb for "12 keys"
	Text   string // the consequences
	// hinders returns why a key cannot be changed; empty: it can.
	hinders func(v *visit, k api.Key) string
	// check adds the errors of the form.
	check func(f *form)
	// apply changes a key as the form says.
	apply func(v *visit, k api.Key, f *form, o client.ChangeOption) (api.KeyChanged, error)
}

var bulkActions = []bulkAction{
	{
		Name: "deactivate", Button: "Deactivate…", Title: "Deactivate %s", Done: "%s deactivated",
		Text: "Every server refuses these keys until you activate them again.",
		hinders: func(v *visit, k api.Key) string {
			switch k.Status {
			case string(keystore.StatusInactive):
				return "It is already inactive."
			case string(keystore.StatusExpired):
				return "It has expired, so it is already refused."
			}
			return v.hindersEdit(k)
		},
		apply: func(v *visit, k api.Key, _ *form, o client.ChangeOption) (api.KeyChanged, error) {
			return v.api.EditKey(v.ctx, k.ID, api.KeyPatch{Active: api.Some(false)}, o)
		},
	}, {
		Name: "revoke", Button: "Revoke…", Title: "Revoke %s", Done: "%s revoked",
		Text: "No server will accept these keys, and their running requests are stopped. This " +
			"cannot be undone. To stop keys temporarily, deactivate them instead.",
		hinders: func(v *visit, k api.Key) string {
			switch {
			case k.Status == string(keystore.StatusRevoked):
				return "It is already revoked."
			case !v.MayRevoke(k):
				return requires("admin.keys:revoke", k.Namespace)
			}
			return ""
		},
		check: (*form).needsConfirmation,
		apply: func(v *visit, k api.Key, f *form, o client.ChangeOption) (api.KeyChanged, error) {
			return v.api.RevokeKey(v.ctx, k.ID, api.RevokeRequest{Reason: f.Value("reason")}, o)
		},
	}, {
		Name: "transfer", Button: "Transfer…", Title: "Transfer %s", Done: "%s transferred",
		Text: "The keys then act for the new owner. A key never has more permissions than its " +
			"owner.",
		hinders: (*visit).hindersEdit,
		check: func(f *form) {
			if f.Value("owner") == "" {
				f.wrong("owner", "choose the new owner")
			}
		},
		apply: func(v *visit, k api.Key, f *form, o client.ChangeOption) (api.KeyChanged, error) {
			return v.api.EditKey(v.ctx, k.ID, api.KeyPatch{Owner: api.Some(f.Value("owner"))}, o)
		},
	}, {
		Name: "plan", Button: "Set plan…", Title: "Set the plan of %s", Done: "Plan set for %s",
		Text:    "The plan sets the limits that a key does not set itself.",
		hinders: (*visit).hindersEdit,
		apply: func(v *visit, k api.Key, f *form, o client.ChangeOption) (api.KeyChanged, error) {
			plan := api.Null[string]()
			if name := f.Value("plan"); name != "" {
				plan = api.Some(name)
			}
			return v.api.EditKey(v.ctx, k.ID, api.KeyPatch{Plan: plan}, o)
		},
	},
}

// hindersEdit returns why the visitor cannot edit a key, or an empty string.
func (v *visit) hindersEdit(k api.Key) string {
	switch {
	case k.Status == string(keystore.StatusRevoked):
		return "It is revoked and cannot be changed."
	case !v.MayEdit(k):
		return requires("admin.keys:update", k.Namespace)
	}
	return ""
}

func requires(permission, namespace string) string {
	return "You lack " + permission + " in " + namespace + "."
}

// bulkActions returns the actions that the visitor can use on some of the keys of a list.
func (v *visit) bulkActions(keys []api.Key) []bulkAction {
	return slices.DeleteFunc(slices.Clone(bulkActions), func(a bulkAction) bool {
		return !slices.ContainsFunc(keys, func(k api.Key) bool { return a.hinders(v, k) == "" })
	})
}

// BulkLink returns the address to which a list posts its chosen keys. It keeps the position and the
// filters of the list.
func (v *visit) BulkLink() string { return address(bulkPath, v.r.URL.Query()) }

// idSeparator is between the ids of keys in an address. Ids have only letters and digits.
const idSeparator = "."

// bulkList returns the address of the list on which the keys were chosen.
func (v *visit) bulkList() string { return address(keysPath, v.r.URL.Query(), "keys", "") }

// chooseBulk redirects from a list to the summary of an action.
func chooseBulk(v *visit) error {
	f := v.form()
	ids := f.Values("key")
	action := f.Value("action")
	known := slices.ContainsFunc(bulkActions, func(a bulkAction) bool { return a.Name == action })
	switch {
	case len(ids) == 0:
		return v.done(v.bulkList(), notice{Kind: "warning unselected", Title: "No key is selected",
			Text: "Select the checkboxes of the keys first."})
	case len(ids) > pageSize:
		v.refuseSelection()
	case action == "export.csv" || known:
		v.redirect(address(bulkPath+"/"+action, v.r.URL.Query(), "keys",
			strings.Join(ids, idSeparator)))
	default:
		v.refuse(http.StatusUnprocessableEntity, "Unknown action", "Choose one of the buttons.")
	}
	return nil
}

func (v *visit) refuseSelection() {
	v.refuse(http.StatusUnprocessableEntity, "Invalid selection",
		fmt.Sprintf("Select 1 to %d keys in a list of keys.", pageSize))
}

// A bulkKey is a chosen key and why it cannot be changed.
type bulkKey struct {
	api.Key
	Why string // empty: it can be changed, or was
	// Down means that the change failed because of the server, so that further ones are not tried.
	Down bool
}

// chosenKeys returns the keys of the address, as far as the visitor may see them. If there are too
// many, it answers the request.
func (v *visit) chosenKeys() (keys []bulkKey, ok bool, err error) {
	ids := slices.DeleteFunc(strings.Split(v.query("keys"), idSeparator),
		func(id string) bool { return id == "" })
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 0 || len(ids) > pageSize {
		v.refuseSelection()
		return nil, false, nil
	}
	for _, id := range ids {
		k, err := v.api.FindKey(v.ctx, id)
		switch {
		case client.StatusOf(err) == http.StatusNotFound:
			keys = append(keys, bulkKey{Key: api.Key{ID: id, Name: id},
				Why: "It does not exist, or you may not see it."})
		case err != nil:
			return nil, false, err
		default:
			keys = append(keys, bulkKey{Key: k})
		}
	}
	slices.SortStableFunc(keys, func(a, b bulkKey) int {
		return cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	return keys, true, nil
}

type bulkPage struct {
	Action bulkAction
	Title  string
	List   string    // the address of the list
	Can    []bulkKey // that can be changed, or were
	Cannot []bulkKey // with the reasons
	Owners []choice  // to transfer to
	Plans  []choice  // to set
	// Propagation is the state of the changes that were made; nil: none was tried.
	Propagation *api.Propagation
}

// bulkPage returns the summary of an action, or nil if it has answered the request.
func (v *visit) bulkPage(a bulkAction) (*bulkPage, error) {
	keys, ok, err := v.chosenKeys()
	if err != nil || !ok {
		return nil, err
	}
	p := &bulkPage{Action: a, List: v.bulkList()}
	for _, k := range keys {
		if k.Why == "" {
			k.Why = a.hinders(v, k.Key)
		}
		if k.Why == "" {
			p.Can = append(p.Can, k)
		} else {
			p.Cannot = append(p.Cannot, k)
		}
	}
	p.Title = fmt.Sprintf(a.Title, counted(int64(len(p.Can)), "key"))
	switch a.Name {
	case "transfer":
		p.Owners = []choice{{Label: "Choose…"}}
		for _, c := range v.members() {
			if v.keys.Policy().OwnerActive(c.Value) {
				p.Owners = append(p.Owners, c)
			}
		}
	case "plan":
		p.Plans = v.bulkPlans(p.Can)
	}
	return p, nil
}

// bulkPlans returns the plans that one of the keys can name, as far as the visitor may know them.
func (v *visit) bulkPlans(keys []bulkKey) []choice {
	var names []string
	for _, plan := range v.plans() {
		if plan.Namespace == keystore.AnyNamespace || slices.ContainsFunc(keys,
			func(k bulkKey) bool { return k.Namespace == plan.Namespace }) {
			names = append(names, plan.Name)
		}
	}
	slices.Sort(names)
	list := []choice{{Label: "The default plan of the namespace, if it has one"}}
	for _, name := range slices.Compact(names) {
		list = append(list, choice{Value: name, Label: name})
	}
	return list
}

func askForBulk(v *visit, a bulkAction) error {
	p, err := v.bulkPage(a)
	if err != nil || p == nil {
		return err
	}
	return v.ask("key_bulk", p.Title, p)
}

// changeBulk changes the chosen keys one after the other. Only the last change waits for all nodes:
// once a node has applied it, it has applied those before.
func changeBulk(v *visit, a bulkAction) error {
	p, err := v.bulkPage(a)
	if err != nil || p == nil {
		return err
	}
	f := v.form()
	if a.check != nil {
		a.check(f)
	}
	if !f.Ok() {
		return v.again("key_bulk", p.Title, p, f)
	}
	var changed []bulkKey
	for i, k := range p.Can {
		if down := len(p.Cannot); down > 0 && p.Cannot[down-1].Down {
			k.Why, k.Down = "Not attempted, because an earlier change failed.", true
			p.Cannot = append(p.Cannot, k)
			continue
		}
		wait := time.Duration(0)
		if i == len(p.Can)-1 {
			wait = shortWait
		}
		done, err := a.apply(v, k.Key, f, client.Wait(wait))
		if err != nil {
			refused, ok := errors.AsType[*client.Error](err)
			if !ok {
				return err
			}
			k.Why, k.Down = whyNot(refused), refused.Status >= 500
			p.Cannot = append(p.Cannot, k)
			continue
		}
		changed = append(changed, bulkKey{Key: done.Key})
		p.Propagation = &done.Propagation
	}
	p.Can = changed
	done := counted(int64(len(changed)+len(p.Cannot)), "key")
	if len(p.Cannot) > 0 {
		done = fmt.Sprintf("%d of %s", len(changed), done)
	}
	p.Title = fmt.Sprintf(a.Done, done)
	if len(p.Cannot) == 0 && p.Propagation != nil {
		return v.changed(p.List, p.Title, *p.Propagation)
	}
	return v.show("key_bulk_done", p.Title, p)
}

// whyNot returns why a change was refused, without the names of fields, which the page does not have.
func whyNot(refused *client.Error) string {
	var details []string
	for _, e := range refused.Errors {
		details = append(details, sentence(e.Detail))
	}
	return cmp.Or(strings.Join(details, " "), sentence(refused.Error()))
}

// exportKeys answers with the chosen keys as CSV (RFC 4180).
func exportKeys(v *visit) error {
	keys, ok, err := v.chosenKeys()
	if err != nil || !ok {
		return err
	}
	names := v.names()
	h := v.w.Header()
	h.Set("Content-Type", "text/csv; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="keys.csv"`)
	w := csv.NewWriter(v.w)
	rows := [][]string{{"id", "prefix", "name", "namespace", "status", "access", "permissions",
		"roles", "owner", "owner_name", "plan", "created_at", "expires_at", "last_used_at"}}
	for _, k := range keys {
		if k.Why == "" {
			rows = append(rows, []string{k.ID, k.Prefix, k.Name, k.Namespace, k.EffectiveStatus(),
				k.Access, strings.Join(ownScopes(k.Key), " "), strings.Join(homeRoles(k.Key), " "),
				k.Owner, names[k.Owner], textOrNone(k.Plan), csvTime(&k.CreatedAt), csvTime(k.ExpiresAt),
				csvTime(k.LastUsedAt)})
		}
	}
	for _, row := range rows {
		for i, cell := range row {
			row[i] = harmless(cell)
		}
	}
	return w.WriteAll(rows)
}

// harmless returns a cell that spreadsheets do not read as a formula: names can be anything.
func harmless(cell string) string {
	// Some split the line at semicolons or tabs.
	for part := range strings.FieldsFuncSeq(cell, func(r rune) bool { return r == ';' || r == '\t' }) {
		if strings.ContainsAny(part[:1], "=+-@\r") {
			return "'" + strings.NewReplacer(";", ",", "\t", " ").Replace(cell)
		}
	}
	return cell
}

func csvTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// textOrNone returns a text, or an empty one for nil.
func textOrNone(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

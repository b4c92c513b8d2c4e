package manage_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// TestImportDuringLoad checks that a node does not cache that a credential is unknown if it is
// imported during the lookup. The change log does not name the credentials of an import.
func TestImportDuringLoad(t *testing.T) {
	d := fleet.New(t)
	a, _ := d.Node(node.Settings{})
	b, f := d.Node(node.Settings{})
	specs := func(kind string) (list []manage.ImportSpec) {
		for i := range 200 {
			spec := manage.KeySpec{Home: &keystore.Grant{Permissions: fleet.Read}}
			list = append(list, manage.ImportSpec{KeySpec: spec, Line: i + 1,
				Token: fmt.Sprintf("sk.live/%s-%d", kind, i)})
		}
		return list
	}
	importKeys := func(list []manage.ImportSpec) {
		t.Helper()
		if n, refused, err := a.ImportKeys(ctx, fleet.Root, list, false, nil); err != nil ||
			n != len(list) {
			t.Fatal(n, refused, err)
		}
	}
	importKeys(specs("first")) // so that nodes look up imported credentials
	list := specs("second")
	token := list[len(list)/2].Token

	reading, release := make(chan struct{}), make(chan struct{})
	hold := func() {
		close(reading)
		<-release
	}
	f.Holding.Store(&hold)
	answered := make(chan keystore.Outcome)
	go func() { answered <- fleet.Ask(b, token) }()
	<-reading
	f.Holding.Store(nil)
	importKeys(list)
	close(release)
	fleet.Want(t, "a lookup from before the import", <-answered, keystore.Unknown)
	fleet.Want(t, "a lookup after the import", fleet.Ask(b, token), keystore.OK)
}

type importingKey struct{}

// importing is the context of imports whose transactions importTransactions counts. A node also
// makes transactions on its own.
var importing = context.WithValue(ctx, importingKey{}, true)

// importTransactions is a database that calls the function in before, unless it is nil, with the
// number of each transaction of an import when the transaction begins.
type importTransactions struct {
	keystore.Database
	begun  int
	before func(n int)
	cut    atomic.Bool // all transactions fail
}

func (d *importTransactions) Update(
	ctx context.Context, change func(keystore.Tx) error,
) (keystore.Revision, error) {
	if ctx.Value(importingKey{}) != nil {
		if d.begun++; d.before != nil {
			d.before(d.begun)
		}
	}
	if d.cut.Load() {
		return 0, fleet.ErrCut
	}
	return d.Database.Update(ctx, change)
}

// newImportWorld returns a world with the namespace `acme`, and its database.
func newImportWorld(t testing.TB) (*world, *importTransactions) {
	t.Helper()
	d := new(importTransactions)
	return newWorldOn(t, func(f *fleet.Faulty) { d.Database, f.Database = f.Database, d }, "acme"), d
}

// manyKeys is a number of keys that one transaction of an import cannot add.
const manyKeys = 300

// TestLargeImports checks imports that need several transactions. Unless they are partial, they
// import everything or nothing.
func TestLargeImports(t *testing.T) {
	refusal := &keystore.Error{Kind: keystore.KindConflict, Code: "repeat"}
	narrow := func(w *world, caller string) {
		g := roleGrants(w, "acme=admin.keys:create")
		if _, _, err := w.EditKey(ctx, fleet.Root, caller, manage.KeyPatch{Grants: &g},
			manage.ChangeOptions{Wait: -1}); err != nil {
			w.Error(err)
		}
	}
	widen := func(w *world, caller string) {
		g := roleGrants(w, "acme=read,write,admin.keys:create")
		if _, _, err := w.EditKey(ctx, fleet.Root, caller, manage.KeyPatch{Grants: &g},
			manage.ChangeOptions{Wait: -1}); err != nil {
			w.Error(err)
		}
	}
	abandon := func(w *world, _ string) {
		w.fleet.Tamper("UPDATE imports SET abandoned = 1")
	}
	use := func(w *world, _ string) {
		other, _ := w.fleet.Node(node.Settings{})
		specs := []manage.ImportSpec{{Token: "legacy/299",
			KeySpec: manage.KeySpec{Grants: roleGrants(w, "acme=read")}}}
		if n, _, err := other.ImportKeys(ctx, fleet.Root, specs, false, nil); n != 1 {
			w.Error(err)
		}
		fleet.Revoke(w, other, specs[0].ID, -1)
		if _, _, err := other.DeleteKey(ctx, fleet.Root, specs[0].ID,
			manage.ChangeOptions{Wait: -1}); err != nil {
			w.Error(err)
		}
	}
	for name, c := range map[string]struct {
		edit      func([]manage.ImportSpec)
		partial   bool
		once      *recorded
		before    int // the number of the transaction before which meanwhile is called
		meanwhile func(w *world, caller string)
		imported  int
		refused   string // lines and codes
		err       string
	}{
		"all":                  {imported: manyKeys, err: "ok"},
		"with a Once":          {once: new(recorded), imported: manyKeys, err: "ok"},
		"partial":              {partial: true, imported: manyKeys, err: "ok"},
		"partial, with a Once": {partial: true, once: new(recorded), imported: manyKeys, err: "ok"},
		"an invalid key": {edit: func(l []manage.ImportSpec) { l[280].Token = "short" },
			refused: "281 invalid_credential", err: "ok"},
		"an invalid key, partial": {edit: func(l []manage.ImportSpec) { l[3].Token = "short" },
			partial: true, imported: manyKeys - 1, refused: "4 invalid_credential", err: "ok"},
		"an invalid key, partial, with a Once": {
			edit:    func(l []manage.ImportSpec) { l[3].Token = "short" },
			partial: true, once: new(recorded), imported: manyKeys - 1,
			refused: "4 invalid_credential", err: "ok"},
		"a credential twice": {edit: func(l []manage.ImportSpec) { l[299].Token = l[0].Token },
			refused: "300 already_used", err: "ok"},
		"a credential twice, partial, with a Once": {
			edit:    func(l []manage.ImportSpec) { l[299].Token = l[0].Token },
			partial: true, once: new(recorded), imported: manyKeys - 1,
			refused: "300 already_used", err: "ok"},
		"only invalid keys": {edit: func(l []manage.ImportSpec) {
			for i := range l {
				l[i].Token = "short"
			}
		}, partial: true, once: new(recorded), refused: "300 lines", err: "ok"},
		"refused before": {once: &recorded{before: refusal}, err: "repeat"},
		"refused after":  {once: &recorded{after: refusal}, err: "repeat"},
		"the caller is narrowed after the check": {before: 2, meanwhile: narrow,
			refused: "250 lines", err: "ok"},
		"the caller is narrowed between": {before: 3, meanwhile: narrow,
			refused: "50 lines", err: "ok"},
		"the caller is narrowed before the end": {before: 4, meanwhile: narrow,
			err: "exceeds_caller"},
		"the caller is widened before the end": {before: 4, meanwhile: widen,
			imported: manyKeys, err: "ok"},
		"a credential is used between, partial, with a Once": {
			partial: true, once: new(recorded), before: 3, meanwhile: use,
			imported: manyKeys - 1, refused: "300 already_used", err: "ok"},
		"abandoned between":        {before: 3, meanwhile: abandon, err: "import_abandoned"},
		"abandoned before the end": {before: 4, meanwhile: abandon, err: "import_abandoned"},
	} {
		t.Run(name, func(t *testing.T) {
			w, transactions := newImportWorld(t)
			caller, token := w.key(fleet.Root, "acme", "acme=read,admin.keys:create")
			who := w.keyCaller(token)
			var specs []manage.ImportSpec
			for i := range manyKeys {
				specs = append(specs, manage.ImportSpec{Line: i + 1, Token: fmt.Sprint("legacy/", i),
					KeySpec: manage.KeySpec{Namespace: "acme", Grants: roleGrants(t, "acme=read")}})
			}
			if c.edit != nil {
				c.edit(specs)
			}
			var once manage.Once
			if c.once != nil {
				once = c.once
			}
			transactions.before = func(n int) {
				if n == c.before {
					c.meanwhile(w, caller.ID)
				}
			}
			n, refused, err := w.ImportKeys(importing, who, specs, c.partial, once)
			if n != c.imported || fleet.Code(err) != c.err {
				t.Errorf("%d imported, %v; want %d, %s", n, err, c.imported, c.err)
			}
			got := ""
			switch len(refused) {
			case 0:
			case 1:
				got = fmt.Sprint(refused[0].Line, " ", refused[0].Code)
			default:
				got = fmt.Sprint(len(refused), " lines")
			}
			if got != c.refused {
				t.Errorf("refused %s, want %s", got, c.refused)
			}
			isRefused := make(map[int]bool)
			for _, r := range refused {
				isRefused[r.Line] = true
			}
			ids := make(map[string]bool)
			for _, s := range specs {
				imported := c.imported > 0 && !isRefused[s.Line]
				if (s.ID != "") != imported {
					t.Fatalf("line %d has the id %q", s.Line, s.ID)
				}
				if imported {
					ids[s.ID] = true
				}
			}
			keys, created, cursor := 0, 0, ""
			for {
				list, next, err := w.ListKeys(ctx, fleet.Root, keystore.KeyFilter{}, cursor, 100)
				if err != nil {
					t.Fatal(err)
				}
				for _, key := range list {
					if keys++; key.CreatedBy == caller.ID && ids[key.ID] {
						created++
					}
				}
				if cursor = next; next == "" {
					break
				}
			}
			if keys != 1+c.imported || created != c.imported {
				t.Errorf("%d keys, %d of them imported, want %d", keys, created, c.imported)
			}
			for _, i := range []int{0, 249, 298} {
				got := w.decide(specs[i].Token, "acme", "read")
				if (got == keystore.OK) != (c.imported > 0) {
					t.Errorf("%s: %v", specs[i].Token, got)
				}
			}
			if c.once != nil && c.imported > 0 && c.once.created != specs[299].ID &&
				!isRefused[300] {
				t.Errorf("the last key is %s, want %s", c.once.created, specs[299].ID)
			}
		})
	}
}

// TestCallerOfImportChanges checks that a large import is refused if a key exceeds the caller's
// authority at the end, although the caller could create it when it was added.
func TestCallerOfImportChanges(t *testing.T) {
	inside := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	const wide, narrow = "acme=read,write,admin.keys:create", "acme=read,admin.keys:create"
	type step = func(w *world, id string) error
	edit := func(patch manage.KeyPatch) step {
		return func(w *world, id string) error {
			_, _, err := w.EditKey(ctx, fleet.Root, id, patch, manage.ChangeOptions{Wait: -1})
			return err
		}
	}
	grants := func(text string) step {
		g := roleGrants(t, text)
		return edit(manage.KeyPatch{Grants: &g})
	}
	for name, c := range map[string]struct {
		member bool         // whether the caller is a member rather than a key
		steps  map[int]step // before which transactions; the first one checks, the fifth publishes
		want   string
	}{
		"a key": {want: "ok"},
		"a key with more permissions for a while": {want: "exceeds_caller", steps: map[int]step{
			2: grants(narrow), 3: grants(wide), 4: grants(narrow)}},
		"a key with fewer addresses at the end": {want: "exceeds_caller", steps: map[int]step{
			5: edit(manage.KeyPatch{AllowedIPs: &inside})}},
		"a key that expires sooner at the end": {want: "exceeds_caller", steps: map[int]step{
			5: func(w *world, id string) error {
				w.fleet.Tamper(fmt.Sprintf("UPDATE keys SET expires_at = %d WHERE id = '%s'",
					time.Now().Add(time.Hour).UnixMicro(), id))
				return nil
			}}},
		"a member": {member: true, want: "ok"},
		"a member with fewer permissions at the end": {member: true, want: "exceeds_caller",
			steps: map[int]step{5: func(w *world, id string) error {
				g := roleGrants(w, narrow)
				_, _, err := w.EditMember(ctx, fleet.Root, id, manage.MemberPatch{Grants: &g},
					manage.ChangeOptions{Wait: -1})
				return err
			}}},
	} {
		t.Run(name, func(t *testing.T) {
			w, transactions := newImportWorld(t)
			var who manage.Caller
			if c.member {
				who = w.member("who", wide)
			} else {
				who = w.keyCaller(second(w.key(fleet.Root, "acme", wide)))
			}
			var specs []manage.ImportSpec
			for i := range 550 { // the transactions add 250, 250 and 50
				gives := "acme=read"
				if i/250 == 1 {
					gives = "acme=write"
				}
				specs = append(specs, manage.ImportSpec{Line: i + 1, Token: fmt.Sprint("legacy/", i),
					KeySpec: manage.KeySpec{Namespace: "acme", Grants: roleGrants(t, gives)}})
			}
			transactions.before = func(n int) {
				if step := c.steps[n]; step != nil {
					if err := step(w, who.Actor()); err != nil {
						t.Errorf("before transaction %d: %v", n, err)
					}
				}
			}
			n, refused, err := w.ImportKeys(importing, who, specs, false, nil)
			if fleet.Code(err) != c.want || len(refused) > 0 || (n == len(specs)) != (err == nil) {
				t.Errorf("%d imported, %v, %v; want %s", n, refused, err, c.want)
			}
			if transactions.begun != 5 {
				t.Errorf("%d transactions", transactions.begun)
			}
		})
	}
}

// TestImportedCredentials checks which credentials can be imported. A token of this deployment
// keeps its id and its prefix.
func TestImportedCredentials(t *testing.T) {
	w := newWorld(t)
	restored := w.TokenKey().Generate(keystore.DefaultPrefix, keystore.NewID())
	members := w.TokenKey().Generate(keystore.MemberPrefix, keystore.NewID())
	stranger, _ := fleet.New(t).Node(node.Settings{})
	foreign := stranger.TokenKey().Generate(keystore.DefaultPrefix, keystore.NewID())
	_, known := w.key(fleet.Root, "default", "default=read")
	for what, c := range map[string]struct {
		token  string
		digest keystore.Digest
		want   string
	}{
		"a token of another product": {token: "sk.live/1", want: "ok"},
		"its digest":                 {digest: keystore.DigestOf("sk.live/2"), want: "ok"},
		"both": {"sk.live/3", keystore.DigestOf("sk.live/3"),
			"invalid_credential"},
		"neither":                         {want: "invalid_credential"},
		"a token that is too short":       {token: "sk.live", want: "invalid_credential"},
		"a token with a URI scheme":       {token: "Secret-Token:sk.live/4", want: "ok"},
		"a forged token with one":         {token: "secret-token:ak_malformed", want: "invalid_credential"},
		"a token of this deployment":      {token: restored.Reveal(), want: "ok"},
		"a token of an existing key":      {token: known, want: "exists"},
		"a token of another deployment":   {token: foreign.Reveal(), want: "invalid_credential"},
		"a malformed token with a prefix": {token: "ak_malformed", want: "invalid_credential"},
		"a member's token":                {token: members.Reveal(), want: "invalid_credential"},
	} {
		specs := []manage.ImportSpec{{Line: 1, Token: c.token, Digest: c.digest,
			KeySpec: manage.KeySpec{Grants: roleGrants(t, "default=read")}}}
		n, refused, err := w.ImportKeys(ctx, fleet.Root, specs, false, nil)
		got := "ok"
		if len(refused) > 0 {
			got = refused[0].Code
		}
		if err != nil || got != c.want || (n == 1) != (got == "ok") {
			t.Errorf("%s: %d, %v, %v; want %s", what, n, refused, err, c.want)
		}
		if n == 1 && c.token != "" {
			sent := keystore.TrimSecretToken(c.token)
			fleet.Want(t, what, fleet.Ask(w.Keystore, sent), keystore.OK)
		}
	}
	key, err := w.FindKey(ctx, fleet.Root, restored.ID())
	if err != nil || key.Prefix != restored.Prefix() || key.Secrets[0].Imported {
		t.Errorf("the token of this deployment: %+v, %v", key, err)
	}
}

// TestAbandonedImports checks that nodes remove the keys of an import whose node could neither finish
// it nor remove them: the same node later, and a node that starts.
func TestAbandonedImports(t *testing.T) {
	for name, starts := range map[string]bool{"the same node": false, "a node that starts": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, transactions := newImportWorld(t)
				var specs []manage.ImportSpec
				for i := range manyKeys {
					specs = append(specs, manage.ImportSpec{Token: fmt.Sprint("legacy/", i),
						KeySpec: manage.KeySpec{Namespace: "acme", Grants: roleGrants(t, "acme=read")}})
				}
				transactions.before = func(n int) { transactions.cut.Store(n == 4) }
				if _, _, err := w.ImportKeys(importing, fleet.Root, specs, false,
					nil); !errors.Is(err, fleet.ErrCut) {
					t.Fatal(err)
				}
				if n := keyCount(t, w.Keystore); n != 100 {
					t.Fatalf("%d keys, want a whole page", n)
				}
				time.Sleep(2 * time.Minute) // the import counts as abandoned
				if starts {
					w.fleet.Node(node.Settings{})
					time.Sleep(time.Second)
				} else {
					transactions.cut.Store(false)
					time.Sleep(2 * time.Minute)
				}
				if n := keyCount(t, w.Keystore); n != 0 {
					t.Errorf("%d keys remain", n)
				}
			})
		})
	}
}

// nestedImports is a source that begins further imports while it is read.
type nestedImports struct {
	w     *world
	depth *int
	err   *error // of the innermost
}

func (s nestedImports) Len() int { return 1 }

func (s nestedImports) At(int) manage.ImportSpec {
	if *s.depth++; *s.depth < 20 {
		if _, _, err := s.w.ImportFrom(ctx, fleet.Root, s, true, nil); err != nil {
			*s.err = err
		}
	}
	return manage.ImportSpec{Err: &keystore.Error{Code: "invalid"}}
}

func (nestedImports) Imported(int, string) {}

// TestSimultaneousImports checks how many imports can run on a node at the same time.
func TestSimultaneousImports(t *testing.T) {
	w := newWorld(t)
	for range 2 { // the first ones end
		var depth int
		var innermost error
		if _, _, err := w.ImportFrom(ctx, fleet.Root, nestedImports{w, &depth, &innermost}, true,
			nil); err != nil || depth != 16 || fleet.Code(innermost) != "busy" {
			t.Errorf("%v; %d imports run, another one: %v", err, depth, innermost)
		}
	}
}

// TestChangedKeyOfFailedImport changes a key of a large import that fails afterwards. The key is
// revoked rather than removed, because someone was told that the change was made.
func TestChangedKeyOfFailedImport(t *testing.T) {
	w, transactions := newImportWorld(t)
	var specs []manage.ImportSpec
	for i := range manyKeys {
		specs = append(specs, manage.ImportSpec{Line: i + 1, Token: fmt.Sprint("legacy/", i),
			KeySpec: manage.KeySpec{Namespace: "acme", Name: fmt.Sprint(i),
				Grants: roleGrants(t, "acme=read")}})
	}
	name := "changed"
	once := &recorded{after: &keystore.Error{Kind: keystore.KindConflict, Code: "repeat"}}
	transactions.before = func(n int) {
		if n != 4 {
			return
		}
		list, _, err := w.ListKeys(ctx, fleet.Root, keystore.KeyFilter{}, "", 1)
		if err != nil || len(list) == 0 {
			t.Errorf("no key of the import is listed: %v", err)
			return
		}
		if _, _, err := w.EditKey(ctx, fleet.Root, list[0].ID, manage.KeyPatch{Name: &name},
			manage.ChangeOptions{Wait: -1}); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := w.ImportKeys(importing, fleet.Root, specs, false,
		once); fleet.Code(err) != "repeat" {
		t.Fatal(err)
	}
	list, _, err := w.ListKeys(ctx, fleet.Root, keystore.KeyFilter{}, "", 100)
	if err != nil || len(list) != 1 || list[0].Name != name || list[0].RevokedAt.IsZero() ||
		list[0].RevokeReason == "" {
		t.Errorf("%d keys remain: %+v, %v", len(list), list, err)
	}
	rows, _, err := w.ListAudit(ctx, fleet.Root, keystore.AuditFilter{Action: "key.delete"}, "",
		manyKeys)
	if err != nil || len(rows) != manyKeys-1 || slices.ContainsFunc(rows,
		func(r keystore.AuditRow) bool { return r.Object == "" || r.Before == "" }) {
		t.Errorf("%d removed keys in the audit log: %v", len(rows), err)
	}
	n, refused, err := w.ImportKeys(ctx, fleet.Root, specs, true, nil)
	if n != manyKeys-1 || len(refused) != 1 || refused[0].Code != "already_used" || err != nil {
		t.Errorf("importing them again: %d, %v, %v", n, refused, err)
	}
}

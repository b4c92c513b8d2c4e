package manage_test

import (
	"fmt"
	"testing"

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

// manyKeys is more than one transaction of an import adds.
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
	for name, c := range map[string]struct {
		edit      func([]manage.ImportSpec)
		partial   bool
		once      *recorded
		before    int // which transaction comes after meanwhile
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
				l[i].Grants = nil
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
		"abandoned between":        {before: 3, meanwhile: abandon, err: "import_abandoned"},
		"abandoned before the end": {before: 4, meanwhile: abandon, err: "import_abandoned"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "acme")
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
			transaction := 0
			var hook func()
			hook = func() {
				if transaction++; transaction == c.before {
					c.meanwhile(w, caller.ID)
				} else {
					w.faulty.BeforeUpdate.Store(&hook)
				}
			}
			if c.meanwhile != nil {
				w.faulty.BeforeUpdate.Store(&hook)
			}
			n, refused, err := w.ImportKeys(ctx, who, specs, c.partial, once)
			w.faulty.BeforeUpdate.Store(nil)
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
			want := keystore.Malformed // nothing was ever imported
			if c.imported > 0 {
				want = keystore.OK
			}
			for _, i := range []int{0, 249, 298} {
				fleet.Want(t, specs[i].Token, w.decide(specs[i].Token, "acme", "read"), want)
			}
			if c.once != nil && c.imported > 0 && c.once.created != specs[299].ID &&
				!isRefused[300] {
				t.Errorf("the last key is %s, want %s", c.once.created, specs[299].ID)
			}
		})
	}
}

// TestChangedKeyOfFailedImport changes a key of a large import that fails afterwards. The key is
// revoked rather than removed, because someone was told that the change was made.
func TestChangedKeyOfFailedImport(t *testing.T) {
	w := newWorld(t, "acme")
	var specs []manage.ImportSpec
	for i := range manyKeys {
		specs = append(specs, manage.ImportSpec{Line: i + 1, Token: fmt.Sprint("legacy/", i),
			KeySpec: manage.KeySpec{Namespace: "acme", Name: fmt.Sprint(i),
				Grants: roleGrants(t, "acme=read")}})
	}
	name := "changed"
	once := &recorded{after: &keystore.Error{Kind: keystore.KindConflict, Code: "repeat"}}
	transaction := 0
	var hook func()
	hook = func() {
		if transaction++; transaction < 4 {
			w.faulty.BeforeUpdate.Store(&hook)
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
	w.faulty.BeforeUpdate.Store(&hook)
	if _, _, err := w.ImportKeys(ctx, fleet.Root, specs, false, once); fleet.Code(err) != "repeat" {
		t.Fatal(err)
	}
	list, _, err := w.ListKeys(ctx, fleet.Root, keystore.KeyFilter{}, "", 100)
	if err != nil || len(list) != 1 || list[0].Name != name || list[0].RevokedAt.IsZero() ||
		list[0].RevokeReason == "" {
		t.Errorf("%d keys remain: %+v, %v", len(list), list, err)
	}
	n, refused, err := w.ImportKeys(ctx, fleet.Root, specs, true, nil)
	if n != manyKeys-1 || len(refused) != 1 || refused[0].Code != "already_used" || err != nil {
		t.Errorf("importing them again: %d, %v, %v", n, refused, err)
	}
}

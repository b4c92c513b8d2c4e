package console_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/sqldb"
	"golang.org/x/net/html"
)

// used adds requests with a key to its usage, now or at a time before.
func (s *site) used(t testing.TB, k *keystore.Key, before time.Duration, operation string,
	o keystore.Outcome, requests int64) {
	t.Helper()
	row := keystore.UsageRow{Begin: s.keys.Now().Add(-before).Truncate(time.Minute), Key: k.ID,
		Namespace: k.Namespace, Owner: k.Owner, Operation: operation, Outcome: o}
	row.Requests = requests
	if o == keystore.OK {
		row.Units, row.Status[1] = requests, requests
		row.BytesIn, row.BytesOut = 2*requests, 1500*requests
	}
	err := s.db.AddUsage(ctx, keystore.UsageBatch{Writer: keystore.NewID(), Number: 1,
		Rows: []keystore.UsageRow{row}})
	if err != nil {
		t.Fatal(err)
	}
}

// insert adds keys of any age, as another version may have created them. It fills in the fields
// that every key has.
func (s *site) insert(t testing.TB, keys ...*keystore.Key) {
	t.Helper()
	_, err := s.db.Update(ctx, func(tx keystore.Tx) error {
		for _, k := range keys {
			k.ID, k.Prefix, k.Active, k.Version = keystore.NewID(), "ak", true, 1
			if k.Namespace == "" {
				k.Namespace = keystore.DefaultNamespace
			}
			if k.Owner == "" {
				k.Owner = keystore.RootMember
			}
			if k.CreatedAt.IsZero() {
				k.CreatedAt = tx.Now()
			}
			if k.Grants == nil {
				k.Grants = []keystore.Grant{{Namespace: k.Namespace,
					Permissions: []keystore.Permission{{Action: "read"}}}}
			}
		}
		refused, err := tx.InsertKeys(keys)
		for _, reason := range refused {
			err = errors.Join(err, reason)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeyUsage(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"})
	ada, token := s.member(t, "Ada", "acme=@client-admin")
	k := &keystore.Key{Name: "Shop", Namespace: "acme", Owner: ada}
	k.Quota = keystore.Quota{Units: 50_000, Per: keystore.Month}
	idle := &keystore.Key{Name: "Idle", Namespace: "acme"}
	s.insert(t, k, idle)
	s.used(t, k, 0, "read", keystore.OK, 45_000)
	s.used(t, k, 0, "read", keystore.Limited, 1234)
	s.used(t, k, 40*24*time.Hour, "read", keystore.Forbidden, 77)
	if err := s.db.RecordUse(ctx, map[string]keystore.LastUse{k.ID: {At: s.keys.Now(),
		From:    netip.MustParseAddr("198.51.100.7"),
		Derived: keystore.DerivedUse{At: s.keys.Now(), Note: "<b>job</b>"}}}); err != nil {
		t.Fatal(err)
	}
	p := s.person(t)
	p.signIn(token).want(200)
	at := "/apikeys/keys/" + k.ID
	p.get(at).want(200, "Requests per day", `role="img"`, "<dd>45,000</dd>",
		"<dd>1,234 (rate limit)</dd>", "<dd>45,000 with status 2xx</dd>", "90 kB received, 67 MB sent",
		`45,000 of 50,000 units (90 %) <span class="whole">in `, `<meter min="0" max="50000" high="40000"`,
		"from 198.51.100.7", `<td data-label="Refused: rate limit" class="number">1,234</td>`,
		"<dt>Derived token last used</dt>", "<bdi>&lt;b&gt;job&lt;/b&gt;</bdi>",
		at+"?range=12m").lacks("permission)", "Quota: ", "<b>")
	p.get(at+"?range=24h").want(200, "Requests per hour", "<dd>45,000</dd>")
	// the quota has the period of the buckets
	p.get(at+"?range=12m").want(200, "Requests per month", "<dd>1,311 (permission 77, rate limit 1,234",
		"Quota: 50,000 units per month", `class="quota"`)
	p.get(at+"?range=1h").want(422, "Invalid time")
	p.get("/apikeys/keys/"+idle.ID).want(200, "No requests").
		lacks("<meter", "Show as a table", "Derived token last")

	// The page of a key shows usage to everybody who may read the key. Lists show that of one's own
	// keys, and that of others with the permission.
	mine := &keystore.Key{Name: "Mine", Namespace: "acme"}
	ben, token := s.member(t, "Ben", "acme=admin.keys:read")
	mine.Owner = ben
	s.insert(t, mine)
	s.used(t, mine, 0, "read", keystore.OK, 9)
	reader := s.person(t)
	reader.signIn(token).want(200)
	reader.get(at).want(200, "Shop", "Requests per", "<svg role", "<meter")
	reader.get("/apikeys/keys/"+mine.ID).want(200, "Requests per day", "<dd>9</dd>")
	a := reader.get("/apikeys/keys").want(200, "9 allowed in 30 days").lacks("45,000")
	if n := strings.Count(a.Text, `class="spark"`); n != 1 {
		t.Errorf("%d charts, want only that of the own key", n)
	}
	p.get("/apikeys/keys").want(200,
		"45,000 allowed, refused 1,234 (rate limit) in 30 days", "9 allowed in 30 days")
}

// A usageCounter counts the reads of usage, which can fail.
type usageCounter struct {
	keystore.Database
	reads atomic.Int32
	fails atomic.Bool
}

func (c *usageCounter) Usage(
	ctx context.Context, q keystore.UsageQuery,
) ([]keystore.UsageSum, error) {
	c.reads.Add(1)
	if c.fails.Load() {
		return nil, errors.New("the disk is on fire")
	}
	return c.Database.Usage(ctx, q)
}

// TestUsageReads checks that a list reads the usage of all its keys at once, and that pages are
// shown without usage if that fails.
func TestUsageReads(t *testing.T) {
	db, err := sqldb.OpenSQLite(ctx, fleet.File(t))
	if err != nil {
		t.Fatal(err)
	}
	counter := &usageCounter{Database: db}
	s := openOn(t, counter, node.Settings{})
	var keys []*keystore.Key
	for i := range 50 {
		keys = append(keys, &keystore.Key{Name: fmt.Sprintf("Key %d", i)})
	}
	s.insert(t, keys...)
	for _, k := range keys[:3] {
		s.used(t, k, 0, "read", keystore.OK, 5)
	}
	p := s.signedIn(t, "Ada", "*=@client-admin")
	before := counter.reads.Load()
	a := p.get("/apikeys/keys").want(200, "5 allowed in 30 days")
	if n := counter.reads.Load() - before; n != 1 {
		t.Errorf("a list reads usage %d times, want once", n)
	}
	if n := strings.Count(a.Text, `class="spark"`); n != 3 {
		t.Errorf("%d charts, want one for each key with requests", n)
	}
	counter.fails.Store(true)
	p.get("/apikeys/keys").want(200, "Key 7").lacks(`class="spark"`)
	p.get("/apikeys/keys/"+keys[0].ID).want(200, "Key 0", "Usage cannot be read now").
		lacks("on fire", `role="img"`)
	p.get("/apikeys/overview").want(200, "Usage cannot be read now").lacks("on fire")
}

func TestOverview(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme", Limits: keystore.Limits{
		Quota: keystore.Quota{Units: 30_000, Per: keystore.Month}}},
		keystore.Namespace{ID: "other"})
	near := &keystore.Key{Name: "Almost spent", Namespace: "acme"}
	near.Quota = keystore.Quota{Units: 1000, Per: keystore.Month}
	far := &keystore.Key{Name: "Far from it", Namespace: "acme"}
	far.Quota = keystore.Quota{Units: 1_000_000, Per: keystore.Month}
	hidden := &keystore.Key{Name: "Hidden", Namespace: "other"}
	hidden.Quota = keystore.Quota{Units: 10, Per: keystore.Month}
	deleted := &keystore.Key{Name: "Deleted", Namespace: "acme"}
	s.insert(t, near, far, hidden, deleted)
	s.used(t, near, 0, "read", keystore.OK, 950)
	s.used(t, near, 0, "read", keystore.Exhausted, 3)
	s.used(t, far, 0, "read", keystore.OK, 20_000)
	s.used(t, hidden, 0, "read", keystore.OK, 7777)
	s.used(t, deleted, 0, "read", keystore.OK, 11)
	begin, end := keystore.Month.Of(s.keys.Now())
	var reservations []keystore.Reservation
	for name, units := range map[string][2]int64{"key/" + near.ID: {950, 1000},
		"key/" + far.ID: {20_000, 1_000_000}, "key/" + hidden.ID: {7777, 10},
		"namespace/acme": {27_000, 30_000}} {
		reservations = append(reservations, keystore.Reservation{Quota: name + "/month",
			Begin: begin, End: end, Booked: units[0], Limit: units[1]})
	}
	if _, err := s.db.Reserve(ctx, reservations); err != nil {
		t.Fatal(err)
	}
	_, _, err := s.keys.RevokeKey(ctx, root, deleted.ID, "", false, manage.ChangeOptions{})
	if err == nil {
		_, _, err = s.keys.DeleteKey(ctx, root, deleted.ID, manage.ChangeOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}

	p := s.signedIn(t, "Ada", "acme=@viewer")
	a := p.get("/apikeys/overview").want(200, "<dd>20,961</dd>", "<dd>3 (quota)</dd>",
		"Refused: quota", "<code>"+deleted.ID, "Far from it",
		"950 of 1,000 units (95 %)", "All keys of <bdi>acme</bdi>",
		"27,000 of 30,000 units (90 %)").lacks("7,777", "Hidden", hidden.ID)
	if _, order, _ := strings.Cut(a.Text, "Keys with the most"); strings.Index(order,
		"Far from it") > strings.Index(order, "Almost spent") {
		t.Error("the key with the most requests is not the first")
	}
	if _, list, _ := strings.Cut(a.Text, "Quotas that"); strings.Contains(list, "Far from it") ||
		strings.Count(list, "<meter") != 2 {
		t.Error("other quotas are nearly used up")
	}
	p.get("/apikeys/overview?namespace=other").want(200, "No requests").lacks("7,777")
	all := s.signedIn(t, "Root", "*=@viewer")
	all.get("/apikeys/overview?range=12m").want(200, "<dd>28,738</dd>", "Hidden",
		"7,777 of 10 units (77770 %)")
	all.get("/apikeys/overview?namespace=other").want(200, "<dd>7,777</dd>").lacks("Almost")
	all.get("/apikeys/overview?range=decade").want(422, "Invalid time")

	nobody := s.signedIn(t, "Nobody", "acme=admin.keys:read")
	nobody.get("/apikeys/overview").want(403, "admin.usage:read")
	nobody.get("/apikeys/keys").want(200, "Almost spent").lacks("/apikeys/overview", "<svg")
}

func TestHygiene(t *testing.T) {
	s := open(t)
	namespaces(t, s, keystore.Namespace{ID: "acme"}, keystore.Namespace{ID: "other"})
	const day = 24 * time.Hour
	now := s.keys.Now()
	gone, _ := s.member(t, "Gone", "acme=read")
	disabled := false
	if _, _, err := s.keys.EditMember(ctx, root, gone, manage.MemberPatch{Active: &disabled},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	keys := map[string]*keystore.Key{
		"never_used":     {Name: "Unused so far", CreatedAt: now.Add(-2 * day)},
		"unused_30_days": {Name: "Idle for a month", LastUsedAt: now.Add(-31 * day)},
		"unused_90_days": {Name: "Idle for long", LastUsedAt: now.Add(-91 * day)},
		"never_expires":  {Name: "Forever", LastUsedAt: now},
		"expires_soon":   {Name: "Ends soon", LastUsedAt: now, ExpiresAt: now.Add(29 * day)},
		"owner_disabled": {Name: "Orphan", LastUsedAt: now, Owner: gone},
		"unused_permissions": {Name: "Broad", LastUsedAt: now, CreatedAt: now.Add(-200 * day),
			Grants: []keystore.Grant{{Namespace: "acme",
				Permissions: permissions(t, "orders:read", "refunds:write")}}},
	}
	revoked := &keystore.Key{Name: "Revoked", Namespace: "acme", RevokedAt: now}
	for name, k := range keys {
		k.Namespace = "acme"
		if k.ExpiresAt.IsZero() && name != "never_expires" {
			k.ExpiresAt = now.Add(300 * day)
		}
		s.insert(t, k)
	}
	s.insert(t, revoked, &keystore.Key{Name: "Elsewhere", Namespace: "other"})
	uses := make(map[string]keystore.LastUse)
	for _, k := range keys {
		if !k.LastUsedAt.IsZero() {
			uses[k.ID] = keystore.LastUse{At: k.LastUsedAt}
		}
	}
	if err := s.db.RecordUse(ctx, uses); err != nil {
		t.Fatal(err)
	}
	broad := keys["unused_permissions"]
	s.used(t, broad, 150*day, "refunds:write", keystore.OK, 1)
	s.used(t, broad, 0, "orders:read", keystore.OK, 1)

	p := s.signedIn(t, "Ada", "acme=@viewer")
	page := p.get("/apikeys/hygiene").want(200, "A stolen token works until")
	for name, k := range keys {
		want := []string{k.Name}
		if name == "unused_30_days" {
			want = append(want, "Idle for long")
		}
		slices.Sort(want)
		at := "/apikeys/hygiene/" + name
		a := p.get(at).want(200, `<a href="/apikeys/hygiene">`)
		for where, got := range map[string][]string{at: listed(a.Doc),
			"/apikeys/hygiene#" + name: listed(section(page.Doc, name))} {
			if !slices.Equal(got, want) {
				t.Errorf("%s lists %v, want %v", where, got, want)
			}
		}
	}
	p.get("/apikeys/hygiene/unused_permissions").want(200,
		`<li class="chip">refunds:write</li>`).lacks(`>orders:read<`)
	p.get("/apikeys/hygiene?namespace=other").want(200, "Nothing to do for", "<li>Never used</li>").
		lacks("Elsewhere", "Broad", `<h2 id="never_used">`)
	p.get("/apikeys/hygiene/odd").want(404)
	p.get("/apikeys/hygiene?cursor=nonsense").want(200, "its address was invalid", "Forever")

	s.signedIn(t, "Nobody", "acme=read").get("/apikeys/hygiene").want(403, "admin.keys:read")
	without := s.signedIn(t, "Ben", "acme=admin.keys:read")
	without.get("/apikeys/hygiene").want(200, "Forever").lacks("Permissions unused", "refunds")
	without.get("/apikeys/hygiene/unused_permissions").want(404).lacks("refunds")
	elsewhere := s.signedIn(t, "Cleo", "acme=admin.keys:read", "other=admin.usage:read")
	for _, path := range []string{"", "/unused_permissions"} {
		elsewhere.get("/apikeys/hygiene"+path).want(200, "Permissions unused").lacks("refunds")
	}
}

// section returns the section of a page that a heading labels.
func section(doc *html.Node, heading string) (found *html.Node) {
	each(doc, func(n *html.Node) {
		if n.Data == "section" && attr(n, "aria-labelledby") == heading {
			found = n
		}
	})
	return found
}

// listed returns the names of the keys in tables, sorted.
func listed(n *html.Node) (names []string) {
	each(n, func(n *html.Node) {
		if n.Data == "th" && attr(n, "scope") == "row" {
			names = append(names, strings.TrimSpace(textOf(n)))
		}
	})
	slices.Sort(names)
	return names
}

// TestHygieneOfManyKeys checks that a page examines a bounded number of keys, and that all keys are
// on some page.
func TestHygieneOfManyKeys(t *testing.T) {
	s := open(t)
	const many = 5300
	keys := make([]*keystore.Key, many)
	for i := range keys {
		keys[i] = &keystore.Key{Name: fmt.Sprintf("Key %d", i),
			CreatedAt: s.keys.Now().AddDate(0, 0, -2).Add(-time.Duration(i) * time.Second)}
		if i%100 != 0 {
			keys[i].ExpiresAt = s.keys.Now().AddDate(1, 0, 0)
		}
	}
	for part := range slices.Chunk(keys, 1000) {
		s.insert(t, part...)
	}
	p := s.signedIn(t, "Ada", "*=@viewer")
	a := p.get("/apikeys/hygiene").want(200, ">5,000<", "Next page", "Show all 50<")
	p.get(next(a)).want(200, ">300<", ">3<", "First page").lacks("Next page")
	for name, want := range map[string]int{"never_used": many, "never_expires": many / 100} {
		seen, pages := make(map[string]bool), 0
		for at := "/apikeys/hygiene/" + name; at != ""; pages++ {
			a := p.get(at).want(200)
			list := listed(a.Doc)
			if len(list) > 300 {
				t.Fatalf("%d keys on a page", len(list))
			}
			for _, key := range list {
				seen[key] = true
			}
			at = next(a)
		}
		if len(seen) != want {
			t.Errorf("%s: %d keys on %d pages, want %d", name, len(seen), pages, want)
		}
	}
}

// next returns the address of the next page of a list, or an empty string.
func next(a answer) (at string) {
	each(a.Doc, func(n *html.Node) {
		if attr(n, "rel") == "next" {
			at = attr(n, "href")
		}
	})
	return at
}

func TestUsageOff(t *testing.T) {
	s := openWith(t, node.Settings{Usage: node.UsageSettings{Off: true}})
	k := &keystore.Key{Name: "Shop"}
	s.insert(t, k)
	s.used(t, k, 0, "read", keystore.OK, 4321) // before it was turned off
	p := s.signedIn(t, "Ada", "*=@client-admin")
	for _, path := range []string{"/apikeys/overview", "/apikeys/keys/" + k.ID, "/apikeys/hygiene",
		"/apikeys/hygiene/unused_permissions"} {
		p.get(path).want(200, "requests are not counted").lacks("4,321", `role="img"`)
	}
	p.get("/apikeys/keys").want(200, "Shop").lacks(`class="spark"`)
}

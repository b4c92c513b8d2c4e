package manage_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/fleet"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// TestNearQuotas checks which quotas a caller sees, and that quotas which have changed are judged as
// they are now.
func TestNearQuotas(t *testing.T) {
	w := newWorld(t, "acme", "other")
	names := make(map[string]string) // by id
	key := func(name, home string, units int64) string {
		k, _ := fleet.Mint(t, w.Keystore, manage.KeySpec{Name: name, Namespace: home,
			Limits: keystore.KeyLimits{Limits: keystore.Limits{
				Quota: keystore.Quota{Units: units, Per: keystore.Month}}}})
		w.ids[name], names[k.ID] = k.ID, name
		return k.ID
	}
	begin, end := keystore.Month.Of(time.Now())
	use := func(name string, limit, granted int64) {
		_, err := w.Database().Reserve(ctx, []keystore.Reservation{{Quota: name, Begin: begin,
			End: end, Limit: limit, Booked: granted}})
		if err != nil {
			t.Fatal(err)
		}
	}
	ada := w.member("ada", "other=read")
	use("key/"+key("full", "acme", 100)+"/month", 100, 100)
	use("key/"+key("most", "other", 100)+"/month", 100, 90)
	use("key/"+key("half", "acme", 100)+"/month", 100, 50)
	use("key/"+key("raised", "acme", 1000)+"/month", 100, 99)
	use("key/"+key("lowered", "acme", 96)+"/month", 100, 95)
	use("key/"+key("by month now", "acme", 100)+"/day", 100, 100)
	use("key/aaaaaaaaaaaa/month", 100, 100)
	use("namespace/other/month", 10, 12)
	use("namespace/gone/month", 10, 12)
	quota := keystore.Quota{Units: 10, Per: keystore.Month}
	_, _, err := w.EditNamespace(ctx, fleet.Root, "other",
		manage.NamespacePatch{Limits: manage.LimitsPatch{Quota: &quota}}, manage.ChangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owner := w.ids["ada"]
	if _, _, err := w.EditKey(ctx, fleet.Root, w.ids["most"], manage.KeyPatch{Owner: &owner},
		manage.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name  string
		who   manage.Caller
		in    string
		limit int
		want  string
	}{
		{"root", fleet.Root, "", 10, "other 12/10, full 100/100, lowered 95/96, most 90/100"},
		{"root", fleet.Root, "", 2, "other 12/10, full 100/100"},
		{"root", fleet.Root, "other", 10, "other 12/10, most 90/100"},
		{"root", fleet.Root, "nowhere", 10, ""},
		{"an owner", ada, "", 10, "most 90/100"},
		{"a reader of acme", w.member("bob", "acme=admin:read"), "", 10,
			"full 100/100, lowered 95/96"},
		{"a reader of namespaces", w.member("eve", "other=admin.namespaces:read"), "", 10,
			"other 12/10"},
		{"a key", w.keyCaller(second(w.key(fleet.Root, "other", "other=read"))), "", 10,
			"insufficient_permission"},
	} {
		list, err := w.NearQuotas(ctx, row.who, row.in, 0.9, row.limit)
		var words []string
		for _, n := range list {
			name := n.Namespace
			if n.Key != nil {
				name = names[n.Key.ID]
			}
			words = append(words, fmt.Sprintf("%s %d/%d", name, n.Used, n.Quota.Units))
			if !n.Begin.Equal(begin) || !n.End.Equal(end) {
				t.Errorf("%s: from %s to %s", name, n.Begin, n.End)
			}
		}
		got := strings.Join(words, ", ")
		if err != nil {
			got = fleet.Code(err)
		}
		if got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
}

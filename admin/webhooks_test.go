package admin_test

import (
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

func TestWebhooks(t *testing.T) {
	d := open(t)
	db := d.keys.Database()
	for range 3 {
		d.mint(t, root, `{"name":"a","access":"read_only"}`)
	}
	var audit api.AuditRows
	d.call(t, root, "GET", "/audit", nil).into(t, 200, &audit)
	hook := keystore.Webhook{ID: "wh_1", Holder: d.keys.Incarnation(), Position: 3,
		WebhookState: keystore.WebhookState{URL: "https://example.com/h", Attempts: 2,
			RetryAt: time.Now().Add(time.Hour), StoppedAt: time.Now(),
			Deliveries: []keystore.WebhookDelivery{
				{Event: "evt_1", Type: "key.created", Status: 410, Error: "answered 410"},
				{Event: "evt_1", Type: "key.created", Error: "timeout", Took: 1500 * time.Millisecond},
			}}}
	if _, err := db.SaveWebhooks(t.Context(), []keystore.Webhook{hook}); err != nil {
		t.Fatal(err)
	}
	show := func() api.Webhook {
		t.Helper()
		var list api.Webhooks
		d.call(t, root, "GET", "/webhooks", nil).into(t, 200, &list)
		if len(list.Items) != 1 {
			t.Fatalf("%+v", list)
		}
		return list.Items[0]
	}
	w := show()
	if w.State != "stopped" || w.Position != 3 || w.Backlog != 0 || w.Node == nil ||
		*w.LastError != "answered 410" || len(w.Deliveries) != 2 ||
		w.Deliveries[1].DurationMS != 1500 || w.Deliveries[1].Status != nil ||
		*w.Deliveries[0].Status != 410 {
		t.Errorf("%+v", w)
	}

	reader, readerCaller := d.member(t,
		`{"name":"r","grants":[{"namespace":"*","permissions":["admin.webhooks:read"]}]}`)
	_, other := d.member(t,
		`{"name":"o","grants":[{"namespace":"default","permissions":["admin.webhooks:*"]}]}`)
	_ = reader
	var list api.Webhooks
	d.call(t, readerCaller, "GET", "/webhooks", nil).into(t, 200, &list)
	for _, refused := range []struct {
		caller       manage.Caller
		method, path string
		body         any
		status       int
	}{
		{other, "GET", "/webhooks", nil, 403},
		{other, "POST", "/webhooks/wh_1/test", nil, 403},
		{readerCaller, "POST", "/webhooks/wh_1/replay", `{}`, 403},
		{readerCaller, "POST", "/webhooks/wh_1/test", nil, 403},
		{root, "POST", "/webhooks/missing/test", nil, 404},
		{root, "POST", "/webhooks/missing/replay", `{}`, 404},
		{root, "POST", "/webhooks/wh_1/replay", `{"from":"yesterday"}`, 422},
		{root, "POST", "/webhooks/wh_1/replay", `{"from":"evt_0_0011223344556677"}`, 422},
		{root, "POST", "/webhooks/wh_1/replay", `{"from":"2999-01-01T00:00:00Z"}`, 422},
		{other, "POST", "/webhooks/wh_1/replay", `{"from":"2999-01-01T00:00:00Z"}`, 403},
		// An event of another deployment, or beyond the newest: the backlog would be skipped.
		{root, "POST", "/webhooks/wh_1/replay", `{"from":"evt_2_0011223344556677"}`, 422},
		{root, "POST", "/webhooks/wh_1/replay", `{"from":"evt_1000_0011223344556677"}`, 422},
	} {
		got := d.call(t, refused.caller, refused.method, refused.path, refused.body)
		if got.problem(t); got.status != refused.status {
			t.Errorf("%s %s %v: %d, want %d: %s", refused.method, refused.path, refused.body,
				got.status, refused.status, got.text)
		}
	}

	rows, err := db.AuditChain(t.Context(), 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		from string
		want int64
	}{
		{rows[0].EventID(), 1},
		{audit.Items[0].At.Format(time.RFC3339Nano), 2},
		{"2000-01-01T00:00:00Z", 0},
	} {
		d.call(t, root, "POST", "/webhooks/wh_1/replay", api.ReplayRequest{From: test.from}).
			into(t, 200, &w)
		if w.Position != test.want || w.State != "active" || w.RetryAt != nil || w.Attempts != 0 ||
			w.StoppedAt != nil {
			t.Errorf("after a replay from %s: %+v, want position %d", test.from, w, test.want)
		}
	}
	d.call(t, root, "POST", "/webhooks/wh_1/test", nil).into(t, 200, &w)
	d.call(t, root, "GET", "/audit?object=wh_1", nil).into(t, 200, &audit)
	if len(audit.Items) != 4 || audit.Items[0].Action != "webhook.test" ||
		audit.Items[1].Action != "webhook.replay" || string(audit.Items[1].After) != `{"after":0}` {
		t.Errorf("%+v", audit.Items)
	}
	d.call(t, root, "POST", "/webhooks/wh_1/replay", nil).into(t, 200, &w)
}

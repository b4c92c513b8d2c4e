package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

func init() {
	caddy.RegisterModule(new(eventRecorder))
	caddy.RegisterModule(new(eventCommand))
}

// An eventRecorder is a handler of Caddy's events app.
type eventRecorder struct{}

var recordedEvents = make(chan caddy.Event, 100)

func (*eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.apikeys_recorder",
		New: func() caddy.Module { return new(eventRecorder) }}
}

func (*eventRecorder) Handle(_ context.Context, e caddy.Event) error {
	recordedEvents <- e
	return nil
}

var _ caddyevents.Handler = (*eventRecorder)(nil)

const webhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// TestWebhooks: a webhook of the configuration gets events, a reload adds and removes webhooks, and
// metrics count the attempts.
func TestWebhooks(t *testing.T) {
	got := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var e struct{ Type string }
		_ = json.Unmarshal(body, &e)
		got <- r.URL.Path + " " + e.Type
	}))
	defer server.Close()
	hook := func(path string) object {
		return object{"url": server.URL + path, "secrets": []string{webhookSecret},
			"allow_private": true, "events": []string{"key.*"}}
	}
	await := func(want string) {
		t.Helper()
		select {
		case text := <-got:
			if text != want {
				t.Fatalf("received %s, want %s", text, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s did not arrive", want)
		}
	}
	g := newInstance(t)
	load := func(hooks ...object) {
		t.Helper()
		g.load(g.config(sqlite(g.path("keys.db"), object{"webhooks": hooks})))
	}
	// A webhook gets the events that follow after the node has added it.
	added := func(n int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			_, text := g.do("GET", "admin", "/apikeys/v1/webhooks", "")
			if strings.Count(strings.ReplaceAll(text, " ", ""), `"state":"active"`) == n {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%d webhooks are not active: %s", n, text)
			}
		}
	}
	load(hook("/a"))
	added(1)
	g.mint(nil)
	await("/a key.created")
	load(hook("/a"), hook("/b"))
	added(2)
	load(hook("/b"))
	added(1)
	g.mint(nil)
	await("/b key.created")
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, metrics := g.do("GET", "admin", "/metrics", "")
		if strings.Contains(metrics,
			`caddy_apikeys_webhook_deliveries_total{result="delivered"} 2`) &&
			strings.Contains(metrics, `caddy_apikeys_webhook_backlog{webhook="wh_`) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the metrics of webhooks are missing")
		}
	}
	for _, bad := range []object{
		{"url": "https://example.com"},
		{"url": "https://example.com", "secrets": []string{"{env.NOT_SET}"}},
		{"url": "http://example.com", "secrets": []string{webhookSecret}},
	} {
		if err := g.tryLoad(g.config(sqlite(g.path("keys.db"),
			object{"webhooks": []object{bad}}))); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

// TestEventsApp: handlers of Caddy's events app get the changes of this process.
func TestEventsApp(t *testing.T) {
	g := newInstance(t)
	g.load(g.config(sqlite(g.path("keys.db"), nil), func(_, apps object) {
		apps["events"] = object{"subscriptions": []object{{"events": []string{"apikeys.key_created"},
			"handlers": []object{{"handler": "apikeys_recorder"}}}}}
	}))
	token := g.mint(object{"name": "for events"})
	select {
	case e := <-recordedEvents:
		if e.Name() != "apikeys.key_created" || e.Data["key_name"] != "for events" ||
			e.Data["namespace"] != "default" || e.Data["actor_id"] != "root" ||
			!strings.Contains(fmt.Sprint(e.Data["json"]), `"type":"key.created"`) {
			t.Errorf("%s %v", e.Name(), e.Data)
		}
		if text := fmt.Sprint(e.Data); strings.Contains(text, token) {
			t.Error("the event has the token")
		}
		if e.Origin() == nil || e.Origin().CaddyModule().ID != appName {
			t.Errorf("the origin is %v", e.Origin())
		}
	case <-time.After(time.Minute):
		t.Fatal("the event did not arrive")
	}
}

// An eventCommand is a handler of Caddy's events app that runs a command. It has the name and syntax
// of github.com/mholt/caddy-events-exec.
type eventCommand struct {
	Command string   `json:"command"`
	Args    []string `json:"args"`
}

func (*eventCommand) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.exec",
		New: func() caddy.Module { return new(eventCommand) }}
}

func (c *eventCommand) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	words := d.RemainingArgs()
	c.Command, c.Args = words[1], words[2:]
	return nil
}

func (c *eventCommand) Handle(ctx context.Context, _ caddy.Event) error {
	placeholders := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	var args []string
	for _, arg := range c.Args {
		args = append(args, placeholders.ReplaceAll(arg, ""))
	}
	return exec.CommandContext(ctx, c.Command, args...).Run()
}

// TestExpiryMail runs the recipe of docs/events.md with a program that keeps the mail.
func TestExpiryMail(t *testing.T) {
	page, err := os.ReadFile("../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, recipe, _ := strings.Cut(string(page), "\n### Mail before a key expires\n")
	block := func(language, begin string) string {
		_, rest, _ := strings.Cut(recipe, "```"+language+"\n"+begin)
		text, _, ok := strings.Cut(rest, "```")
		if !ok {
			t.Fatalf("the recipe has no block that begins with %s", begin)
		}
		return begin + text
	}
	g := newInstance(t)
	write := func(name, text string) {
		if err := os.WriteFile(g.path(name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write("expiry-mail", block("bash", "#!/bin/sh\n"))
	write("sendmail", "#!/bin/sh\n{ echo \"$@\"; cat; } > "+g.path("part")+
		" && mv "+g.path("part")+" "+g.path("mail"))
	t.Setenv("PATH", g.dir+":"+os.Getenv("PATH"))
	// A reminder comes up to 15 s late. Each event of a key has the same placeholders.
	g.loadCaddyfile(strings.NewReplacer("/usr/local/bin", g.dir, "key_expiring", "key_created",
		"{\n\tevents", "{\n\tapi_keys {\n\t\tdatabase sqlite DIR/keys.db\n\t}\n\tevents").
		Replace(block("", "{\n")))
	g.mint(object{"name": "-x $(date) `date`", "expires_at": "2041-01-02T03:04:05Z"})
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		mail, err := os.ReadFile(g.path("mail"))
		if err == nil {
			head, body, _ := strings.Cut(string(mail), "\n\n")
			if !strings.HasPrefix(head, "-i -t\nTo: ") || body !=
				"The key \"-x $(date) `date`\", owned by root, expires at 2041-01-02T03:04:05Z.\n" {
				t.Errorf("%s", mail)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal("no mail was sent")
		}
	}
}

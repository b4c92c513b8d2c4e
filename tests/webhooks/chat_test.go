package webhooks

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func forward(w http.ResponseWriter, r *http.Request, v *standardwebhooks.Webhook, chat string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil || v.Verify(body, r.Header) != nil {
		http.Error(w, "invalid signature", http.StatusUnauthorized)
		return
	}
	var event struct {
		Type string
		Data struct {
			Key   struct{ Name string }
			Actor struct{ Name string }
		}
	}
	if err := json.Unmarshal(body, &event); err != nil {
		http.Error(w, "invalid event", http.StatusBadRequest)
		return
	}
	text, _ := json.Marshal(map[string]string{"text": fmt.Sprintf("%s: %s by %s", event.Type,
		event.Data.Key.Name, event.Data.Actor.Name)})
	answer, err := http.Post(chat, "application/json", bytes.NewReader(text))
	if err != nil {
		http.Error(w, "the chat is unavailable", http.StatusBadGateway)
		return
	}
	answer.Body.Close()
	w.WriteHeader(answer.StatusCode)
}

// TestChat runs the recipe of docs/events.md, whose code is above, with a chat that accepts
// {"text": "…"} like Slack.
func TestChat(t *testing.T) {
	source, err := os.ReadFile("chat_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(source), "\nfunc forward(")
	code, _, _ := strings.Cut(rest, "\n}\n")
	if !strings.Contains(string(page), "\nfunc forward("+code+"\n}\n") {
		t.Error("docs/events.md has other code")
	}

	lines := make(chan string, 10)
	chat := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var message struct{ Text string }
		if err := json.NewDecoder(r.Body).Decode(&message); err != nil {
			t.Error(err)
		}
		lines <- message.Text
	}))
	defer chat.Close()
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	translator := httptest.NewServer(http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { forward(w, r, verifier, chat.URL) }))
	defer translator.Close()
	g := gate.Start(t, gate.Config{Site: "api_key\nrespond 200", APIKeys: options(translator.URL)})
	deliverer(t, []*gate.Gate{g}, 0)
	g.Mint(t, gate.JSON{"name": "ERP", "access": "read_only"})
	select {
	case line := <-lines:
		if line != "key.created: ERP by root" {
			t.Errorf("the chat shows %q", line)
		}
	case <-time.After(time.Minute):
		t.Error("nothing arrived")
	}
	answer, err := http.Post(translator.URL, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("an unsigned request got %d", answer.StatusCode)
	}
}

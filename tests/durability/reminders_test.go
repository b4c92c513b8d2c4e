package durability

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestRemindersAfterKill kills one of two nodes after the other while they add reminders. Each
// must be added once for the deployment.
func TestRemindersAfterKill(t *testing.T) {
	t.Parallel()
	nodes := two(t, gate.Config{APIKeys: "remind 1h\nlease 5s\n"})
	keys := 0
	mint := func(on, n int) { // a reminder is due in 5 s, and another one each second after that
		for i := range n {
			nodes[on].Mint(t, gate.JSON{"name": fmt.Sprint(keys), "access": "read_only",
				"expires_at": time.Now().Add(time.Hour + time.Duration(i+5)*time.Second).UTC()})
			keys++
		}
	}
	// awaitGiven waits until the audit log of a node has n reminders.
	awaitGiven := func(by, n int) {
		t.Helper()
		given := 0
		for end := time.Now().Add(2 * time.Minute); given < n; time.Sleep(time.Second) {
			rows, _ := nodes[by].Call(t, "GET", "/audit?action=key.expiring&limit=100",
				nil).JSON()["items"].([]any)
			found := make(map[any]bool)
			for _, row := range rows {
				key := row.(gate.JSON)["object"]
				if found[key] {
					t.Errorf("key %v was reminded of twice", key)
				}
				found[key] = true
			}
			if given = len(found); given < n && time.Now().After(end) {
				t.Fatalf("%d of %d reminders were added", given, n)
			}
		}
	}
	for victim := range 2 { // the older node adds reminders
		other := 1 - victim
		before := keys
		mint(other, 6)
		awaitGiven(other, before+1)
		nodes[victim].Kill()
		mint(other, 2)
		awaitGiven(other, keys)
		nodes[victim].Start(t)
	}
	mint(0, 1)
	awaitGiven(1, keys)
}

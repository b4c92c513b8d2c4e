package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// TestRememberedRevokes checks that the newest revokes are remembered, and that long reasons are
// cut.
func TestRememberedRevokes(t *testing.T) {
	var r revokes
	id := func(i int) string { return fmt.Sprint("key", i) }
	note := func(ids ...string) {
		r.note(ids, Commit{history: history{1, 0}}, strings.Repeat("é", 1000))
	}
	note("twice")
	note("first")
	note("twice")
	for i := range rememberedRevokes - 3 {
		note(id(i))
	}
	note("second", "third") // replace the older entry of "twice", and "first"
	lost := r.lost(history{2, 0})
	if _, known := lost["twice"]; !known {
		t.Error("a key that was noted again is forgotten with its older entry")
	}
	if _, known := lost["first"]; known || len(lost) != rememberedRevokes {
		t.Errorf("%d revokes are remembered, want the newest %d", len(lost), rememberedRevokes)
	}
	reason := lost["second"]
	if len(reason) > rememberedReason || strings.Trim(reason, "é") != "" {
		t.Errorf("reason %q", reason)
	}
	r.reasserted([]string{"twice"}, history{2, 0})
	if len(r.lost(history{2, 0})) != rememberedRevokes-1 {
		t.Error("a repeated revoke is repeated again")
	}
	if rememberedRevokes < 65536 {
		t.Error("docs/operations.md promises 65,536")
	}
}

// TestCommitTimes checks the times by which revisions were committed, as far as a node knows them.
func TestCommitTimes(t *testing.T) {
	var c commitTimes
	start := time.Now()
	at := func(seconds float64) time.Time {
		return start.Add(time.Duration(seconds * float64(time.Second)))
	}
	now := at(1e6)
	want := func(r keystore.Revision, want time.Time) {
		t.Helper()
		if got := c.before(r, now); !got.Equal(want) {
			t.Errorf("revision %d: %v, want %v", r, got.Sub(start), want.Sub(start))
		}
	}
	want(1, now)
	c.seen(1, at(0))
	c.seen(2, at(0.5)) // too soon to be remembered
	c.seen(5, at(1))
	c.seen(5, at(3)) // the same revision
	c.seen(9, at(4))
	for r, seconds := range map[keystore.Revision]float64{0: 0, 1: 0, 2: 1, 5: 1, 6: 4, 9: 4} {
		want(r, at(seconds))
	}
	want(10, now)
	for i := range rememberedCommits {
		c.seen(keystore.Revision(10+i), at(float64(10+i)))
	}
	want(1, at(10)) // later than its commit, which was forgotten
	want(10, at(10))
	want(11, at(11))
	want(rememberedCommits+9, at(rememberedCommits+9))
	want(rememberedCommits+10, now)
	if n := len(c.times); n != rememberedCommits {
		t.Errorf("%d times are remembered", n)
	}
	c.forget()
	want(10, now)
}

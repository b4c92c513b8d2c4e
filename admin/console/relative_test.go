package console

import (
	"testing"
	"time"
)

// TestRelativeTimes checks that relative times are rounded as people would.
func TestRelativeTimes(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	const minute = time.Minute
	for away, want := range map[time.Duration]string{
		0: "now", 400 * time.Millisecond: "now", time.Second: "in 1 second",
		-59 * time.Second: "59 seconds ago", 90 * time.Second: "in 2 minutes",
		-59*minute - 40*time.Second: "1 hour ago", 23 * time.Hour: "in 23 hours",
		3*day - minute: "in 3 days", -45 * day: "45 days ago", 90*day - minute: "in 90 days",
		130 * day: "in 4 months", -400 * day: "13 months ago", 730 * day: "in 2 years",
		37 * 365 * day: "in 37 years", 50 * 365 * day: "2076-11-17",
	} {
		if got := relative(now.Add(away), now); got != want {
			t.Errorf("%v: %q, want %q", away, got, want)
		}
	}
}

// TestDurationWords checks that durations are shown in words.
func TestDurationWords(t *testing.T) {
	for text, want := range map[string]string{
		"90d": "90 days", "24h": "1 day", "36h": "1 day 12 hours", "1m": "1 minute",
		"90s": "1 minute 30 seconds", "1s": "1 second", "1.5s": "1.5s", "soon": "soon", "": "",
	} {
		if got := durationWords(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestBreakable checks that addresses can be wrapped, and that names are escaped.
func TestBreakable(t *testing.T) {
	for text, want := range map[string]string{
		"ada.l@big-bank.example": "ada.<wbr>l@<wbr>big-<wbr>bank.<wbr>example",
		"https://big.example/in": "https://<wbr>big.<wbr>example/<wbr>in",
		"Web-shop v1.2":          "Web-shop v1.2",
		"<b>@":                   "&lt;b&gt;@<wbr>",
	} {
		if got := string(breakable(text)); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

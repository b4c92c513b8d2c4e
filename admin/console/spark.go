package console

import (
	"fmt"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// A spark is a small chart of the requests with one key, beside its numbers.
type spark struct {
	Width            int    // in pixels
	Allowed, Refused string // paths of bars
	Short, Text      string // the numbers as shown, and in words
}

const (
	sparkHeight = 16
	sparkShare  = 4 // pixels of a bucket
)

// newSpark returns the spark of usage. during describes its time.
func newSpark(u *manage.UsageSeries, during string) *spark {
	s := &spark{Width: sparkShare * len(u.Buckets), Text: tallyWords(&u.Total) + " in " + during}
	switch allowed, refused := u.Total.Allowed(), u.Total.Denied(); {
	case refused > 0:
		// Each number stays on one line with its noun.
		s.Short = compact(float64(allowed)) + "\u00a0allowed, " + compact(float64(refused)) + "\u00a0refused"
	case allowed == 1:
		s.Short = "1\u00a0request"
	default:
		s.Short = compact(float64(allowed)) + "\u00a0requests"
	}
	var peak int64 = 1
	for i := range u.Buckets {
		peak = max(peak, u.Buckets[i].Requests)
	}
	height := func(n int64) int {
		if n <= 0 {
			return 0
		}
		return max(minPart, int(float64(n)/float64(peak)*(sparkHeight-minPart)))
	}
	var allowed, refused strings.Builder
	for i := range u.Buckets {
		x := i * sparkShare
		below, above := height(u.Buckets[i].Allowed()), height(u.Buckets[i].Denied())
		if below > 0 {
			fmt.Fprintf(&allowed, "M%d %dh3v%dh-3z", x, sparkHeight-below, below)
		}
		if above > 0 { // a frame, whose line is one pixel wide
			fmt.Fprintf(&refused, "M%d.5 %d.5h2v%dh-2z", x, sparkHeight-below-above, above-1)
		}
	}
	s.Allowed, s.Refused = allowed.String(), refused.String()
	return s
}

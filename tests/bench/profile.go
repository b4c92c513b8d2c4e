package bench

import (
	"regexp"

	"github.com/google/pprof/profile"
)

// A place is a group of functions in which CPU time is spent.
type place struct {
	name      string
	functions *regexp.Regexp
}

const elsewhere = "everything else: connections, HTTP, system calls, the scheduler"

// places are the groups of a profile. A sample belongs to the innermost function that has a place,
// so the time of a function includes its callees, except those with a place of their own. The log
// encoder has none: it works for the logger of reverse_proxy or for the access log.
var places = []place{
	{"`api_key` and its store", regexp.MustCompile(`caddy-apikeys/(caddymodule\.|keystore)`)},
	{"the logger of `reverse_proxy`, for a debug line", regexp.MustCompile(`zap\.\(\*Logger\)\.With$`)},
	{"header maps: cloned, copied, sorted and written", regexp.MustCompile(
		`net/http\.(Header\.|cloneOrMakeHeaders|\(\*Request\)\.Clone)|\.copyHeader$`)},
	{"the rest of `reverse_proxy`", regexp.MustCompile(`caddyhttp/reverseproxy\.`)},
	{"the access log", regexp.MustCompile(`caddyhttp\.\(\*Server\)\.logRequest`)},
	{"garbage collection", regexp.MustCompile(
		`^runtime\.(gcBgMarkWorker|gcAssistAlloc|gcStart|gcMark|bgsweep|bgscavenge)`)},
}

// wrapper matches our pass-through methods. What they call counts for their caller.
var wrapper = regexp.MustCompile(`caddymodule\.\(\*counting`)

// placeOf returns the place of a stack, which begins with the function that was running.
func placeOf(stack []string) string {
	for _, function := range stack {
		if wrapper.MatchString(function) {
			continue
		}
		for _, p := range places {
			if p.functions.MatchString(function) {
				return p.name
			}
		}
	}
	return elsewhere
}

// samplesByPlace counts the samples of a CPU profile.
func samplesByPlace(p *profile.Profile) map[string]float64 {
	counts := map[string]float64{}
	for _, sample := range p.Sample {
		var stack []string
		for _, location := range sample.Location {
			for _, line := range location.Line {
				stack = append(stack, line.Function.Name)
			}
		}
		counts[placeOf(stack)] += float64(sample.Value[0])
	}
	return counts
}

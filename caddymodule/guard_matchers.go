package caddymodule

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// impliesAll reports whether requests that match all of within match all of wanted. It may report
// false although they do.
func impliesAll(within, wanted []caddyhttp.MatcherSets) bool {
	// A request matches all of within, so lists with a single set can be joined to one set.
	var together caddyhttp.MatcherSet
	for _, sets := range within {
		if len(sets) == 1 {
			together = append(together, sets[0]...)
		}
	}
	all := append(slices.Clone(within), caddyhttp.MatcherSets{together})
	return !slices.ContainsFunc(wanted, func(sets caddyhttp.MatcherSets) bool {
		return !slices.ContainsFunc(all,
			func(given caddyhttp.MatcherSets) bool { return setsImply(given, sets) })
	})
}

// setsImply reports whether each set of given has all matchers of a set of wanted.
func setsImply(given, wanted caddyhttp.MatcherSets) bool {
	return !slices.ContainsFunc(given, func(a caddyhttp.MatcherSet) bool {
		return !slices.ContainsFunc(wanted, func(b caddyhttp.MatcherSet) bool {
			return !slices.ContainsFunc(b, func(m any) bool {
				return !slices.ContainsFunc(a, func(n any) bool { return matcherImplies(n, m) })
			})
		})
	})
}

// matcherImplies reports whether requests that match n match m.
func matcherImplies(n, m any) bool {
	given, ok := n.(*caddyhttp.MatchPath)
	switch wanted := m.(type) {
	case *caddyhttp.MatchPath:
		return ok && !slices.ContainsFunc(*given, func(path string) bool {
			return !slices.ContainsFunc(*wanted,
				func(pattern string) bool { return pathCovers(pattern, path) })
		})
	case *caddyhttp.MatchNot:
		if ok && !slices.ContainsFunc(wanted.MatcherSets, func(set caddyhttp.MatcherSet) bool {
			return !slices.ContainsFunc(set, func(m any) bool { return disjoint(*given, m) })
		}) {
			return true
		}
	}
	return matcherText(n) == matcherText(m)
}

// exclude reports whether no request matches both a and b. It may report false although none does.
func exclude(a, b caddyhttp.MatcherSets) bool {
	not := func(sets caddyhttp.MatcherSets) caddyhttp.MatcherSets {
		return caddyhttp.MatcherSets{{&caddyhttp.MatchNot{MatcherSets: sets}}}
	}
	return len(a) > 0 && len(b) > 0 && (setsImply(a, not(b)) || setsImply(b, not(a)))
}

// disjoint reports whether m is a path matcher that matches none of the paths that given matches.
func disjoint(given caddyhttp.MatchPath, m any) bool {
	other, ok := m.(*caddyhttp.MatchPath)
	return ok && !slices.ContainsFunc(given, func(a string) bool {
		a = fixedPath(a)
		return slices.ContainsFunc(*other, func(b string) bool {
			b = fixedPath(b)
			return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
		})
	})
}

// fixedPath returns the common beginning of all paths that a pattern matches, in lower case.
func fixedPath(pattern string) string {
	if i := strings.IndexAny(pattern, `*?[{%\`); i >= 0 {
		pattern = pattern[:i]
	}
	return strings.ToLower(pattern)
}

// pathCovers reports whether a path pattern matches all that another one matches.
func pathCovers(pattern, other string) bool {
	pattern, other = strings.ToLower(pattern), strings.ToLower(other)
	prefix, open := strings.CutSuffix(pattern, "*")
	return pattern == other ||
		open && !strings.ContainsAny(prefix, "*{") && strings.HasPrefix(other, prefix)
}

// complementary reports whether one of the lists matches all that another one does not.
func complementary(lists [][]caddyhttp.MatcherSets) bool {
	for _, list := range lists {
		if len(list) != 1 || len(list[0]) != 1 || len(list[0][0]) != 1 {
			continue
		}
		not, ok := list[0][0][0].(*caddyhttp.MatchNot)
		if ok && slices.ContainsFunc(lists, func(other []caddyhttp.MatcherSets) bool {
			return len(other) == 1 && setsText(other[0]) == setsText(not.MatcherSets)
		}) {
			return true
		}
	}
	return false
}

func setsText(sets caddyhttp.MatcherSets) string {
	var texts []string
	for _, set := range sets {
		var text []string
		for _, m := range set {
			text = append(text, matcherText(m))
		}
		slices.Sort(text)
		texts = append(texts, strings.Join(text, "&"))
	}
	return strings.Join(texts, "|")
}

// matcherText returns a text that is the same for matchers with the same configuration.
func matcherText(m any) string {
	if not, ok := m.(*caddyhttp.MatchNot); ok { // whose JSON is lost when it is provisioned
		return "not(" + setsText(not.MatcherSets) + ")"
	}
	config, err := json.Marshal(m)
	if err != nil {
		return fmt.Sprintf("%p", m)
	}
	return fmt.Sprintf("%T%s", m, config)
}

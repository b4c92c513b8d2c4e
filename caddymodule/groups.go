package caddymodule

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// groupNames returns the names in the value of a placeholder for groups: a list of strings, or a
// text with a JSON array of strings, or with names that commas separate or, if there is no comma,
// spaces. Any other value is one name. A list or a JSON text that contains something else has no
// names.
func groupNames(value any) (names []string) {
	switch value := value.(type) {
	case []string:
		names = slices.Clone(value)
	case []any:
		for _, one := range value {
			name, ok := one.(string)
			if !ok {
				return nil
			}
			names = append(names, name)
		}
	case string:
		names = namesIn(strings.TrimSpace(value))
	default:
		names = []string{caddy.ToString(value)}
	}
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

func namesIn(text string) (names []string) {
	switch {
	case strings.HasPrefix(text, "["):
		if json.Unmarshal([]byte(text), &names) != nil {
			return nil
		}
		return names
	case strings.Contains(text, ","):
		return strings.Split(text, ",")
	}
	return strings.Fields(text)
}

package caddymodule

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// groupNames returns the names in the value of a placeholder for groups: a list of strings, or a
// text with a JSON array of strings, or with names that commas separate or, if there is no comma,
// spaces. A text that looks like JSON and is invalid has no names.
func groupNames(value any) (names []string) {
	if list, ok := value.([]string); ok {
		names = slices.Clone(list)
	} else if text := strings.TrimSpace(caddy.ToString(value)); strings.HasPrefix(text, "[") {
		if json.Unmarshal([]byte(text), &names) != nil {
			return nil
		}
	} else if strings.Contains(text, ",") {
		names = strings.Split(text, ",")
	} else {
		names = strings.Fields(text)
	}
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

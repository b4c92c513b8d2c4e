package caddymodule

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// expand replaces the placeholders of an option when the configuration is loaded. The error names
// the placeholder, never a value.
func expand(option, value string) (string, error) {
	expanded, err := caddy.NewReplacer().ReplaceOrErr(value, true, true)
	if err != nil {
		return "", fmt.Errorf("%s: %w", option, err)
	}
	return expanded, nil
}

// expandURL is expand for the URL of a database or cache. Its password may contain braces, so the
// error does not repeat a placeholder that is unknown.
func expandURL(option, value string) (string, error) {
	expanded, err := expand(option, value)
	if err != nil && !strings.Contains(err.Error(), "{env.") &&
		!strings.Contains(err.Error(), "{file.") {
		return "", errors.New(option +
			": the URL contains an unknown placeholder: use {env.NAME} or {file.PATH}, and write " +
			"a brace in a password as %7B")
	}
	return expanded, err
}

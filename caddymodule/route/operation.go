package route

import (
	"fmt"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Operation gives one call a permission of its own.
type Operation struct {
	// The permission, as `RESOURCE:OPERATION`. Besides it, the class on the resource allows the
	// call, and what covers that.
	Permission string `json:"permission"`
	// `read` or `write`, whatever the method says.
	Class string `json:"class"`
	// The method.
	Method string `json:"method"`
	// The path pattern.
	Path string `json:"path"`
}

// CheckResource checks a resource that the configuration names. The error begins with the option.
func CheckResource(option, resource string) error {
	switch {
	case !keystore.ValidResource(resource):
		return fmt.Errorf("%s: %q is no resource: it takes a-z, 0-9, '.', '_' and '-', beginning "+
			"with a letter or digit", option, redact.Argument(resource))
	case keystore.IsAdminResource(resource):
		return fmt.Errorf("%s: %q is for managing keys: choose another name", option, resource)
	}
	return nil
}

// ParseClass returns the class that a word of an option names. The error begins with the option.
func ParseClass(option, word string) (keystore.Class, error) {
	switch word {
	case "read":
		return keystore.Read, nil
	case "write":
		return keystore.Write, nil
	}
	words := "read or write"
	if option == "methods" {
		words = "read, write or none"
	}
	return 0, fmt.Errorf("%s: unknown value %q: must be %s", option, redact.Argument(word), words)
}

// Incomplete is an error that a later line of the Caddyfile may fix.
type Incomplete struct{ error }

// unmappedMethod says that what is declared for a method could never be called.
func unmappedMethod(what, method, class string) error {
	return Incomplete{fmt.Errorf("%s: the method %q is refused everywhere: add `methods %s %s`, "+
		"or correct it (case matters)", redact.Argument(what), redact.Argument(method),
		redact.Argument(class), redact.Argument(method))}
}

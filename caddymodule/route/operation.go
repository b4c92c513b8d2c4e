package route

import (
	"fmt"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// Operation gives one call its own permission and cost.
type Operation struct {
	// The permission, as `RESOURCE:OPERATION`. The class on the resource also allows the call, as
	// does every permission that covers it.
	Permission string `json:"permission"`
	// `read` or `write`. It overrides the class of the method.
	Class string `json:"class"`
	// The method.
	Method string `json:"method"`
	// The path pattern.
	Path string `json:"path"`
	// The number of units of a quota that a call costs, 1 to 1000000. Default is 1.
	Cost int64 `json:"cost,omitempty"`
}

// CheckResource returns an error unless the configuration may use resource. The error begins with
// option.
func CheckResource(option, resource string) error {
	switch {
	case !keystore.ValidResource(resource):
		return fmt.Errorf("%s: %q is not a resource: must consist of a-z, 0-9, '.', '_' and '-' "+
			"and begin with a letter or digit", option, redact.Argument(resource))
	case keystore.IsAdminResource(resource):
		return fmt.Errorf("%s: %q is reserved for managing keys: choose another name", option,
			resource)
	}
	return nil
}

// ParseClass returns the class named by the value of an option. The error begins with option.
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

// unmappedMethod returns the error for a subject that is declared for a method without a class: it
// could never be called.
func unmappedMethod(subject, method, class string) error {
	return Incomplete{fmt.Errorf("%s: the method %q is refused everywhere: add `methods %s %s`, "+
		"or correct the method (case matters)", redact.Argument(subject), redact.Argument(method),
		redact.Argument(class), redact.Argument(method))}
}

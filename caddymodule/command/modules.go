package command

import "encoding/json"

// Modules gives the command line access to the Caddy modules.
type Modules struct {
	// Inspect reads a configuration of Caddy, as its admin endpoint returns it.
	Inspect func(config json.RawMessage) (Config, error)
	// PrefixAdvice says how to configure token prefixes that are not accepted.
	PrefixAdvice func(accepted, refused []string) string
	// PublicAdvice says how to let requests for api_keys_admin past an api_key.
	PublicAdvice string
	// Guard finds mistakes in the routes of a configuration, and their lines if the file is the
	// Caddyfile that it comes from. Without a configuration it looks into the file.
	Guard func(config json.RawMessage, file ConfigFile) ([]Danger, error)
}

// A Danger is a mistake in a configuration. Without a Problem, it is not one, but tells doctor the
// place in the configuration to name in a finding of the Check.
type Danger struct {
	Check   string
	Where   string // FILE:LINE of the Caddyfile, or a path in the configuration
	Problem string
	Advice  string
	Certain bool // whether it is certainly a mistake
}

// Config is the part of a configuration of Caddy that doctor checks.
type Config struct {
	Handlers int // number of api_key handlers
	// LeftOut are the operations that handlers leave out of their OpenAPI documents, each with the
	// reason: the first hundred of them.
	LeftOut []string
	Unread  error // why LeftOut is incomplete

	AdminSites int      // number of api_keys_admin handlers
	Refused    []string // addresses where an api_key refuses the requests for api_keys_admin

	ExposedSources []string // credential sources that Caddy's own log encoders do not redact
	UnredactedLogs []string // logs of HTTP requests that do not use `format api_keys`

	Namespaces []string // the namespaces that handlers name

	SharedRates bool // whether processes share rate limits in Redis
}

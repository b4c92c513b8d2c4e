package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/command"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func init() {
	command.Register(command.Modules{Inspect: inspect, PrefixAdvice: prefixAdvice,
		PublicAdvice: publicAdvice, Guard: guardRunning})
}

// inspect returns the parts of a Caddy configuration that `caddy apikeys doctor` checks. It
// provisions nothing, so the configuration may be that of another machine.
func inspect(config json.RawMessage) (command.Config, error) {
	i, err := readConfig(config)
	if err != nil {
		return command.Config{}, err
	}
	return command.Config{
		Handlers: len(i.handlers), LeftOut: firstOf(i.leftOut), Unread: i.unread,
		AdminSites: i.adminSites, Refused: i.refused,
		ExposedSources: i.exposedSources(), UnredactedLogs: i.unredactedLogs(),
		Namespaces: i.namespaces(), SharedRates: i.redis,
	}, nil
}

// firstOf returns the first 100 entries of a list and the number of the others, for a message.
func firstOf(list []string) []string {
	const limit = 100
	if len(list) <= limit {
		return list
	}
	return append(list[:limit:limit], fmt.Sprintf("and %d more", len(list)-limit))
}

// An inspection is the part of a configuration that inspect has read.
type inspection struct {
	handlers   []inspectedHandler
	leftOut    []string // operations of OpenAPI documents that skip_unsupported leaves out
	unread     error    // from compiling a handler with such a document
	logs       map[string]logConfig
	adminSites int      // number of api_keys_admin handlers
	redis      bool     // whether the app has a shared cache
	refused    []string // addresses where api_key refuses the requests for api_keys_admin
}

// An inspectedHandler is the part of an api_key handler's configuration that inspect reads.
type inspectedHandler struct {
	From      []CredentialSource `json:"from"`
	Namespace string             `json:"namespace"`
	OpenAPI   []route.OpenAPI    `json:"openapi"`
}

type logConfig struct {
	Writer  struct{ Output string } `json:"writer"`
	Encoder json.RawMessage         `json:"encoder"`
	Include []string                `json:"include"`
	Exclude []string                `json:"exclude"`
}

func readConfig(raw json.RawMessage) (*inspection, error) {
	var top struct {
		Apps    map[string]json.RawMessage `json:"apps"`
		Logging struct {
			Logs map[string]logConfig `json:"logs"`
		} `json:"logging"`
	}
	if err := json.Unmarshal(raw, &top); err != nil {
		return nil, err
	}
	c := &inspection{logs: top.Logging.Logs}
	if _, ok := c.logs["default"]; !ok { // Caddy creates one
		if c.logs == nil {
			c.logs = make(map[string]logConfig)
		}
		c.logs["default"] = logConfig{}
	}
	if err := c.readSites(top.Apps["http"]); err != nil {
		return c, err
	}
	var app struct{ Cache *struct{} }
	if raw := top.Apps["api_keys"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &app); err != nil {
			return c, err
		}
	}
	c.redis = app.Cache != nil
	err := c.collect(top.Apps["http"])
	return c, err
}

// readSites counts the api_keys_admin handlers and finds those whose requests an api_key refuses.
func (c *inspection) readSites(raw json.RawMessage) error {
	d := decoder{paths: make(map[any]string)}
	servers, err := d.servers(raw)
	if err != nil {
		return err
	}
	c.adminSites = len(d.sites)
	for _, server := range servers {
		for _, site := range d.sites {
			if found, refuses := site.refusedIn(server.Routes, false); found && refuses {
				c.refused = append(c.refused, server.Listen...)
			}
		}
	}
	slices.Sort(c.refused)
	c.refused = slices.Compact(c.refused)
	return nil
}

// collect finds api_key handlers at any depth: in subroutes, named routes, error routes and the
// handlers of other plugins.
func (c *inspection) collect(raw json.RawMessage) error {
	var object map[string]json.RawMessage
	var list []json.RawMessage
	switch {
	case len(raw) == 0:
		return nil
	case raw[0] == '{':
		if err := json.Unmarshal(raw, &object); err != nil {
			return err
		}
		if string(object["handler"]) == `"api_key"` {
			var h inspectedHandler
			if err := json.Unmarshal(raw, &h); err != nil {
				return err
			}
			c.handlers = append(c.handlers, h)
			if slices.ContainsFunc(h.OpenAPI,
				func(o route.OpenAPI) bool { return o.SkipUnsupported }) {
				if err := c.readDocuments(raw); err != nil {
					c.unread = err
				}
			}
		}
		list = slices.Collect(maps.Values(object))
	case raw[0] == '[':
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
	}
	for _, inner := range list {
		if err := c.collect(inner); err != nil {
			return err
		}
	}
	return nil
}

// readDocuments finds the operations that a handler leaves out of its OpenAPI documents.
func (c *inspection) readDocuments(raw json.RawMessage) error {
	var h Handler
	if err := json.Unmarshal(raw, &h); err != nil {
		return err
	}
	rules, err := h.compile()
	if err == nil {
		c.leftOut = append(c.leftOut, rules.table.LeftOut...)
	}
	return err
}

// exposedSources returns the credential sources that Caddy's own log encoders do not redact.
func (c *inspection) exposedSources() []string {
	seen := make(map[string]bool)
	for _, h := range c.handlers {
		compiled, err := compileSources(h.From)
		if err != nil {
			continue // cannot happen: Caddy runs with this configuration
		}
		for _, s := range compiled.declared() {
			if !s.HiddenByCaddy() {
				seen[string(s.Kind)+" "+redact.Argument(s.Name)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// unredactedLogs returns the logs that receive entries of the HTTP app and do not use
// [redact.LogEncoder].
func (c *inspection) unredactedLogs() []string {
	var open []string
	for name, l := range c.logs {
		if l.Writer.Output != "discard" && l.receivesHTTP() && !encoderRedacts(l.Encoder) {
			open = append(open, name)
		}
	}
	slices.Sort(open)
	return open
}

// receivesHTTP reports whether the log receives entries of any logger of the HTTP app.
func (l logConfig) receivesHTTP() bool {
	excluded := func(logger string) bool {
		return slices.ContainsFunc(l.Exclude,
			func(e string) bool { return e == logger || strings.HasPrefix(logger, e+".") })
	}
	if len(l.Include) == 0 {
		return !excluded("http")
	}
	return slices.ContainsFunc(l.Include, func(i string) bool {
		return (i == "http" || strings.HasPrefix(i, "http.")) && !excluded(i)
	})
}

// encoderRedacts reports whether an encoder is [redact.LogEncoder] or wraps it.
func encoderRedacts(raw json.RawMessage) bool {
	var e struct {
		Format string          `json:"format"`
		Wrap   json.RawMessage `json:"wrap"`
	}
	if json.Unmarshal(raw, &e) != nil {
		return false // raw is empty inside an encoder that wraps none
	}
	return e.Format == "api_keys" || encoderRedacts(e.Wrap)
}

// namespaces returns the namespaces that the configuration names, except in placeholders.
func (c *inspection) namespaces() []string {
	seen := make(map[string]bool)
	for _, h := range c.handlers {
		switch {
		case h.Namespace == "": // also for paths that no namespace_path matches
			seen[keystore.DefaultNamespace] = true
		case h.Namespace != keystore.HomeNamespace && !strings.Contains(h.Namespace, "{"):
			seen[h.Namespace] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

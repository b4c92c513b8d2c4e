package caddymodule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// DeriveConfig says which derived tokens are accepted. The holder of a key creates them
// without the server.
type DeriveConfig struct {
	// Whether to refuse all derived tokens. It cannot be combined with `max`. Default is false.
	Off bool `json:"off,omitempty"`

	// How far in the future a derived token may expire. Between 1s and 8760h (365 days). Default is
	// 24h.
	Max caddy.Duration `json:"max,omitempty"`
}

const (
	minDerivedLife = time.Second
	maxDerivedLife = 365 * 24 * time.Hour
)

// settings checks the configuration.
func (c *DeriveConfig) settings() (node.DeriveSettings, error) {
	s := node.DeriveSettings{Off: c.Off, Max: time.Duration(c.Max)}
	switch {
	case c.Off && c.Max != 0:
		return s, errors.New("derive: off cannot be combined with max")
	case c.Max != 0 && (s.Max < minDerivedLife || s.Max > maxDerivedLife):
		return s, fmt.Errorf("derive max %s: must be a duration between %s and %s", s.Max,
			minDerivedLife, maxDerivedLife)
	}
	return s, nil
}

// parseDerive parses the option.
func parseDerive(a *App, d *caddyfile.Dispenser, args []string) error {
	a.Derive = new(DeriveConfig)
	if len(args) == 1 && args[0] == "off" {
		a.Derive.Off = true
		return nil
	}
	ok := len(args) == 2 && args[0] == "max"
	if ok {
		life, err := caddy.ParseDuration(args[1])
		a.Derive.Max = caddy.Duration(life)
		_, wrong := a.Derive.settings()
		ok = err == nil && life != 0 && wrong == nil
	}
	if !ok {
		return d.Errf("derive %s: must be `derive off`, or `derive max` with a duration between "+
			"%s and %s, such as 24h", redact.Argument(strings.Join(args, " ")), minDerivedLife,
			maxDerivedLife)
	}
	return nil
}

package command

import (
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestVersionOfARelease(t *testing.T) {
	before := caddy.CustomVersion
	t.Cleanup(func() { caddy.CustomVersion = before })
	caddy.CustomVersion = "caddy-apikeys/v1.2.3"
	if plugin, ours := versions(); plugin != "v1.2.3" || ours == "" {
		t.Error(plugin, ours)
	}
}

// Package apikeys puts API keys into Caddy: build Caddy with this import, for example by xcaddy.
package apikeys

import _ "github.com/caddy-apikeys/caddy-apikeys/caddymodule" // registers the modules

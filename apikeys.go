// Package apikeys adds API keys to Caddy. Build Caddy with this package, for example with xcaddy.
package apikeys

import _ "github.com/caddy-apikeys/caddy-apikeys/caddymodule" // registers the modules

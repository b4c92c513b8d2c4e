package command_test

import _ "github.com/caddy-apikeys/caddy-apikeys/caddymodule" // registers the command

package caddymodule

import (
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// tryAdapt adapts a Caddyfile. A file that `caddy fmt` would change is an error.
func tryAdapt(text string) ([]byte, error) {
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text),
		map[string]any{"filename": "Caddyfile"})
	if err == nil && len(warnings) > 0 {
		return nil, errors.New(warnings[0].Message)
	}
	return config, err
}

func TestExampleIsValid(t *testing.T) {
	caddyfile, err := os.ReadFile("../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	// Caddy warns about a file that `caddy fmt` would change.
	encoded, err := tryAdapt(string(caddyfile))
	if err != nil {
		t.Fatal(err)
	}
	var config caddy.Config
	if err := json.Unmarshal(encoded, &config); err != nil {
		t.Fatal(err)
	}
	config.Admin.Disabled = true
	if err := caddy.Validate(&config); err != nil {
		t.Error(err)
	}
}

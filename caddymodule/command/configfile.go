package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// A ConfigFile is the configuration of a Caddy on this machine. It has no Name if there is none.
type ConfigFile struct {
	Name    string
	Body    []byte
	Adapter string // empty for JSON
}

// configFile reads the configuration that --config names, or the Caddyfile of the working
// directory.
func (c *cli) configFile() (ConfigFile, error) {
	if c.config == "" && c.adapter != "" {
		return ConfigFile{}, errors.New("--adapter requires --config")
	}
	f, err := ReadConfig(c.config, c.adapter)
	if err != nil {
		err = fmt.Errorf("%w; or give --address", err)
	}
	return f, err
}

// ReadConfig reads a configuration as `caddy run --config NAME --adapter ADAPTER` does. Both may be
// empty.
func ReadConfig(name, adapter string) (ConfigFile, error) {
	f := ConfigFile{Name: name, Adapter: adapter}
	if name == "" {
		f.Name = "Caddyfile"
	}
	var err error
	f.Body, err = os.ReadFile(f.Name)
	if errors.Is(err, fs.ErrNotExist) && name == "" {
		return ConfigFile{}, nil
	}
	if err != nil {
		return ConfigFile{}, fmt.Errorf("reading the configuration: %w", err)
	}
	base := strings.ToLower(filepath.Base(f.Name))
	if adapter == "" && filepath.Ext(base) != ".json" &&
		(strings.HasPrefix(base, "caddyfile") || filepath.Ext(base) == ".caddyfile") {
		f.Adapter = "caddyfile"
	}
	return f, nil
}

// JSON returns the configuration as JSON.
func (f ConfigFile) JSON() ([]byte, error) {
	if f.Adapter == "" {
		return f.Body, nil
	}
	a := caddyconfig.GetAdapter(f.Adapter)
	if a == nil {
		return nil, fmt.Errorf("unknown config adapter %q", f.Adapter)
	}
	config, _, err := a.Adapt(f.Body, map[string]any{"filename": f.Name})
	if err != nil {
		return nil, fmt.Errorf("adapting %s: %w", f.Name, err)
	}
	return config, nil
}

// admin returns the settings of the admin endpoint. Of a Caddyfile it reads only the global options,
// so that the address is found even if something else in the file is wrong.
func (f ConfigFile) admin() (caddy.AdminConfig, error) {
	switch f.Adapter {
	case "caddyfile":
		return adminOption(f.Name, f.Body)
	case "":
		if f.Name == "" {
			return caddy.AdminConfig{}, nil
		}
	}
	config, err := f.JSON()
	var top struct {
		Admin caddy.AdminConfig `json:"admin"`
	}
	if err == nil {
		err = json.Unmarshal(config, &top)
	}
	if err != nil {
		err = fmt.Errorf("looking for the admin endpoint in the configuration: %w", err)
	}
	return top.Admin, err
}

// adminOption finds the global option `admin` in a Caddyfile. It follows imports among the global
// options if the whole file can be parsed.
func adminOption(name string, body []byte) (admin caddy.AdminConfig, err error) {
	var options []caddyfile.Token
	if blocks, err := caddyfile.Parse(name, body); err == nil {
		if len(blocks) > 0 && len(blocks[0].Keys) == 0 {
			for _, segment := range blocks[0].Segments {
				options = append(options, segment...)
			}
		}
	} else {
		tokens, err := caddyfile.Tokenize(body, name)
		if err != nil {
			return admin, err
		}
		if len(tokens) > 0 && tokens[0].Text == "{" {
			options = tokens[1:]
		}
	}
	depth := 0
	for i, token := range options {
		switch {
		case token.Text == "{":
			depth++
		case token.Text == "}":
			if depth--; depth < 0 {
				return admin, nil // the end of the global options
			}
		case depth == 0 && token.Text == "admin" && (i == 0 || options[i-1].Line < token.Line):
			if i+1 == len(options) || options[i+1].Line != token.Line || options[i+1].Text == "{" {
				return admin, nil
			}
			admin.Listen = expandEnvironment(options[i+1].Text)
			if admin.Listen == "off" {
				return caddy.AdminConfig{Disabled: true}, nil
			}
			return admin, nil
		}
	}
	return admin, nil
}

var environment = regexp.MustCompile(`\{\$([^}:]+)(?::([^}]*))?\}`)

// expandEnvironment replaces `{$NAME}` and `{$NAME:default}` as the Caddyfile does.
func expandEnvironment(text string) string {
	return environment.ReplaceAllStringFunc(text, func(found string) string {
		parts := environment.FindStringSubmatch(found)
		if value, ok := os.LookupEnv(parts[1]); ok {
			return value
		}
		return parts[2]
	})
}

package caddymodule

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/command"
)

// guardRunning returns the dangers of a configuration, for doctor. If file is the Caddyfile that it
// comes from, they have their lines; else they have their paths in the configuration. Without a
// configuration it returns the dangers of the file.
func guardRunning(config json.RawMessage, file command.ConfigFile) ([]command.Danger, error) {
	if config == nil {
		var err error
		if config, err = file.JSON(); err != nil {
			return nil, err
		}
	}
	dangers, paths, err := guardConfig(config)
	if err != nil {
		return nil, err
	}
	found := locate(dangers, file)
	for i, d := range dangers {
		if found[i].Where == "" {
			found[i].Where = paths[d.of]
		}
	}
	return append(found, linesOf(file)...), nil
}

// guardConfig returns the dangers of a configuration, and the paths of its handlers.
func guardConfig(config json.RawMessage) ([]danger, map[any]string, error) {
	var top struct {
		Apps struct {
			HTTP json.RawMessage `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(config, &top); err != nil {
		return nil, nil, err
	}
	d := decoder{paths: make(map[any]string)}
	servers, err := d.servers(top.Apps.HTTP)
	if err != nil {
		return nil, nil, err
	}
	return guardServers(servers), d.paths, nil
}

// locate converts dangers for doctor and sets the lines of those that are in a Caddyfile too. The
// file may have changed since the configuration was loaded, so only dangers that are equal count.
func locate(dangers []danger, file command.ConfigFile) []command.Danger {
	var located []command.Danger
	if file.Adapter == "caddyfile" && len(dangers) > 0 { // adapting takes as long as a reload
		located = dangersOfCaddyfile(file)
	}
	found := make([]command.Danger, len(dangers))
	for i, d := range dangers {
		found[i] = command.Danger{Check: d.check, Problem: d.problem, Advice: d.advice,
			Certain: d.certain}
		at := slices.IndexFunc(located, func(l command.Danger) bool {
			return l.Check == d.check && l.Problem == d.problem
		})
		if at >= 0 {
			found[i].Where = located[at].Where
			located = slices.Delete(located, at, at+1)
		}
	}
	return found
}

// dangersOfCaddyfile returns the dangers of a Caddyfile with their lines. It returns none for a
// Caddyfile that Caddy does not accept.
func dangersOfCaddyfile(file command.ConfigFile) (found []command.Danger) {
	read, err := parseCaddyfile(file)
	if err != nil {
		return nil
	}
	copied, err := read.adapt(file)
	if err != nil {
		return nil
	}
	dangers, _, err := guardConfig(copied)
	if err != nil {
		return nil
	}
	for _, d := range dangers {
		found = append(found, command.Danger{Check: d.check, Problem: d.problem,
			Where: read.where(d)})
	}
	return found
}

// linesOf returns the lines of a Caddyfile that other checks of doctor are about. They are not
// dangers and have no Problem.
func linesOf(file command.ConfigFile) (found []command.Danger) {
	if file.Adapter != "caddyfile" {
		return nil
	}
	read, err := parseCaddyfile(file)
	if err != nil {
		return nil
	}
	for check, where := range map[string]string{
		"logs":       read.unredactedLogs(file.Name),
		"prefixes":   cmp.Or(read.lines("token_prefix"), read.lines(appName)),
		"abandoned":  read.lines("abandon_prefix"),
		"namespaces": read.lines("namespace"),
	} {
		if where != "" {
			found = append(found, command.Danger{Check: check, Where: where})
		}
	}
	return found
}

// unknownLine stands for the line of a warning at the start that is not known.
const unknownLine = "unknown; `caddy apikeys doctor --config FILE` shows it"

// lineOf returns the lines that a check is about in the Caddyfile that Caddy was started with, or
// "".
func lineOf(check string) string {
	for _, found := range linesOf(startedWith(os.Args)) {
		if found.Check == check {
			return found.Where
		}
	}
	return ""
}

// unredactedLogs returns the lines of logs without `format api_keys`, or the first line of the
// Caddyfile if it has no log.
func (c *readCaddyfile) unredactedLogs(name string) string {
	all, redacting := strings.Split(c.lines("log"), ", "), c.lines("log", "api_keys")
	var open []string
	for _, where := range all {
		if where != "" && !slices.Contains(strings.Split(redacting, ", "), where) {
			open = append(open, where)
		}
	}
	if len(open) == 0 && redacting == "" {
		return filepath.Base(name) + ":1"
	}
	return strings.Join(open, ", ")
}

// warnOfDangers logs the dangers of the running configuration, with the lines of the Caddyfile that
// Caddy was started with. It only remembers the lines of those that have a warning of their own. All
// handlers must be provisioned.
func (a *App) warnOfDangers(file command.ConfigFile) {
	a.lines = make(map[string]string)
	defer func() {
		// Other plugins read their directives of the file again. Whatever happens, Caddy starts.
		if failed := recover(); failed != nil {
			a.logger.Error("looking for mistakes in the configuration failed",
				slog.Any("error", failed))
		}
	}()
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	http, ok := app.(*caddyhttp.App)
	if !ok {
		return
	}
	var servers []*caddyhttp.Server
	for _, name := range slices.Sorted(maps.Keys(http.Servers)) {
		servers = append(servers, http.Servers[name])
	}
	var withoutKey []string
	for _, d := range locate(guardServers(servers), file) {
		if d.Where == "" {
			d.Where = unknownLine
		}
		if d.Check == withoutKeyCheck {
			withoutKey = append(withoutKey, d.Where)
			continue
		}
		if d.Check == refusedCheck || d.Problem == orderProblem {
			a.lines[d.Check] = d.Where
			continue
		}
		a.logger.Warn("configuration may contain a mistake",
			slog.String("check", d.Check), slog.String("problem", d.Problem),
			slog.String("at", d.Where), slog.String("advice", d.Advice))
	}
	if len(withoutKey) > 0 { // in one message, because a Caddy may serve many websites
		a.logger.Warn("sites without api_key reach an upstream", slog.Int("upstreams",
			len(withoutKey)), slog.Any("at", firstOf(withoutKey)))
	}
}

// startedWith returns the configuration file that Caddy was started with, if these are arguments of
// `caddy run` without --resume. It may be the Caddyfile of the working directory.
func startedWith(args []string) command.ConfigFile {
	if len(args) < 2 || args[1] != "run" {
		return command.ConfigFile{}
	}
	given := make(map[string]string)
	for i, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok && i+1 < len(args) {
			value = args[i+1]
		}
		switch name {
		case "--config", "-c":
			given["config"] = value
		case "--adapter", "-a":
			given["adapter"] = value
		case "--resume", "-r":
			return command.ConfigFile{}
		}
	}
	file, err := command.ReadConfig(given["config"], given["adapter"])
	if err != nil {
		return command.ConfigFile{} // Caddy has read it, so it has been removed since
	}
	return file
}

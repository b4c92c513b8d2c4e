package redact

import (
	"context"
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// WarnOfReadableKeys writes a warning if keys from one of the sources would stand readable in a
// log: if Caddy itself does not hide them and some log that can get entries of the HTTP app does
// not use LogEncoder. Handlers call it in Provision; Caddy has opened the logs by then. One warning
// is enough for a config, which has one app.
func WarnOfReadableKeys(ctx caddy.Context, config any, sources []Source) {
	var exposed []string
	for _, source := range sources {
		if !source.HiddenByCaddy() {
			exposed = append(exposed, string(source.Kind)+" "+Argument(source.Name))
		}
	}
	if len(exposed) == 0 {
		return
	}
	if unprotected, all := probeLogs(ctx); unprotected > 0 {
		if _, done := warnedOfReadableKeys.LoadOrStore(config, nil); done {
			return
		}
		context.AfterFunc(ctx, func() { warnedOfReadableKeys.Delete(config) })
		ctx.Logger().Warn(readableKeysWarning, zap.Strings("sources", exposed),
			zap.String("logs_without_the_encoder",
				fmt.Sprintf("%d of %d that can get HTTP entries", unprotected, all)))
	}
}

// warnedOfReadableKeys has the apps of the configs that are in use and were warned about.
var warnedOfReadableKeys sync.Map

// readableKeysWarning names the two lines to add.
const readableKeysWarning = "API keys may be written into the logs, because Caddy's own log " +
	"encoders redact only Authorization and cookies: " +
	"add `log { format api_keys }` to the global options of the Caddyfile, for the default log, " +
	"and `log { format api_keys }` to every site that writes an access log"

// probeLogs counts the logs that can get entries of the HTTP app, and those of them that do not use
// LogEncoder.
//
// It asks for the logger that the HTTP app gets and hangs a field to it. Each log that takes any
// logger of the app (http, http.log.access.NAME, http.log.error, http.handlers.…), by its include
// and exclude lists, is one core of that logger, and each core hands the field its encoder. A log
// that writes to `discard` has none.
//
// What it sees: the default log, also the one that Caddy makes if the config has none; named logs;
// access logs of every site of the config, also of those without api_key; logs with sampling;
// LogEncoder inside of Caddy's encoders filter and append. A log whose level lets no entry through
// counts like any other.
//
// What it does not see: a core module (the JSON config's `core`) that keeps fields for itself
// without encoding them in With; the `sink` log, which gets what libraries write with Go's log
// package; the log of the admin endpoint if it is not one of these; processes that read the log of
// this one; and anything that does not log through Caddy.
func probeLogs(ctx caddy.Context) (unprotected, all int) {
	probe := new(encoderProbe)
	ctx.Logger(httpAppName{}).Core().With([]zapcore.Field{zap.Inline(probe)})
	return probe.encoders - probe.redacting, probe.encoders
}

// httpAppName has the name of the HTTP app, whose loggers are those of all handlers and of the
// access and error logs.
type httpAppName struct{}

// CaddyModule returns the Caddy module information.
func (httpAppName) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http", New: func() caddy.Module { return new(httpAppName) }}
}

// encoderProbe is a log field that counts the encoders it is given to. It reaches LogEncoder, at
// whatever depth, as a reflected value, and LogEncoder swallows it. In other encoders it is {}, on
// a copy that nobody writes to.
type encoderProbe struct {
	encoders, redacting int
}

// MarshalLogObject is part of zapcore.ObjectMarshaler.
func (p *encoderProbe) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	p.encoders++
	return encoder.AddReflected("api_keys_encoder_probe", p)
}

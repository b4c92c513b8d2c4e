package redact

import (
	"context"
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// WarnIfUnredacted logs a warning if keys from one of the sources could be written to a log
// unredacted. That is the case if Caddy's own encoders do not redact the source and a log that
// receives entries of the HTTP app does not use LogEncoder. Handlers call it in Provision, when
// Caddy has opened the logs. It warns once per config, which may be any value that identifies the
// config. The warning includes the result of at, which says where the logs are configured.
func WarnIfUnredacted(ctx caddy.Context, config any, sources []Source, at func() string) {
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
		if _, done := warnedConfigs.LoadOrStore(config, nil); done {
			return
		}
		context.AfterFunc(ctx, func() { warnedConfigs.Delete(config) })
		ctx.Logger().Warn(unredactedWarning, zap.Strings("sources", exposed),
			zap.String("logs_without_the_encoder",
				fmt.Sprintf("%d of %d that receive HTTP entries", unprotected, all)),
			zap.String("at", at()))
	}
}

// warnedConfigs are the configs in use for which the warning has been logged.
var warnedConfigs sync.Map

// unredactedWarning names the two lines to add.
const unredactedWarning = "API keys may be written into the logs, because Caddy's own log " +
	"encoders redact only Authorization, Proxy-Authorization and cookies: " +
	"add `log { format api_keys }` to the global options of the Caddyfile, for the default log, " +
	"and `log { format api_keys }` to every site that writes an access log"

// probeLogs counts the logs that receive entries of the HTTP app (all), and those of them that do
// not use LogEncoder (unprotected).
//
// It requests the logger of the HTTP app and adds a field to it. A log is one core of that logger
// if its include and exclude lists accept any logger of the app (http, http.log.access.NAME,
// http.log.error, http.handlers.…). Each core passes its encoder to the field. A log that writes to
// `discard` has no core.
//
// It counts:
//   - the default log, including the one that Caddy creates if the config has none;
//   - named logs, and access logs of every site, including sites without api_key;
//   - logs with sampling, and logs whose level discards every entry.
//
// It finds LogEncoder inside Caddy's filter and append encoders.
//
// It does not count:
//   - a core module (`core` in the JSON config) that does not encode fields in With;
//   - the `sink` log, which receives the output of Go's log package;
//   - the log of the admin endpoint, unless it is one of the logs above;
//   - other processes that read the logs, and anything that does not log through Caddy.
func probeLogs(ctx caddy.Context) (unprotected, all int) {
	probe := new(encoderProbe)
	// Caddy names the loggers of all handlers and of the access and error logs after the HTTP app.
	ctx.Logger(new(caddyhttp.App)).Core().With([]zapcore.Field{zap.Inline(probe)})
	return probe.encoders - probe.redacting, probe.encoders
}

// encoderProbe is a log field that counts the encoders it is added to. It adds itself to each of
// them as a reflected value, which LogEncoder recognizes at any depth, counts and discards. Other
// encoders encode it as {}, into a clone that is never written.
type encoderProbe struct {
	encoders, redacting int
}

// MarshalLogObject is part of zapcore.ObjectMarshaler.
func (p *encoderProbe) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	p.encoders++
	return encoder.AddReflected("api_keys_encoder_probe", p)
}

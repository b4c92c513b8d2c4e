// Package redact keeps API keys out of logs and error messages. It knows Caddy's loggers and the
// shape of a token. Handlers call [Declare] to name the headers, query parameters and cookies that
// carry keys. Start reading at [LogEncoder], the encoder that users configure, then at text.go,
// which finds the secrets.
package redact

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

func init() {
	caddy.RegisterModule(LogEncoder{})
}

// LogEncoder is a log encoder that keeps API keys out of the log. It writes REDACTED in place of
//   - the headers, query parameters and cookies that any `api_key` handler of the process reads
//     keys from, and Authorization and Proxy-Authorization, in every request, response and URL of
//     an entry;
//   - the secret part of everything shaped like a token of this module, anywhere in an entry;
//   - everything shaped like a derived token, anywhere in an entry.
//
// Use it for the default log and for every access log. It does not decode base64, except in zap's
// binary fields.
type LogEncoder struct {
	// The encoder that writes the entries. Default is Caddy's own default: `console` if the log is
	// written to standard output or standard error and that is a terminal, else `json`.
	WrappedRaw json.RawMessage `json:"wrap,omitempty" caddy:"namespace=caddy.logging.encoders inline_key=format"`

	redactingEncoder `json:"-"`
	encoderIsDefault bool
	ctx              caddy.Context
}

// CaddyModule returns the Caddy module information.
func (LogEncoder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.encoders.api_keys",
		New: func() caddy.Module { return new(LogEncoder) },
	}
}

// Provision loads the wrapped encoder.
func (e *LogEncoder) Provision(ctx caddy.Context) error {
	e.ctx = ctx
	if e.WrappedRaw == nil {
		e.encoderIsDefault = true
		return e.wrapProvisioned(new(logging.JSONEncoder))
	}
	module, err := ctx.LoadModule(e, "WrappedRaw")
	if err != nil {
		return fmt.Errorf("loading the log encoder that api_keys wraps: %w", err)
	}
	encoder, ok := module.(zapcore.Encoder)
	if !ok {
		return fmt.Errorf("loading the log encoder that api_keys wraps: %T is not a log encoder",
			module)
	}
	e.wrap(encoder)
	return nil
}

// ConfigureDefaultFormat chooses the default encoder for a writer as Caddy chooses its own: the
// console encoder for a terminal, else JSON.
func (e *LogEncoder) ConfigureDefaultFormat(writer caddy.WriterOpener) error {
	if !e.encoderIsDefault {
		if encoder, ok := e.encoder.(caddy.ConfiguresFormatterDefault); ok {
			return encoder.ConfigureDefaultFormat(writer)
		}
		return nil
	}
	if caddy.IsWriterStandardStream(writer) && term.IsTerminal(int(os.Stderr.Fd())) {
		return e.wrapProvisioned(new(logging.ConsoleEncoder))
	}
	return nil
}

func (e *LogEncoder) wrapProvisioned(encoder interface {
	zapcore.Encoder
	caddy.Provisioner
}) error {
	if err := encoder.Provision(e.ctx); err != nil {
		return fmt.Errorf("setting up the default log encoder: %w", err)
	}
	e.wrap(encoder)
	return nil
}

// UnmarshalCaddyfile parses the encoder's block. Syntax:
//
//	api_keys {
//	    wrap <encoder> {
//	        <the encoder's own options>
//	    }
//	}
func (e *LogEncoder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // encoder name
	if d.NextArg() {
		return d.Err("the log encoder api_keys accepts no arguments, only a block")
	}
	for d.NextBlock(0) {
		if d.Val() != "wrap" {
			return d.Errf("unknown option %q in the log encoder api_keys: must be wrap",
				Argument(d.Val()))
		}
		if e.WrappedRaw != nil {
			return d.Err("wrap is given twice: the log encoder api_keys wraps one encoder")
		}
		if !d.NextArg() {
			return d.Err("wrap requires the name of a log encoder, such as `wrap json`")
		}
		name := d.Val()
		const namespace = "caddy.logging.encoders."
		if _, err := caddy.GetModule(namespace + name); err != nil {
			return d.Errf("wrap: unknown log encoder %q", Argument(name))
		}
		module, err := caddyfile.UnmarshalModule(d, namespace+name)
		if err != nil {
			return err
		}
		encoder, ok := module.(zapcore.Encoder)
		if !ok {
			return d.Errf("wrap: %s is not a log encoder", name)
		}
		e.WrappedRaw = caddyconfig.JSONModuleObject(encoder, "format", name, nil)
	}
	return nil
}

var (
	_ caddy.Provisioner                = (*LogEncoder)(nil)
	_ caddy.ConfiguresFormatterDefault = (*LogEncoder)(nil)
	_ caddyfile.Unmarshaler            = (*LogEncoder)(nil)
	_ zapcore.Encoder                  = (*LogEncoder)(nil)
)

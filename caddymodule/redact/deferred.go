package redact

import (
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// deferredFields records fields and encodes them when an entry is written. Most of the loggers that
// Caddy derives for a request never write an entry.
//
// It keeps nothing that can change later: handlers modify the header of a request while it is
// served, and reading a map at that moment crashes the process. It records scalars and copies of
// Caddy's requests and headers. Any other value is encoded at once, after the fields before it.
type deferredFields struct {
	fields []zapcore.Field
	owner  *redactingEncoder // encodes all fields when one cannot be deferred
}

func (d *deferredFields) add(field zapcore.Field) {
	d.fields = append(d.fields, field)
}

// AddObject is part of zapcore.ObjectEncoder.
func (d *deferredFields) AddObject(key string, object zapcore.ObjectMarshaler) error {
	switch value := object.(type) {
	case caddyhttp.LoggableHTTPRequest:
		d.add(zap.Object(key, copyRequest(value)))
	case caddyhttp.LoggableHTTPHeader:
		copied := copyHeader(value.Header, value.ShouldLogCredentials)
		d.add(zap.Object(key, &copied))
	case caddyhttp.LoggableTLSConnState: // a copy already; certificates are immutable
		d.add(zap.Object(key, value))
	default:
		return d.owner.encodeContext().AddObject(key, object)
	}
	return nil
}

// AddArray is part of zapcore.ObjectEncoder.
func (d *deferredFields) AddArray(key string, array zapcore.ArrayMarshaler) error {
	if list, ok := array.(caddyhttp.LoggableStringArray); ok {
		d.add(zap.Array(key, slices.Clone(list)))
		return nil
	}
	return d.owner.encodeContext().AddArray(key, array)
}

// AddReflected is part of zapcore.ObjectEncoder.
func (d *deferredFields) AddReflected(key string, value any) error {
	return d.owner.encodeContext().AddReflected(key, value)
}

// AddBinary is part of zapcore.ObjectEncoder.
func (d *deferredFields) AddBinary(key string, value []byte) {
	d.owner.encodeContext().AddBinary(key, value)
}

// AddByteString is part of zapcore.ObjectEncoder.
func (d *deferredFields) AddByteString(key string, value []byte) {
	d.AddString(key, string(value))
}

// The other methods of zapcore.ObjectEncoder record the value as it is.

func (d *deferredFields) AddBool(key string, value bool) { d.add(zap.Bool(key, value)) }
func (d *deferredFields) AddComplex128(key string, value complex128) {
	d.add(zap.Complex128(key, value))
}
func (d *deferredFields) AddComplex64(key string, value complex64) {
	d.add(zap.Complex64(key, value))
}
func (d *deferredFields) AddDuration(key string, value time.Duration) {
	d.add(zap.Duration(key, value))
}
func (d *deferredFields) AddFloat64(key string, value float64) { d.add(zap.Float64(key, value)) }
func (d *deferredFields) AddFloat32(key string, value float32) { d.add(zap.Float32(key, value)) }
func (d *deferredFields) AddInt(key string, value int)         { d.add(zap.Int(key, value)) }
func (d *deferredFields) AddInt64(key string, value int64)     { d.add(zap.Int64(key, value)) }
func (d *deferredFields) AddInt32(key string, value int32)     { d.add(zap.Int32(key, value)) }
func (d *deferredFields) AddInt16(key string, value int16)     { d.add(zap.Int16(key, value)) }
func (d *deferredFields) AddInt8(key string, value int8)       { d.add(zap.Int8(key, value)) }
func (d *deferredFields) AddString(key, value string)          { d.add(zap.String(key, value)) }
func (d *deferredFields) AddTime(key string, value time.Time)  { d.add(zap.Time(key, value)) }
func (d *deferredFields) AddUint(key string, value uint)       { d.add(zap.Uint(key, value)) }
func (d *deferredFields) AddUint64(key string, value uint64)   { d.add(zap.Uint64(key, value)) }
func (d *deferredFields) AddUint32(key string, value uint32)   { d.add(zap.Uint32(key, value)) }
func (d *deferredFields) AddUint16(key string, value uint16)   { d.add(zap.Uint16(key, value)) }
func (d *deferredFields) AddUint8(key string, value uint8)     { d.add(zap.Uint8(key, value)) }
func (d *deferredFields) AddUintptr(key string, value uintptr) { d.add(zap.Uintptr(key, value)) }
func (d *deferredFields) OpenNamespace(key string)             { d.add(zap.Namespace(key)) }

// A copiedRequest has the parts of a request that Caddy logs. It is small, because most of the cost
// of a logger is the garbage that it leaves.
type copiedRequest struct {
	remoteAddress, proto, method, host, uri string

	clientIP         string
	clientIPKnown    bool
	header           copiedHeader
	transferEncoding []string
	tls              *tls.ConnectionState
}

func copyRequest(r caddyhttp.LoggableHTTPRequest) *copiedRequest {
	c := &copiedRequest{
		remoteAddress: r.RemoteAddr, proto: r.Proto, method: r.Method, host: r.Host,
		uri: r.RequestURI, header: copyHeader(r.Header, r.ShouldLogCredentials),
		transferEncoding: slices.Clone(r.TransferEncoding),
	}
	c.clientIP, c.clientIPKnown =
		caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	if r.TLS != nil {
		state := *r.TLS
		c.tls = &state
	}
	return c
}

// MarshalLogObject is part of zapcore.ObjectMarshaler. It adds what LoggableHTTPRequest adds.
func (c *copiedRequest) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	ip, port, err := net.SplitHostPort(c.remoteAddress)
	if err != nil {
		ip, port = c.remoteAddress, ""
	}
	encoder.AddString("remote_ip", ip)
	encoder.AddString("remote_port", port)
	if c.clientIPKnown {
		encoder.AddString("client_ip", c.clientIP)
	}
	encoder.AddString("proto", c.proto)
	encoder.AddString("method", c.method)
	encoder.AddString("host", c.host)
	encoder.AddString("uri", c.uri)
	if err := encoder.AddObject("headers", &c.header); err != nil {
		return err
	}
	if c.transferEncoding != nil {
		if err := encoder.AddArray("transfer_encoding",
			caddyhttp.LoggableStringArray(c.transferEncoding)); err != nil {
			return err
		}
	}
	if c.tls != nil {
		return encoder.AddObject("tls", caddyhttp.LoggableTLSConnState(*c.tls))
	}
	return nil
}

// A copiedHeader is a copy of a header. It takes 32 bytes for a name with one value, whatever the
// length of the value.
type copiedHeader struct {
	lines                []headerLine // with one value
	others               []headerLines
	shouldLogCredentials bool
}

type headerLine struct {
	name  string
	value [1]string
}

type headerLines struct {
	name   string
	values []string
}

// copyHeader copies the values too, because Caddy's headers handler overwrites them in place.
func copyHeader(header http.Header, shouldLogCredentials bool) copiedHeader {
	c := copiedHeader{make([]headerLine, 0, len(header)), nil, shouldLogCredentials}
	for name, values := range header {
		if len(values) == 1 {
			c.lines = append(c.lines, headerLine{name, [1]string{values[0]}})
		} else {
			c.others = append(c.others, headerLines{name, slices.Clone(values)})
		}
	}
	return c
}

// MarshalLogObject is part of zapcore.ObjectMarshaler. It adds what LoggableHTTPHeader adds.
func (c *copiedHeader) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	for i := range c.lines {
		c.add(encoder, c.lines[i].name, c.lines[i].value[:])
	}
	for _, lines := range c.others {
		c.add(encoder, lines.name, lines.values)
	}
	return nil
}

func (c *copiedHeader) add(encoder zapcore.ObjectEncoder, name string, values []string) {
	if !c.shouldLogCredentials && hiddenByCaddy(name) {
		values = []string{Replacement}
	}
	_ = encoder.AddArray(name, caddyhttp.LoggableStringArray(values)) // as Caddy does
}

package redact

import (
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
	fields     []zapcore.Field
	owner      *redactingEncoder // encodes what cannot be deferred; nil inside an object
	incomplete bool              // the object contains something that cannot be deferred
}

// encoder returns the encoder for a value that cannot be deferred.
func (d *deferredFields) encoder() zapcore.ObjectEncoder {
	if d.owner == nil {
		d.incomplete = true
		return zapcore.NewMapObjectEncoder()
	}
	return d.owner.encodeContext()
}

func (d *deferredFields) add(field zapcore.Field) {
	d.fields = append(d.fields, field)
}

// MarshalLogObject is part of zapcore.ObjectMarshaler.
func (d *deferredFields) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	for i := range d.fields {
		d.fields[i].AddTo(encoder)
	}
	return nil
}

// AddObject is part of zapcore.ObjectEncoder.
func (d *deferredFields) AddObject(key string, object zapcore.ObjectMarshaler) error {
	switch value := object.(type) {
	case caddyhttp.LoggableHTTPRequest:
		copied := &deferredFields{fields: make([]zapcore.Field, 0, requestFieldCount)}
		if err := value.MarshalLogObject(copied); err == nil && !copied.incomplete {
			d.add(zap.Object(key, copied))
			return nil
		}
	case caddyhttp.LoggableHTTPHeader:
		d.add(zap.Object(key, copyHeader(value)))
		return nil
	case caddyhttp.LoggableTLSConnState: // a copy already; certificates are immutable
		d.add(zap.Object(key, value))
		return nil
	}
	return d.encoder().AddObject(key, object)
}

// requestFieldCount is the number of fields that Caddy logs of a request with TLS.
const requestFieldCount = 9

// AddArray is part of zapcore.ObjectEncoder.
func (d *deferredFields) AddArray(key string, array zapcore.ArrayMarshaler) error {
	if list, ok := array.(caddyhttp.LoggableStringArray); ok {
		d.add(zap.Array(key, slices.Clone(list)))
		return nil
	}
	return d.encoder().AddArray(key, array)
}

// AddReflected is part of zapcore.ObjectEncoder.
func (d *deferredFields) AddReflected(key string, value any) error {
	return d.encoder().AddReflected(key, value)
}

// AddBinary is part of zapcore.ObjectEncoder.
func (d *deferredFields) AddBinary(key string, value []byte) { d.encoder().AddBinary(key, value) }

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

// copiedHeader is a copy of a header. It takes 40 bytes a line, whatever the length of the value,
// and one allocation if each name has one value.
type copiedHeader struct {
	lines                []headerLine
	shouldLogCredentials bool
}

type headerLine struct {
	name  string
	value [1]string
	all   *[]string // nil if value is the only one
}

// copyHeader copies the values too, because Caddy's headers handler overwrites them in place.
func copyHeader(header caddyhttp.LoggableHTTPHeader) *copiedHeader {
	c := &copiedHeader{make([]headerLine, 0, len(header.Header)), header.ShouldLogCredentials}
	for name, values := range header.Header {
		line := headerLine{name: name}
		if len(values) == 1 {
			line.value[0] = values[0]
		} else {
			all := slices.Clone(values)
			line.all = &all
		}
		c.lines = append(c.lines, line)
	}
	return c
}

// MarshalLogObject is part of zapcore.ObjectMarshaler. It adds what LoggableHTTPHeader adds.
func (c *copiedHeader) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	for i := range c.lines {
		line := &c.lines[i]
		values := line.value[:]
		if line.all != nil {
			values = *line.all
		}
		if !c.shouldLogCredentials && hiddenByCaddy(line.name) {
			values = []string{Replacement}
		}
		_ = encoder.AddArray(line.name, caddyhttp.LoggableStringArray(values))
	}
	return nil
}

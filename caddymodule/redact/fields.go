package redact

import (
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
)

// redactingEncoder is LogEncoder without its configuration. It is small because it is cloned often:
// zap clones it for every logger with fields, and Caddy for every entry of an access log.
//
// It defers the fields of its logger until one must be encoded at once. Then it encodes that field
// and all others into a clone of the wrapped encoder, which it does not share. While it defers
// fields, it shares the wrapped encoder with its clones and does not change it. So any number of
// goroutines can write to a logger and derive others from it.
//
// It contains pointers to itself, so it must not be copied after wrap.
type redactingEncoder struct {
	zapcore.ObjectEncoder // receives the fields of the logger: &deferred or a redactor
	encoder               zapcore.Encoder
	isCaddys              bool             // encoder treats fields of loggers and entries alike
	deferred              deferredFields   // zero once fields are encoded at once
	memory                [3]zapcore.Field // of deferred; enough for Caddy's reverse proxy
}

func (e *redactingEncoder) wrap(encoder zapcore.Encoder) {
	e.encoder = encoder
	switch encoder.(type) {
	case *logging.JSONEncoder, *logging.ConsoleEncoder, *logging.FilterEncoder,
		*logging.AppendEncoder:
		e.isCaddys = true
	}
	e.deferFields(nil)
}

// deferFields makes e defer fields, beginning with a copy of the given ones.
func (e *redactingEncoder) deferFields(fields []zapcore.Field) {
	e.deferred = deferredFields{fields: append(e.memory[:0], fields...), owner: e}
	e.ObjectEncoder = &e.deferred
}

// encodeContext encodes the deferred fields and returns the encoder for the next ones.
func (e *redactingEncoder) encodeContext() zapcore.ObjectEncoder {
	fields := e.deferred.fields
	e.deferred = deferredFields{}
	e.own(e.encoder)
	addFields(e.ObjectEncoder, fields)
	return e.ObjectEncoder
}

// own makes e encode fields at once, into a clone of encoder.
func (e *redactingEncoder) own(encoder zapcore.Encoder) {
	e.encoder = encoder.Clone()
	e.ObjectEncoder = &redactor{ObjectEncoder: e.encoder}
}

// Clone is part of zapcore.Encoder.
func (e *redactingEncoder) Clone() zapcore.Encoder {
	clone := &redactingEncoder{encoder: e.encoder, isCaddys: e.isCaddys}
	if e.deferred.owner == nil {
		clone.own(e.encoder)
	} else {
		clone.deferFields(e.deferred.fields)
	}
	return clone
}

// EncodeEntry is part of zapcore.Encoder.
func (e *redactingEncoder) EncodeEntry(
	entry zapcore.Entry, fields []zapcore.Field,
) (*buffer.Buffer, error) {
	context := e.deferred.fields
	if len(context) > 0 && !e.isCaddys {
		clone := e.Clone().(*redactingEncoder)
		clone.encodeContext()
		e, context = clone, nil
	}
	sources := redactedSources.Load()
	entry.Message = sources.redactParams(entry.Message)
	entry.Stack = sources.redactParams(entry.Stack)
	if len(context) > 0 || len(fields) > 0 {
		fields = redactFields(sources, context, fields)
	}
	out, err := e.encoder.EncodeEntry(entry, fields)
	if err != nil {
		return out, err
	}
	if encoded := out.Bytes(); len(encoded) > tokenBody {
		if clean := redactTokens(encoded); len(clean) < len(encoded) {
			out.Reset()
			out.AppendBytes(clean)
		}
	}
	return out, nil
}

// redactor passes fields to the encoder it embeds, with the values of declared sources redacted.
// Tokens are left to EncodeEntry, which removes them from the encoded entry. Only binary fields are
// searched for tokens here, because they are encoded as base64.
type redactor struct {
	zapcore.ObjectEncoder
	sources *sourceSet // nil: the sources declared when a field is added
}

func (r *redactor) declared() *sourceSet {
	if r.sources == nil {
		return redactedSources.Load()
	}
	return r.sources
}

// AddString is part of zapcore.ObjectEncoder.
func (r *redactor) AddString(key, value string) {
	if sources := r.declared(); sources.isHeader(key) {
		value = Replacement
	} else {
		value = sources.redactParams(value)
	}
	r.ObjectEncoder.AddString(key, value)
}

// AddByteString is part of zapcore.ObjectEncoder.
func (r *redactor) AddByteString(key string, value []byte) {
	r.AddString(key, string(value))
}

// AddBinary is part of zapcore.ObjectEncoder.
func (r *redactor) AddBinary(key string, value []byte) {
	if sources := r.declared(); sources.isHeader(key) {
		value = []byte(Replacement)
	} else {
		value = redactTokens([]byte(sources.redactParams(string(value))))
	}
	r.ObjectEncoder.AddBinary(key, value)
}

// AddReflected is part of zapcore.ObjectEncoder.
func (r *redactor) AddReflected(key string, value any) error {
	if probe, ok := value.(*encoderProbe); ok {
		probe.redacting++
		return nil
	}
	sources := r.declared()
	if sources.isHeader(key) {
		r.ObjectEncoder.AddString(key, Replacement)
		return nil
	}
	clean, err := sources.redactReflected(value)
	if err != nil {
		return err
	}
	return r.ObjectEncoder.AddReflected(key, clean)
}

// AddObject is part of zapcore.ObjectEncoder.
func (r *redactor) AddObject(key string, object zapcore.ObjectMarshaler) error {
	sources := r.declared()
	if sources.isHeader(key) {
		r.ObjectEncoder.AddString(key, Replacement)
		return nil
	}
	return r.ObjectEncoder.AddObject(key, &objectRedactor{redactor{sources: sources}, object})
}

// AddArray is part of zapcore.ObjectEncoder.
func (r *redactor) AddArray(key string, array zapcore.ArrayMarshaler) error {
	sources := r.declared()
	if sources.isHeader(key) {
		return r.ObjectEncoder.AddArray(key, caddyhttp.LoggableStringArray{Replacement})
	}
	// All header values come here. Caddy's filters recognize them by their type.
	if list, ok := array.(caddyhttp.LoggableStringArray); ok {
		if clean := sources.redactList(list); clean != nil {
			array = clean
		}
		return r.ObjectEncoder.AddArray(key, array)
	}
	return r.ObjectEncoder.AddArray(key, &arrayRedactor{sources: sources, array: array})
}

// redactList returns a redacted copy of list, or nil if there is nothing to redact.
func (s *sourceSet) redactList(list caddyhttp.LoggableStringArray) caddyhttp.LoggableStringArray {
	var clean caddyhttp.LoggableStringArray
	for i, text := range list {
		if redacted := s.redactParams(text); redacted != text {
			if clean == nil {
				clean = slices.Clone(list)
			}
			clean[i] = redacted
		}
	}
	return clean
}

// objectRedactor marshals an object through a redactor. Both are one allocation.
type objectRedactor struct {
	redactor
	object zapcore.ObjectMarshaler
}

// MarshalLogObject is part of zapcore.ObjectMarshaler.
func (r *objectRedactor) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	r.ObjectEncoder = encoder
	return r.object.MarshalLogObject(r)
}

// entryRedactor marshals the deferred fields of a logger and all fields of an entry through a
// redactor. inline is the one field that replaces them. All of it is one allocation.
type entryRedactor struct {
	redactor
	context, fields []zapcore.Field
	inline          [1]zapcore.Field
}

func redactFields(sources *sourceSet, context, fields []zapcore.Field) []zapcore.Field {
	r := &entryRedactor{redactor: redactor{sources: sources}, context: context, fields: fields}
	r.inline[0] = zap.Inline(r)
	return r.inline[:]
}

// MarshalLogObject is part of zapcore.ObjectMarshaler.
func (r *entryRedactor) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	r.ObjectEncoder = encoder
	addFields(r, r.context)
	addFields(r, r.fields)
	return nil
}

func addFields(encoder zapcore.ObjectEncoder, fields []zapcore.Field) {
	for i := range fields {
		fields[i].AddTo(encoder)
	}
}

// arrayRedactor redacts the items of an array as redactor does fields.
type arrayRedactor struct {
	zapcore.ArrayEncoder
	sources *sourceSet
	array   zapcore.ArrayMarshaler
}

// MarshalLogArray is part of zapcore.ArrayMarshaler.
func (r *arrayRedactor) MarshalLogArray(encoder zapcore.ArrayEncoder) error {
	r.ArrayEncoder = encoder
	return r.array.MarshalLogArray(r)
}

// AppendString is part of zapcore.ArrayEncoder.
func (r *arrayRedactor) AppendString(value string) {
	r.ArrayEncoder.AppendString(r.sources.redactParams(value))
}

// AppendByteString is part of zapcore.ArrayEncoder.
func (r *arrayRedactor) AppendByteString(value []byte) {
	r.AppendString(string(value))
}

// AppendReflected is part of zapcore.ArrayEncoder.
func (r *arrayRedactor) AppendReflected(value any) error {
	clean, err := r.sources.redactReflected(value)
	if err != nil {
		return err
	}
	return r.ArrayEncoder.AppendReflected(clean)
}

// AppendObject is part of zapcore.ArrayEncoder.
func (r *arrayRedactor) AppendObject(object zapcore.ObjectMarshaler) error {
	return r.ArrayEncoder.AppendObject(&objectRedactor{redactor{sources: r.sources}, object})
}

// AppendArray is part of zapcore.ArrayEncoder.
func (r *arrayRedactor) AppendArray(array zapcore.ArrayMarshaler) error {
	return r.ArrayEncoder.AppendArray(&arrayRedactor{sources: r.sources, array: array})
}

package redact

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// TestQueryAndCookieOfOneName declares the same name twice. A value then ends where both would.
func TestQueryAndCookieOfOneName(t *testing.T) {
	for _, kinds := range [][]Kind{{Query, Cookie}, {Cookie, Query}} {
		sources := new(sourceSet).with([]Source{{kinds[0], "key"}, {kinds[1], "key"}})
		const text = "key=ab&cd;ef gh"
		if got := sources.redactParams(text); got != "key=REDACTED gh" {
			t.Errorf("%v: %q becomes %q", kinds, text, got)
		}
	}
}

func TestNameThatEndsWithSpace(t *testing.T) {
	sources := new(sourceSet).with([]Source{{Query, "my "}})
	for _, name := range []string{"my+", "my%20", "my "} {
		if got := sources.redactParams("/?" + name + "=secret"); got != "/?"+name+"=REDACTED" {
			t.Errorf("%q: %q", name, got)
		}
	}
}

func TestParameterWithoutName(t *testing.T) {
	sources := new(sourceSet).with([]Source{{Query, "key"}})
	for _, text := range []string{"=secret", "/?=secret", "==", "="} {
		if got := sources.redactParams(text); got != text {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// TestPlusIsOnlySpace checks that + stands for a space in a name, and for nothing else.
func TestPlusIsOnlySpace(t *testing.T) {
	sources := new(sourceSet).with([]Source{{Query, "api_key"}, {Query, "my key"}})
	for _, text := range []string{"/?api+key=abc", "/?my-key=abc"} {
		if got := sources.redactParams(text); got != text {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// reflectedArray is an array whose items only encoding/json knows.
type reflectedArray []any

func (a reflectedArray) MarshalLogArray(encoder zapcore.ArrayEncoder) error {
	for _, item := range a {
		if err := encoder.AppendReflected(item); err != nil {
			return err
		}
	}
	return nil
}

func TestArrayOfReflectedItems(t *testing.T) {
	declareAll(t)
	var out bytes.Buffer
	const secret = "imported-Secret"
	logger(newLogEncoder(t, `{"format":"json"}`), &out).Info("x", zap.Array("items", reflectedArray{
		map[string]string{"X-API-Key": secret}, "/?api_key=" + secret, 7,
	}))
	if got := out.String(); strings.Contains(got, secret) ||
		!strings.Contains(got, `[{"X-API-Key":"REDACTED"},"/?api_key=REDACTED",7]`) {
		t.Error(got)
	}

	out.Reset()
	logger(newLogEncoder(t, `{"format":"json"}`), &out).Info("x",
		zap.Array("items", reflectedArray{failing("/?api_key=" + secret)}))
	if got := out.String(); strings.Contains(got, secret) || !strings.Contains(got, "itemsError") {
		t.Error(got)
	}
}

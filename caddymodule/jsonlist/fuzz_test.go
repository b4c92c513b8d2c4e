package jsonlist

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// This file compares the filter with filterSlowly, a reference implementation that decodes the
// whole text with encoding/json and then removes elements.

// An object has its members in the order of the text, including duplicates.
type object []member

type member struct {
	name  string
	value any
}

func parse(text string) (any, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	value, err := parseValue(d)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the end")
	}
	return value, nil
}

func parseValue(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		o := object{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			value, err := parseValue(d)
			if err != nil {
				return nil, err
			}
			o = append(o, member{name.(string), value})
		}
		_, err := d.Token()
		return o, err
	case json.Delim('['):
		list := []any{}
		for d.More() {
			value, err := parseValue(d)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		_, err := d.Token()
		return list, err
	}
	return token, nil
}

// at returns the value at a path, or nil. twice reports whether a name on the path occurs twice or
// in another case.
func at(value *any, path []string) (found *any, twice bool) {
	if len(path) == 0 {
		return value, false
	}
	o, _ := (*value).(object)
	for i := range o {
		if strings.EqualFold(o[i].name, path[0]) {
			if found != nil || twice || o[i].name != path[0] {
				return nil, true
			}
			inner, innerTwice := at(&o[i].value, path[1:])
			if innerTwice {
				return nil, true
			}
			found = inner
			if found == nil {
				found = &none // the name occurs, although the rest of the path does not exist
			}
		}
	}
	if found == &none {
		return nil, false
	}
	return found, false
}

var none any

func filterSlowly(text string, items, id []string) (any, error) {
	if !json.Valid([]byte(text)) {
		return nil, errors.New("not JSON")
	}
	all, err := parse(text)
	if err != nil {
		return nil, err
	}
	list, twice := at(&all, items)
	if twice || list == nil {
		return nil, errors.New("no array")
	}
	if *list == nil {
		return all, nil
	}
	elements, ok := (*list).([]any)
	if !ok {
		return nil, errors.New("no array")
	}
	*list = slices.DeleteFunc(elements, func(element any) bool {
		path := id
		if _, ok := element.(object); ok && len(path) == 0 {
			path = []string{"id"}
		}
		found, twice := at(&element, path)
		if twice || found == nil {
			return true
		}
		switch id := (*found).(type) {
		case string:
			return !keepSome(id)
		case json.Number:
			return !keepSome(id.String())
		}
		return true
	})
	return all, nil
}

func FuzzFilter(f *testing.F) {
	for _, test := range filterCases {
		if len(test.in) < 2*maxText {
			f.Add(test.in, test.items, test.id, uint8(3))
		}
	}
	f.Fuzz(func(t *testing.T, text, items, id string, size uint8) {
		want, wantErr := filterSlowly(text, names(items), names(id))
		out, err := run(items, id, text, int(size)+1)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q filtered: %v; slowly: %v", text, err, wantErr)
		}
		if err != nil {
			if json.Valid([]byte(out)) {
				t.Fatalf("%q: %v, but %q is valid JSON", text, err, out)
			}
			return
		}
		got, err := parse(out)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q\ngot  %v, %v\nwant %v", text, got, err, want)
		}
	})
}

// FuzzChunks checks that the output does not depend on the size of the chunks, with a small buffer.
func FuzzChunks(f *testing.F) {
	for _, test := range filterCases {
		if len(test.in) < 2*maxText {
			f.Add(test.in, test.items, test.id, uint8(3), uint8(9))
		}
	}
	f.Fuzz(func(t *testing.T, text, items, id string, size, maxBuffer uint8) {
		run := func(size int) (string, error) {
			filter := Filter{Items: names(items), ID: names(id), Keep: keepSome,
				maxBuffer: int(maxBuffer) + 1}
			var out bytes.Buffer
			err := filter.Run(&out, chunks(text, size))
			return out.String(), err
		}
		whole, wholeErr := run(len(text) + 1)
		cut, cutErr := run(int(size) + 1)
		switch {
		case (wholeErr == nil) != (cutErr == nil):
			t.Fatalf("%q: %v, %d bytes at a time: %v", text, wholeErr, int(size)+1, cutErr)
		case wholeErr == nil && (whole != cut || !json.Valid([]byte(cut))):
			t.Fatalf("%q: %s, %d bytes at a time: %s", text, whole, int(size)+1, cut)
		case wholeErr != nil && (json.Valid([]byte(whole)) || json.Valid([]byte(cut))):
			t.Fatalf("%q: %v, but %q or %q is valid JSON", text, wholeErr, whole, cut)
		}
	})
}

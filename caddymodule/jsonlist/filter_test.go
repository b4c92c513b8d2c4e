package jsonlist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func keepSome(id string) bool {
	return id == "acme" || id == "7" || id == "ä" || id == "😀" || id == "" || id == "a.b"
}

func names(path string) []string {
	if path == "" {
		return nil
	}
	return strings.Split(path, ".")
}

// chunks returns the text in chunks of size bytes.
func chunks(text string, size int) func() ([]byte, error) {
	return func() ([]byte, error) {
		if text == "" {
			return nil, io.EOF
		}
		chunk := text[:min(size, len(text))]
		text = text[len(chunk):]
		return []byte(chunk), nil
	}
}

func run(items, id, text string, size int) (string, error) {
	f := Filter{Items: names(items), ID: names(id), Keep: keepSome}
	var out bytes.Buffer
	err := f.Run(&out, chunks(text, size))
	return out.String(), err
}

const deep = 5000

var filterCases = []struct {
	name, items, id string
	in              string
	want            string // or "!" and a part of the error
}{
	{"bare ids", "", "", `["acme","globex","acme"]`, `["acme","acme"]`},
	{"objects with an id", "", "", `[{"id":"acme","x":[1,2]},{"id":"globex"}]`,
		`[{"id":"acme","x":[1,2]}]`},
	{"bare ids and objects", "", "", `["globex",{"x":1,"id":"acme"},"acme"]`,
		`[{"x":1,"id":"acme"},"acme"]`},
	{"white space", "", "", " [ \"globex\" ,\n\t\"acme\" \r\n, \"acme\" ] \n", ` [ "acme","acme"]`},
	{"no elements", "", "", `[]`, `[]`},
	{"all removed", "", "", `["a","b"]`, `[]`},
	{"the first removed", "data", "", `{"data":["a","acme"],"n":2}`, `{"data":["acme"],"n":2}`},
	{"the last removed", "data", "", `{"data":["acme","a"],"n":2}`, `{"data":["acme"],"n":2}`},
	{"null in place of the array", "data", "", `{"data":null,"n":2}`, `{"data":null,"n":2}`},
	{"only null", "", "", ` null `, `null`},
	{"the rest of the text is unchanged", "a.b", "",
		`{"x":{"b":["u"]}, "a": {"c":["v"], "b" : ["w","acme"]},"b":["z"] }`,
		`{"x":{"b":["u"]}, "a": {"c":["v"], "b" : ["acme"]},"b":["z"] }`},
	{"an array of the same name in an element", "data", "id",
		`{"data":[{"id":"acme","data":[{"id":"globex"}]}]}`,
		`{"data":[{"id":"acme","data":[{"id":"globex"}]}]}`},
	{"an id of the same name in an element", "", "id",
		`[{"x":{"id":"globex"},"id":"acme"},{"x":{"id":"acme"},"id":"globex"},{"x":{"id":"acme"}}]`,
		`[{"x":{"id":"globex"},"id":"acme"}]`},
	{"a nested id", "", "meta.id",
		`[{"meta":{"id":"acme"}},{"id":"acme"},{"meta":"acme"},{"meta":[{"id":"acme"}]},{"meta":{"id":{"id":"acme"}}}]`, `[{"meta":{"id":"acme"}}]`},
	{"a named id is not a bare id", "", "id", `["acme",{"id":"acme"}]`, `[{"id":"acme"}]`},
	{"whole numbers", "", "", `[7,{"id":7},-7,7.0,7e0,70e-1,0,"7",17]`, `[7,{"id":7},"7"]`},
	{"ids of other types", "", "",
		`[null,true,false,[],["acme"],{},{"id":null},{"id":["acme"]},{"id":{"id":"acme"}},{"id":true}]`, `[]`},
	{"an empty id", "", "", `["",{"id":""}]`, `["",{"id":""}]`},
	{"escapes in an id", "", "",
		`["\u0061cme","ac\u006De","acme\u0000","\u00e4","ä","a\u0308","\ud83d\ude00","😀","\ud83d","\ude00\ud83d","\uff41cme","acme\u200b"]`, `["\u0061cme","ac\u006De","\u00e4","ä","\ud83d\ude00","😀"]`},
	{"escapes in names", "d.a", "i.d",
		`{"\u0064":{"\u0061":[{"\u0069":{"\u0064":"acme"}},{"\u0069":{"\u0064":"x"}}]}}`,
		`{"\u0064":{"\u0061":[{"\u0069":{"\u0064":"acme"}}]}}`},
	{"astral names", "😀", "", `{"\ud83d\ude00":["x"]}`, `{"\ud83d\ude00":[]}`},
	{"ids are case-sensitive", "", "", `["ACME","Acme","acme "]`, `[]`},
	{"the id twice", "", "",
		`[{"id":"acme","id":"globex"},{"id":"globex","id":"acme"},{"id":"acme","id":"acme"},{"id":"acme","\u0069d":"globex"}]`, `[]`},
	{"the id in another case too", "", "",
		`[{"id":"acme","ID":"globex"},{"Id":"globex","id":"acme"},{"ID":"acme"},{"id":"acme","iD":1}]`, `[]`},
	{"another case outside ASCII", "", "key",
		`[{"key":"acme","\u212aey":"globex"},{"key":"acme"}]`, `[{"key":"acme"}]`},
	{"a name on the path to the id twice", "", "m.id",
		`[{"m":{"id":"acme"},"m":{"id":"globex"}},{"m":{"id":"acme"},"m":1},{"m":1,"m":{"id":"acme"}},{"m":{"id":"acme"},"M":1}]`, `[]`},
	{"other names twice", "", "", `[{"id":"acme","x":1,"x":2}]`, `[{"id":"acme","x":1,"x":2}]`},
	{"values of every type", "", "",
		`[{"id":"acme","x":[-0,0.5,1E+2,1e-2,true,false,null,"\"\\\/\b\f\n\r\t\u00FF",{},[],{"":""}]}]`, `[{"id":"acme","x":[-0,0.5,1E+2,1e-2,true,false,null,"\"\\\/\b\f\n\r\t\u00FF",{},[],{"":""}]}]`},
	{"a long name", "", "", `[{"` + strings.Repeat("i", 2*maxText) + `":1,"id":"acme"}]`,
		`[{"` + strings.Repeat("i", 2*maxText) + `":1,"id":"acme"}]`},
	{"a long id", "", "", `["` + strings.Repeat("i", 2*maxText) + `"]`, `[]`},
	{"deep", "", "", `[{"id":"acme","x":` + strings.Repeat("[", deep) + strings.Repeat("]", deep) +
		`}]`, `[{"id":"acme","x":` + strings.Repeat("[", deep) + strings.Repeat("]", deep) + `}]`},

	{"the array twice", "data", "", `{"data":[],"data":["globex"]}`, "!occurs twice"},
	{"the array in another case too", "data", "", `{"DATA":["globex"],"data":[]}`, "!occurs twice"},
	{"the array has another name", "data", "", `{"items":["globex"]}`, "!no array"},
	{"the array without its object", "data", "", `["globex"]`, "!no array"},
	{"the array nested deeper", "data", "", `{"x":{"data":["globex"]}}`, "!no array"},
	{"null on the path", "a.b", "", `{"a":null}`, "!no array"},
	{"an object in place of the array", "data", "", `{"data":{"id":"globex"}}`, "!must be an array"},
	{"a string in place of the array", "", "", `"globex"`, "!must be an array"},
	{"an object in place of the text", "", "", `{"id":"globex"}`, "!must be an array"},
	{"empty", "", "", ``, "!unexpected end"},
	{"only white space", "", "", " \n", "!unexpected end"},
	{"cut", "", "", `["acme"`, "!unexpected end"},
	{"cut in an element", "", "", `["acme",{"id":"acme"`, "!unexpected end"},
	{"cut after a comma", "", "", `["acme",`, "!unexpected end"},
	{"cut in a string", "", "", `["acme`, "!unexpected end"},
	{"cut in an escape", "", "", `["acme\`, "!unexpected end"},
	{"cut in four digits", "", "", `["acme\u00`, "!unexpected end"},
	{"cut in a character", "", "", "[\"acme\xc3", "!unexpected end"},
	{"cut in a literal", "", "", `[nul`, "!unexpected end"},
	{"cut in a number", "", "", `[-`, "!unexpected end"},
	{"two texts", "", "", `["acme"]["globex"]`, "!after the end"},
	{"lines of JSON", "", "", "[\"acme\"]\n[\"globex\"]\n", "!after the end"},
	{"an extra bracket", "", "", `["acme"]]`, "!after the end"},
	{"a zero byte at the end", "", "", "[\"acme\"]\x00", "!after the end"},
	{"a byte order mark", "", "", "\ufeff[]", "!must be an array"},
	{"UTF-16", "", "", "[\x00]\x00", "!expected a value"},
	{"invalid UTF-8", "", "", "[\"acme\xff\"]", "!invalid UTF-8"},
	{"invalid UTF-8 in a name", "", "", "[{\"i\xffd\":\"acme\"}]", "!invalid UTF-8"},
	{"a surrogate in UTF-8", "", "", "[\"\xed\xa0\x80\"]", "!invalid UTF-8"},
	{"overlong UTF-8", "", "", "[\"\xc0\xaf\"]", "!invalid UTF-8"},
	{"a control character", "", "", "[\"a\ncme\"]", "!control character"},
	{"a trailing comma", "", "", `["acme",]`, "!expected a value"},
	{"a trailing comma in an object", "", "", `[{"id":"acme",}]`, "!expected a name"},
	{"no comma", "", "", `["acme" "globex"]`, "!expected a comma"},
	{"the wrong bracket", "", "", `["acme"}`, "!expected a comma"},
	{"no colon", "", "", `[{"id" "acme"}]`, "!expected a colon"},
	{"names without quotes", "", "", `[{id:"acme"}]`, "!expected a name"},
	{"single quotes", "", "", `['acme']`, "!expected a value"},
	{"a comment", "", "", `[/**/"acme"]`, "!expected a value"},
	{"NaN", "", "", `[NaN]`, "!expected a value"},
	{"a leading zero", "", "", `[01]`, "!expected a comma"},
	{"a leading plus", "", "", `[+1]`, "!expected a value"},
	{"a number that ends with a point", "", "", `[1.]`, "!expected a digit"},
	{"an invalid escape", "", "", `["\x61cme"]`, "!invalid escape"},
	{"HTML", "", "", `<html>`, "!must be an array"},
	{"JSONP", "", "", `f(["acme"])`, "!must be an array"},
	{"too deep", "", "", strings.Repeat("[", MaxDepth+1), "!at most 10000 levels"},
}

func TestFilter(t *testing.T) {
	for _, test := range filterCases {
		for _, size := range []int{1, 2, 3, 7, 1 << 20} {
			out, err := run(test.items, test.id, test.in, size)
			if reason, fails := strings.CutPrefix(test.want, "!"); fails {
				if err == nil || !strings.Contains(err.Error(), reason) {
					t.Errorf("%s, %d bytes at a time: %v, want an error that says %q", test.name,
						size, err, reason)
				}
				if json.Valid([]byte(out)) {
					t.Errorf("%s, %d bytes at a time: the output is valid JSON: %s", test.name, size, out)
				}
			} else if err != nil || out != test.want {
				t.Errorf("%s, %d bytes at a time: %v\ngot  %.500s\nwant %.500s", test.name, size,
					err, out, test.want)
			}
		}
	}
}

// TestLongElements has elements that do not fit into the buffer. They must not make the rest of the
// list fail.
func TestLongElements(t *testing.T) {
	long := `"` + strings.Repeat("x", MaxBuffer+10) + `"`
	almost := `"` + strings.Repeat("x", MaxBuffer-100) + `"`
	for _, test := range []struct {
		name, in, want string
	}{
		{"the id first", `[{"id":"acme","x":` + long + `},"acme"]`,
			`[{"id":"acme","x":` + long + `},"acme"]`},
		{"the id first, not the first element", `["acme",{"id":"acme","x":` + long + `},"acme"]`,
			`["acme",{"id":"acme","x":` + long + `},"acme"]`},
		{"removed", `[{"id":"globex","x":` + long + `},"acme"]`, `["acme"]`},
		{"the id too late", `[{"x":` + long + `,"id":"acme"},"acme"]`, `["acme"]`},
		{"removed, the id too late", `[{"x":` + long + `,"id":"globex"},"acme"]`, `["acme"]`},
		{"the id late", `[{"x":` + almost + `,"id":"acme"}]`, `[{"x":` + almost + `,"id":"acme"}]`},
		{"the id late in a long element", `[{"x":` + almost + `,"id":"acme","y":` + long + `}]`,
			`[{"x":` + almost + `,"id":"acme","y":` + long + `}]`},
		{"the id twice, early", `[{"id":"acme","id":"globex","x":` + long + `}]`, `[]`},
		{"the id twice, removed first", `[{"id":"globex","x":` + long + `,"id":"acme"}]`, `[]`},
		{"the id twice, late", `[{"id":"acme","x":` + long + `,"id":"globex"}]`, `!occurs twice`},
		{"a long bare id", `[` + long + `,"acme"]`, `["acme"]`},
		{"a long number", `[` + strings.Repeat("7", MaxBuffer+10) + `,"acme"]`, `["acme"]`},
	} {
		for _, size := range []int{9999, 1 << 30} {
			out, err := run("", "", test.in, size)
			if reason, fails := strings.CutPrefix(test.want, "!"); fails {
				if err == nil || !strings.Contains(err.Error(), reason) {
					t.Errorf("%s, %d bytes at a time: %v", test.name, size, err)
				}
			} else if err != nil || out != test.want {
				t.Errorf("%s, %d bytes at a time: %v, %d bytes", test.name, size, err, len(out))
			}
		}
	}
	if out, err := run("data", "", `{"x":`+long+`,"data":[]}`, 9999); err == nil || out != "" {
		t.Errorf("the array begins too late: %v, %.100s", err, out)
	}
	for _, wrong := range []string{`{}`, `"globex"`, `nope`, `}`} {
		if out, err := run("data", "", `{"x":`+almost+`,"data":`+wrong, 9999); err == nil ||
			out != "" {
			t.Errorf("%s in place of the array, after a long text: %v, %.100s", wrong, err, out)
		}
	}
	if out, err := run("data", "", `{"results":[`+strings.Repeat(`"globex",`, MaxBuffer/5),
		9999); err == nil || out != "" {
		t.Errorf("a long array at another path: %v, %.100s", err, out)
	}
}

func TestErrors(t *testing.T) {
	broken := errors.New("broken")
	f := Filter{Keep: keepSome}
	given := false
	err := f.Run(io.Discard, func() ([]byte, error) {
		if given {
			return nil, broken
		}
		given = true
		return []byte(`["acme",`), nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("next fails: %v", err)
	}
	for _, test := range filterCases {
		if strings.HasPrefix(test.want, "!") {
			continue
		}
		for written := range min(len(test.want), 100) {
			f := Filter{Items: names(test.items), ID: names(test.id), Keep: keepSome}
			if err := f.Run(&brokenWriter{written, broken},
				chunks(test.in, 1+written%5)); !errors.Is(err, broken) {
				t.Errorf("%s: writing fails after %d bytes: %v", test.name, written, err)
			}
		}
	}
}

// brokenWriter fails after a number of bytes.
type brokenWriter struct {
	bytes int
	err   error
}

func (w *brokenWriter) Write(b []byte) (int, error) {
	if w.bytes -= len(b); w.bytes < 0 {
		return 0, w.err
	}
	return len(b), nil
}

// TestStreams checks that an element is written as soon as it has been read.
func TestStreams(t *testing.T) {
	var out bytes.Buffer
	parts := []string{`{"data":[`, `{"id":"acme"}`, `,"x",`, `"acme"`, `]`, `,"n":1`, `}`}
	written := []string{`{"data":[`, `{"id":"acme"}`, ``, `,"acme"`, `]`, `,"n":1`, ``}
	f := Filter{Items: []string{"data"}, Keep: keepSome}
	i := 0 // number of parts that Run has read
	err := f.Run(&out, func() ([]byte, error) {
		if i > 0 {
			if got := out.String(); got != written[i-1] {
				t.Errorf("after reading %s: wrote %s, want %s", parts[i-1], got, written[i-1])
			}
			out.Reset()
		}
		if i == len(parts) {
			return nil, io.EOF
		}
		i++
		return []byte(parts[i-1]), nil
	})
	if err != nil || out.String() != "}" {
		t.Errorf("at the end: wrote %s, error %v", out.String(), err)
	}
}

func BenchmarkFilter(b *testing.B) {
	for _, kept := range []int{0, 1, 10} {
		b.Run(fmt.Sprintf("keep %d of 10", kept), func(b *testing.B) {
			var text strings.Builder
			text.WriteString(`{"data":[`)
			for i := range 5000 {
				if i > 0 {
					text.WriteByte(',')
				}
				id := "globex"
				if i%10 < kept {
					id = "acme"
				}
				fmt.Fprintf(&text,
					`{"id":%q,"name":"Workspace number %d","created_at":"2026-01-02T03:04:05Z","members":[%d,2,3.5],"labels":{"team":"erp","städte":"Köln"},"active":true}`, id, i, i)
			}
			text.WriteString(`]}`)
			b.SetBytes(int64(text.Len()))
			b.ReportAllocs()
			f := Filter{Items: []string{"data"}, Keep: keepSome}
			for b.Loop() {
				if err := f.Run(io.Discard, chunks(text.String(), 32<<10)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

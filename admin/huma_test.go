package admin_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// TestOtherUsersOfHuma checks that another API in the process keeps the defaults of huma, which are
// variables.
func TestOtherUsersOfHuma(t *testing.T) {
	open(t)
	mux := http.NewServeMux()
	other := humago.New(mux, huma.DefaultConfig("other", "1"))
	type input struct {
		Body struct {
			Name string   `json:"name" minLength:"2"`
			Loud bool     `json:"loud,omitempty"`
			Tags []string `json:"tags,omitempty" maxItems:"1"`
			Kind string   `json:"kind,omitempty" enum:"a,b"`
		}
	}
	var name string
	huma.Post(other, "/", func(_ context.Context, in *input) (*struct{}, error) {
		name = in.Body.Name
		return nil, nil
	})
	post := func(body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w
	}
	if w := post(`{"NAME":"Ada"}`); w.Code != http.StatusNoContent || name != "Ada" {
		t.Errorf("a name in another case: %d %s", w.Code, w.Body)
	}
	w := post(`{"name":"x","loud":1,"tags":["a","b"],"kind":"c","more":0}`)
	var refused huma.ErrorModel
	if err := json.Unmarshal(w.Body.Bytes(), &refused); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range refused.Errors {
		got = append(got, e.Message)
	}
	slices.Sort(got)
	want := []string{"expected array length <= 1", "expected boolean", "expected length >= 2",
		`expected value to be one of "a, b"`, "unexpected property"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestCaseOfNames checks that a field name in another case is unknown and does not replace the
// required field.
func TestCaseOfNames(t *testing.T) {
	d := open(t)
	for body, want := range map[string][]string{
		`{"Name":"a","access":"read_only"}`:            {"name", "Name"},
		`{"name":"a","NAME":"b","access":"read_only"}`: {"NAME"},
		`{"name":"a","grants":[{"namespace":"default","Access":"read_only"}]}`: {
			"grants[0].Access"},
	} {
		p := d.call(t, root, "POST", "/keys", body).problem(t)
		var got []string
		for _, e := range p.Errors {
			got = append(got, e.Field)
		}
		if p.Status != 422 || strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %d %v, want %v", body, p.Status, got, want)
		}
	}
}

package keystore

import "testing"

func TestErrorText(t *testing.T) {
	for want, err := range map[string]*Error{
		"the key is revoked": {Detail: "the key is revoked"},
		"name: is required; grants[0]: is a duplicate": {Detail: "some fields are not valid",
			Fields: []FieldError{{"name", "is required"}, {"grants[0]", "is a duplicate"}}},
	} {
		if got := err.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestOutcomeRefuses(t *testing.T) {
	for o := range Outcome(NumOutcomes) {
		continues := o == OK || o == Public || o == Anonymous || o == Foreign || o == Preflight
		if o.Refuses() == continues {
			t.Errorf("%v refuses: %v", o, o.Refuses())
		}
		if refused := o.Status() >= 400; refused != o.Refuses() || refused != (o.Code() != "") ||
			refused != (o.Title() != "") {
			t.Errorf("%v: %d %q %q", o, o.Status(), o.Code(), o.Title())
		}
	}
}

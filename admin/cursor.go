package admin

import (
	"cmp"
	"encoding/base64"
	"fmt"
)

// A place is where an object stands in the list: newest first, then by id.
type place struct {
	micros int64
	id     string
}

func comparePlace(a, b place) int {
	return cmp.Or(cmp.Compare(b.micros, a.micros), cmp.Compare(a.id, b.id))
}

func (p place) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", p.micros, p.id))
}

func parsePlace(cursor string) (p place, err error) {
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		_, err = fmt.Sscanf(string(text), "%d %s", &p.micros, &p.id)
	}
	if err != nil {
		var wrong fields
		wrong.add("cursor", "is none that a list has returned")
		return p, wrong.err(codeInvalid)
	}
	return p, nil
}

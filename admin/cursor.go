package admin

import (
	"cmp"
	"encoding/base64"
	"fmt"
)

// A position locates an object in a list that is sorted newest first, then by id.
type position struct {
	micros int64
	id     string
}

func comparePositions(a, b position) int {
	return cmp.Or(cmp.Compare(b.micros, a.micros), cmp.Compare(a.id, b.id))
}

func (p position) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", p.micros, p.id))
}

func parsePosition(cursor string) (p position, err error) {
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		_, err = fmt.Sscanf(string(text), "%d %s", &p.micros, &p.id)
	}
	if err != nil {
		var wrong fields
		wrong.add("cursor", "must be the next_cursor of a previous page")
		return p, wrong.err()
	}
	return p, nil
}

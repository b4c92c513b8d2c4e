package admin

import (
	"mime"
	"strconv"
	"strings"
)

// negotiate returns the offered media type that an Accept header prefers (RFC 9110 §12.5.1). Of
// equally good ones, and if none is acceptable, it returns the first, as huma does.
func negotiate(accept string, offered ...string) string {
	best, most := offered[0], 0.0
	for _, t := range offered {
		if q := quality(accept, t); q > most {
			best, most = t, q
		}
	}
	return best
}

// quality returns the weight of a media type: that of the most specific range that contains it.
func quality(accept, mediaType string) (weight float64) {
	kind, _, _ := strings.Cut(mediaType, "/")
	specific := -1
	for part := range strings.SplitSeq(accept, ",") {
		name, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		rank := -1
		switch name {
		case mediaType:
			rank = 2
		case kind + "/*":
			rank = 1
		case "*/*":
			rank = 0
		}
		q := 1.0
		if text, given := parameters["q"]; given {
			if q, err = strconv.ParseFloat(text, 64); err != nil || q < 0 || q > 1 {
				continue
			}
		}
		if rank > specific {
			specific, weight = rank, q
		}
	}
	return weight
}

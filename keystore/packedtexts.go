package keystore

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"
)

// packedTexts holds the names and values of a map, sorted by name, each preceded by its length as a
// uvarint. A million keys may be cached, and a map takes 300 bytes even for one pair.
type packedTexts string

func packTexts(m map[string]string) packedTexts {
	var packed []byte
	add := func(text string) {
		packed = binary.AppendUvarint(packed, uint64(len(text)))
		packed = append(packed, text...)
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		add(name)
		add(m[name])
	}
	return packedTexts(packed)
}

// find returns the value with this name, or "" if there is none.
func (p packedTexts) find(name string) string {
	rest := string(p)
	next := func() (text string) {
		length, size := binary.Uvarint([]byte(rest[:min(len(rest), binary.MaxVarintLen64)]))
		end := size + int(length)
		text, rest = rest[size:end], rest[end:]
		return text
	}
	for rest != "" {
		found, value := next(), next()
		if order := strings.Compare(found, name); order >= 0 {
			if order == 0 {
				return value
			}
			return ""
		}
	}
	return ""
}

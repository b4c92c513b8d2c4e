package keystore

const (
	base62Alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	base62CRCLen   = 6               // 62^6 > 2^32
	base62TagSpace = 218340105584896 // 62^8
)

// isBase62 reports membership by byte value.
var isBase62 = func() (t [256]bool) {
	for i := range len(base62Alphabet) {
		t[base62Alphabet[i]] = true
	}
	return t
}()

// putBase62 writes n in big-endian base62 over the whole of dst, padded on the left with '0'.
// What does not fit is lost: callers size dst for their range.
func putBase62(dst []byte, n uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = base62Alphabet[n%62]
		n /= 62
	}
}

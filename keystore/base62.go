package keystore

const (
	base62Alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	base62CRCLen   = 6               // 62^6 > 2^32
	base62TagSpace = 218340105584896 // 62^8
)

// isBase62 reports for each byte whether it is a base62 digit.
var isBase62 = func() (t [256]bool) {
	for i := range len(base62Alphabet) {
		t[base62Alphabet[i]] = true
	}
	return t
}()

// putBase62 writes n to dst in big-endian base62, padded on the left with '0'. It drops digits that
// do not fit: callers choose the length of dst for their range.
func putBase62(dst []byte, n uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = base62Alphabet[n%62]
		n /= 62
	}
}

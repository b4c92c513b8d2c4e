package console

import (
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// minCompressed is the length in bytes from which compressing a body saves a packet.
const minCompressed = 1400

var compressors = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// respond writes a body, compressed with gzip if the client accepts it. A page that shows a token
// is compressed neither here nor by Caddy's encode handler: if it also shows a text from the
// request, its compressed length could reveal the token (BREACH).
func respond(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	h := w.Header()
	h.Add("Vary", "Accept-Encoding")
	switch {
	case keystore.ContainsToken(string(body)):
		h.Set("Cache-Control", "no-store, no-transform")
	case len(body) >= minCompressed && acceptsGzip(r):
		h.Set("Content-Encoding", "gzip")
		w.WriteHeader(status)
		if r.Method == http.MethodHead {
			return
		}
		z := compressors.Get().(*gzip.Writer)
		z.Reset(w)
		_, _ = z.Write(body)
		_ = z.Close()
		compressors.Put(z)
		return
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// acceptsGzip reports whether the client accepts gzip by name (RFC 9110, section 12.5.3).
func acceptsGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(
		strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, weight, _ := strings.Cut(coding, ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		_, value, weighted := strings.Cut(weight, "=")
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		return !weighted || err == nil && q > 0
	}
	return false
}

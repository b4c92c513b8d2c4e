package admin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const (
	// leakKeysFresh is the time after which the keys are read again.
	leakKeysFresh = 24 * time.Hour
	// leakKeysRetry is the shortest time between two reads. An unknown key may be a new one.
	leakKeysRetry   = time.Minute
	leakKeysTimeout = 5 * time.Second
	maxLeakKeys     = 1 << 20 // bytes
)

// LeakKeys are the public keys that sign reports of leaked tokens. They are read when they are
// first needed, and kept. A nil LeakKeys has no keys. It is safe for concurrent use.
type LeakKeys struct {
	source string // a URL or a file

	mu      sync.Mutex
	keys    map[string]*ecdsa.PublicKey
	fresh   time.Time     // when keys were read
	tried   time.Time     // when the last read began
	reading chan struct{} // closed when the running read ends; nil if none runs
	failure error         // of the last read
}

// NewLeakKeys returns the keys in a file or at a URL. Both have the format of
// https://api.github.com/meta/public_keys/secret_scanning.
func NewLeakKeys(source string) *LeakKeys { return &LeakKeys{source: source} }

// remote reports whether the keys are at a URL.
func (l *LeakKeys) remote() bool { return strings.Contains(l.source, "://") }

// SetLeakKeys sets the keys of signed reports; nil refuses such reports. Keys with the same URL as
// before are kept. A file is read again.
func (a *API) SetLeakKeys(l *LeakKeys) {
	if old := a.leakKeys.Load(); old != nil && l != nil && old.source == l.source && l.remote() {
		return
	}
	a.leakKeys.Store(l)
}

func badSignature(detail string) error {
	return newProblem(http.StatusUnauthorized, "invalid_signature", detail)
}

// verify checks the signature of a body.
func (l *LeakKeys) verify(ctx context.Context, id, signature string, body []byte) error {
	if l == nil {
		return badSignature("signed reports require leak_keys in the configuration")
	}
	der, err := base64.StdEncoding.DecodeString(signature)
	if err != nil || id == "" {
		return badSignature("a signed report must have both headers, with the signature in base64")
	}
	key, err := l.key(ctx, id)
	if err != nil {
		return newProblem(http.StatusServiceUnavailable, keystore.Unavailable.Code(),
			"the keys of leak_keys could not be read; try again")
	}
	if key == nil {
		return badSignature("the key of the signature is unknown")
	}
	sum := sha256.Sum256(body)
	if !ecdsa.VerifyASN1(key, sum[:], der) {
		return badSignature("the signature is not valid")
	}
	return nil
}

// key returns the key with an id, or nil if there is none. It returns an error if the keys could
// not be read and the id is not among those that are known. A key that is known does not wait for a
// read.
func (l *LeakKeys) key(ctx context.Context, id string) (*ecdsa.PublicKey, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if (l.keys[id] == nil || now.Sub(l.fresh) > leakKeysFresh) && l.reading == nil &&
		now.Sub(l.tried) > leakKeysRetry {
		l.tried, l.reading = now, make(chan struct{})
		go l.read(l.reading)
	}
	if reading := l.reading; l.keys[id] == nil && reading != nil {
		l.mu.Unlock()
		select {
		case <-reading:
		case <-ctx.Done():
		}
		l.mu.Lock()
		if l.keys[id] == nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if key := l.keys[id]; key != nil {
		return key, nil
	}
	return nil, l.failure
}

// read reads the keys, and closes done.
func (l *LeakKeys) read(done chan struct{}) {
	text, err := l.text()
	var keys map[string]*ecdsa.PublicKey
	switch {
	case err == nil && len(text) > maxLeakKeys:
		err = fmt.Errorf("more than %d bytes", maxLeakKeys)
	case err == nil:
		keys, err = parseLeakKeys(text)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure = err; err == nil {
		l.keys, l.fresh = keys, time.Now()
	}
	l.reading = nil
	close(done)
}

// leakKeysClient follows no redirects, which might lead to an address without TLS.
var leakKeysClient = http.Client{Timeout: leakKeysTimeout,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func (l *LeakKeys) text() ([]byte, error) {
	if !l.remote() {
		file, err := os.Open(l.source)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return io.ReadAll(io.LimitReader(file, maxLeakKeys+1))
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, l.source,
		http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	response, err := leakKeysClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer has status %d", response.StatusCode)
	}
	return io.ReadAll(io.LimitReader(response.Body, maxLeakKeys+1))
}

// parseLeakKeys returns the keys in a document of GitHub, by their identifier. It ignores keys that
// are not on the curve P-256.
func parseLeakKeys(text []byte) (map[string]*ecdsa.PublicKey, error) {
	var document struct {
		Keys []struct {
			ID  string `json:"key_identifier"`
			Key string `json:"key"`
		} `json:"public_keys"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("not a document with public_keys: %w", err)
	}
	keys := make(map[string]*ecdsa.PublicKey)
	for _, k := range document.Keys {
		block, _ := pem.Decode([]byte(k.Key))
		if block == nil {
			continue
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if key, ok := parsed.(*ecdsa.PublicKey); err == nil && ok && k.ID != "" &&
			key.Curve == elliptic.P256() {
			keys[k.ID] = key
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("public_keys contains no key on the curve P-256")
	}
	return keys, nil
}

package events

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// sendTimeout bounds one request, from the lookup of the name to the headers of the answer.
	sendTimeout = 10 * time.Second
	// maxAnswerHeader is the maximum size of the headers of an answer, in bytes.
	maxAnswerHeader = 64 << 10
	// maxAnswerBody is the longest body that is read so that its connection can be used again.
	maxAnswerBody = 4 << 10
)

// A message is an event as it is sent.
type message struct {
	id, kind string
	body     []byte
}

// A sender sends messages to one receiver.
type sender struct {
	url     string
	secrets [][]byte
	client  *http.Client
}

func newSender(w *Webhook) *sender {
	dialer := &net.Dialer{Timeout: sendTimeout, KeepAlive: 30 * time.Second}
	if !w.AllowPrivate {
		dialer.Control = dialPublic
	}
	s := &sender{url: w.URL, client: &http.Client{
		// No proxy of the environment: it would choose the address.
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true, DisableCompression: true,
			MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: maxAnswerHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
	for _, text := range w.Secrets {
		if secret, err := decodeSecret(text); err == nil { // Check has refused others
			s.secrets = append(s.secrets, secret)
		}
	}
	return s
}

// sign returns the header webhook-signature: one signature for each secret.
func (s *sender) sign(id, timestamp string, body []byte) string {
	var signatures []string
	for _, secret := range s.secrets {
		mac := hmac.New(sha256.New, secret)
		fmt.Fprintf(mac, "%s.%s.", id, timestamp)
		mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(signatures, " ")
}

// send makes one attempt. It returns the status of the answer, zero if there was none, and an error
// unless the status is 2xx.
func (s *sender) send(ctx context.Context, m *message, now time.Time) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(m.body))
	if err != nil {
		return 0, errors.New("the URL of the webhook is not valid")
	}
	timestamp := strconv.FormatInt(now.Unix(), 10)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "caddy-apikeys")
	r.Header.Set("webhook-id", m.id)
	r.Header.Set("webhook-timestamp", timestamp)
	r.Header.Set("webhook-signature", s.sign(m.id, timestamp, m.body))
	resp, err := s.client.Do(r)
	if err != nil {
		s.reconnect()
		return 0, withoutURL(ctx, err, r.URL)
	}
	defer resp.Body.Close()
	if resp.ContentLength >= 0 && resp.ContentLength <= maxAnswerBody {
		_, _ = io.Copy(io.Discard, resp.Body) // the event was answered, whatever happens now
	}
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return resp.StatusCode, nil
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return resp.StatusCode, fmt.Errorf("answered %d: redirects are not followed",
			resp.StatusCode)
	}
	return resp.StatusCode, fmt.Errorf("answered %d", resp.StatusCode)
}

// reconnect makes the next attempt use a new connection. Otherwise the client would continue a
// handshake without an answer, or reuse an HTTP/2 connection that no longer answers.
func (s *sender) reconnect() {
	former := s.client.Transport.(*http.Transport)
	s.client.Transport = former.Clone()
	former.CloseIdleConnections()
}

// withoutURL removes the URL from an error of the client, because a part of the URL may be secret.
// A receiver that is not an HTTP server may have repeated it in its answer.
func withoutURL(ctx context.Context, err error, sent *url.URL) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", sendTimeout)
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if uri := sent.RequestURI(); uri != "/" && strings.Contains(err.Error(), uri) {
		return errors.New("the receiver does not speak HTTP")
	}
	return err
}

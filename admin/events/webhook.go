package events

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A Webhook is a receiver of events.
type Webhook struct {
	// Shown is the URL as the configuration shows it. It identifies the webhook: with the same
	// text, it continues where it was.
	Shown string
	URL   string // with placeholders replaced
	// Each of the Secrets signs every request. The receiver needs to know one of them. A secret is
	// `whsec_` and 24 to 64 bytes in base64.
	Secrets      []string
	Events       []string // patterns of types; none for all
	Namespaces   []string // of the events' objects; none for all
	AllowPrivate bool     // allows private addresses and http
}

// MaxWebhooks is the maximum number of webhooks of a node. Each needs a few hundred KiB of memory
// and a write of the database every few seconds.
const MaxWebhooks = 100

const secretPrefix = "whsec_"

// ID returns the id of the webhook in the database and the REST interface.
func (w *Webhook) ID() string {
	sum := sha256.Sum256([]byte(w.Shown))
	return "wh_" + hex.EncodeToString(sum[:6])
}

// Check returns an error if the webhook cannot be used. The error does not show secrets.
func (w *Webhook) Check() error {
	u, err := url.Parse(w.URL)
	switch {
	case err != nil:
		return errors.New("the URL must have the form https://HOST/PATH")
	case u.User != nil:
		return errors.New("the URL must not have a user name or password: the receiver " +
			"authenticates requests by their signature")
	case u.Host == "" || u.Hostname() == "" || u.Fragment != "":
		return errors.New("the URL must have the form https://HOST/PATH")
	case u.Scheme != "https" && (u.Scheme != "http" || !w.AllowPrivate):
		return errors.New("the URL must begin with https://; http:// requires allow_private")
	case u.Port() != "" && !validPort(u.Port()):
		return errors.New("the port of the URL must be from 1 to 65535")
	case len(w.Secrets) == 0:
		return errors.New("a secret is required: whsec_ and 24 to 64 random bytes in base64")
	}
	for _, s := range w.Secrets {
		if _, err := decodeSecret(s); err != nil {
			return err
		}
	}
	for _, p := range w.Events {
		if !validPattern(p) {
			return fmt.Errorf("events must be types such as key.revoked, KIND.* with one of the "+
				"kinds %s, or *", strings.Join(kinds, ", "))
		}
	}
	return nil
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func decodeSecret(s string) ([]byte, error) {
	text, ok := strings.CutPrefix(s, secretPrefix)
	secret, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(secret) < 24 || len(secret) > 64 {
		return nil, errors.New("a secret must be whsec_ and 24 to 64 bytes in base64: " +
			"create one with `echo whsec_$(openssl rand -base64 32)`")
	}
	return secret, nil
}

// wants reports whether the webhook receives an event of this type about an object of a namespace.
func (w *Webhook) wants(row *keystore.AuditRow, t, namespace string) bool {
	if row.Action == keystore.WebhookTest {
		return row.Object == w.ID()
	}
	return matches(w.Events, t) &&
		(len(w.Namespaces) == 0 || slices.Contains(w.Namespaces, namespace))
}

// WantsThresholds reports whether the webhook receives thresholds of quotas.
func (w *Webhook) WantsThresholds() bool { return matches(w.Events, "quota.threshold") }

func (w *Webhook) equal(o *Webhook) bool {
	return w.Shown == o.Shown && w.URL == o.URL && slices.Equal(w.Secrets, o.Secrets) &&
		slices.Equal(w.Events, o.Events) && slices.Equal(w.Namespaces, o.Namespaces) &&
		w.AllowPrivate == o.AllowPrivate
}

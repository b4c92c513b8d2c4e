package keystore

import (
	"encoding/json"
	"strings"
	"time"
)

// rateLimitJSON is a [RateLimit] in JSON, as the audit log and the REST interface show it:
// {"requests":100,"per":"1s","burst":200} or {"unlimited":true}.
type rateLimitJSON struct {
	Requests  int64  `json:"requests,omitempty"`
	Per       string `json:"per,omitempty"`
	Burst     int64  `json:"burst,omitempty"` // default: Requests
	Shadow    bool   `json:"shadow,omitempty"`
	Unlimited bool   `json:"unlimited,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (l RateLimit) MarshalJSON() ([]byte, error) {
	return json.Marshal(rateLimitJSON{l.Requests, l.PerText(), l.Burst, l.Shadow, l.Unlimited})
}

// UnmarshalJSON implements [json.Unmarshaler]. It does not check the limit: see [RateLimit.Defect].
func (l *RateLimit) UnmarshalJSON(text []byte) error {
	var r rateLimitJSON
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	*l = RateLimit{Requests: r.Requests, Burst: r.Burst, Shadow: r.Shadow, Unlimited: r.Unlimited}
	if l.Burst == 0 {
		l.Burst = l.Requests
	}
	if r.Per == "" {
		return nil
	}
	var err error
	l.Per, err = time.ParseDuration(r.Per)
	return err
}

// PerText returns Per in the shortest form of a Go duration, such as 1h instead of 1h0m0s. It is
// empty if Per is zero.
func (l RateLimit) PerText() string {
	if l.Per == 0 {
		return ""
	}
	text := l.Per.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

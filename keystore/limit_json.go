package keystore

import (
	"encoding/json"
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

// PerText returns Per as [DurationText] writes it.
func (l RateLimit) PerText() string { return DurationText(l.Per) }

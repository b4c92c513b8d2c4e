package caddymodule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// UsageConfig says for how long the database keeps the usage of keys, by the length of its periods.
// Each is a duration such as `48h` or `35d`, or `forever`, and at least as long as the one before.
type UsageConfig struct {
	// Whether to count nothing. It cannot be combined with the other fields. Default is false.
	Off bool `json:"off,omitempty"`

	// How long usage by minutes is kept, at least `2h`. Default is `48h`.
	Minutes string `json:"minutes,omitempty"`

	// How long usage by hours is kept, at least `2d`. Default is `35d`.
	Hours string `json:"hours,omitempty"`

	// How long usage by days is kept, at least `62d`. Default is `400d`.
	Days string `json:"days,omitempty"`

	// How long usage by months is kept, at least `366d`. Default is `forever`.
	Months string `json:"months,omitempty"`
}

// A usageStep is one of the lengths of periods.
type usageStep struct {
	option string
	value  *string
	kept   *time.Duration
	least  string // so that the next longer periods can be computed before the shorter ones expire
}

// steps returns the lengths of periods, the shortest first. kept receives the parsed values.
func (c *UsageConfig) steps(kept *keystore.UsageKept) []usageStep {
	return []usageStep{
		{"minutes", &c.Minutes, &kept.Minutes, "2h"},
		{"hours", &c.Hours, &kept.Hours, "2d"},
		{"days", &c.Days, &kept.Days, "62d"},
		{"months", &c.Months, &kept.Months, "366d"},
	}
}

const usageOptionNames = "minutes, hours, days, months"

// settings checks the configuration.
func (c *UsageConfig) settings() (s node.UsageSettings, err error) {
	kept := keystore.DefaultUsageKept
	var shorter usageStep
	for _, step := range c.steps(&kept) {
		if text := *step.value; text != "" {
			switch expanded, err := expand("usage: "+step.option, text); {
			case err != nil:
				return s, err
			case c.Off:
				return s, errors.New("usage: off cannot be combined with other options")
			default:
				if !step.parse(expanded) {
					return s, step.invalid(text) // the expanded text may be a secret
				}
			}
		}
		if shorter.kept != nil && (*shorter.kept == 0 && *step.kept != 0 ||
			*step.kept != 0 && *step.kept < *shorter.kept) {
			return s, fmt.Errorf("usage: %s are kept for %s: must be at least as long as %s, %s",
				step.option, keptText(*step.kept), shorter.option, keptText(*shorter.kept))
		}
		shorter = step
	}
	return node.UsageSettings{Off: c.Off, Kept: &kept}, nil
}

// parse sets how long the periods are kept. It reports whether the text is valid.
func (s *usageStep) parse(text string) bool {
	if text == "forever" {
		*s.kept = 0
		return true
	}
	least, _ := caddy.ParseDuration(s.least)
	d, err := caddy.ParseDuration(text)
	*s.kept = d
	return err == nil && d >= least
}

func (s *usageStep) invalid(text string) error {
	return fmt.Errorf("usage: %s %s: must be forever or a duration of at least %s", s.option,
		redact.Argument(text), s.least)
}

// keptText returns how long usage is kept as the Caddyfile has it.
func keptText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return "forever"
	case d%day == 0 && d > 2*day:
		return fmt.Sprintf("%dd", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}

// parseUsage parses the option.
func parseUsage(a *App, d *caddyfile.Dispenser, args []string) error {
	a.Usage = new(UsageConfig)
	switch {
	case len(args) == 1 && args[0] == "off":
		a.Usage.Off = true
		return nil
	case len(args) > 0:
		return d.Errf("usage %s: must be `usage off`, or a block with %s",
			redact.Argument(strings.Join(args, " ")), usageOptionNames)
	}
	var kept keystore.UsageKept
	steps := make(map[string]usageStep)
	for _, step := range a.Usage.steps(&kept) {
		steps[step.option] = step
	}
	for d.NextBlock(1) {
		option := d.Val()
		step, known := steps[option]
		switch args := d.RemainingArgs(); {
		case !known:
			return d.Errf("unknown option %q in usage: must be one of %s",
				redact.Argument(option), usageOptionNames)
		case *step.value != "":
			return d.Errf("%s is given twice in usage", option)
		case len(args) != 1 || args[0] == "":
			return d.Errf("%s requires one duration, such as %s, or forever", option, step.least)
		default:
			*step.value = args[0]
			if strings.Contains(args[0], "{") {
				break // Provision checks the expanded value
			}
			if !step.parse(args[0]) {
				return d.WrapErr(step.invalid(args[0]))
			}
		}
	}
	if *a.Usage == (UsageConfig{}) {
		return d.Errf("usage requires `off`, or a block with %s", usageOptionNames)
	}
	for _, step := range steps {
		if strings.Contains(*step.value, "{") {
			return nil
		}
	}
	if _, err := a.Usage.settings(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

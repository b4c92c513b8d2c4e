package caddymodule

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// maxRemind is the maximum number of reminders of one key.
const maxRemind = 10

// minRemind is the shortest time before the expiry, and between two reminders. If the next reminder
// of a key is due before a node has added the last one, the node adds only the next. So reminders
// must be further apart than the searches for keys.
const minRemind = time.Minute

// remindOff is the value of `remind` without reminders.
const remindOff = "off"

// provisionReminders checks the options about reminders and leaks.
func (a *App) provisionReminders() error {
	var remind []string
	for _, text := range a.Remind {
		text, err := expand("remind", text)
		if err != nil {
			return err
		}
		remind = append(remind, text)
	}
	var err error
	s := &a.settings.Reminders
	if s.Before, s.Off, err = parseRemind(remind); err != nil {
		return err
	}
	if a.Unused != "" {
		text, err := expand("unused", a.Unused)
		if err != nil {
			return err
		}
		if s.Unused, err = keystore.ParseLifetime(text); err != nil {
			return fmt.Errorf("unused %s: %w", redact.Argument(a.Unused), err)
		}
	}
	if a.LeakKeys != "" {
		source, err := expand("leak_keys", a.LeakKeys)
		if err != nil {
			return err
		}
		if err := checkLeakKeys(source); err != nil {
			return err
		}
		a.leakKeys = admin.NewLeakKeys(source)
	}
	return nil
}

// parseRemind parses the times of `remind`. It returns nil for none, which stands for the default.
func parseRemind(texts []string) (before []time.Duration, off bool, err error) {
	if len(texts) == 1 && texts[0] == remindOff {
		return nil, true, nil
	}
	if len(texts) > maxRemind {
		return nil, false, fmt.Errorf("remind accepts at most %d times", maxRemind)
	}
	for _, text := range texts {
		d, err := keystore.ParseLifetime(text)
		if err != nil {
			return nil, false, fmt.Errorf("remind %s: must be a time from 1m to 36500d, such as 30d "+
				"or 12h, in whole microseconds, or `off` alone", redact.Argument(text))
		}
		if d < minRemind {
			return nil, false, fmt.Errorf("remind %s: must be at least 1m", redact.Argument(text))
		}
		near := func(other time.Duration) bool { return (d - other).Abs() < minRemind }
		if i := slices.IndexFunc(before, near); i >= 0 {
			return nil, false, fmt.Errorf("remind %s: must be at least 1m apart from %s",
				redact.Argument(text), redact.Argument(texts[i]))
		}
		before = append(before, d)
	}
	return before, false, nil
}

// checkLeakKeys checks that a source is a file or an https URL. Anyone who can change the
// server's response can sign reports.
func checkLeakKeys(source string) error {
	if !strings.Contains(source, "://") {
		return nil
	}
	u, err := url.Parse(source)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return errors.New("leak_keys must be a file or an https URL, such as " +
			"https://api.github.com/meta/public_keys/secret_scanning")
	}
	return nil
}

func parseRemindOption(a *App, d *caddyfile.Dispenser, args []string) error {
	if len(args) == 0 {
		return d.Err("remind requires times before the expiry of keys, such as 30d 7d 1d, or off")
	}
	a.Remind = args
	if slices.ContainsFunc(args, func(arg string) bool { return strings.Contains(arg, "{") }) {
		return nil // Provision checks the expanded values
	}
	if _, _, err := parseRemind(args); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func parseUnused(a *App, d *caddyfile.Dispenser, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return d.Err("unused requires one time, such as 90d")
	}
	a.Unused = args[0]
	if strings.Contains(args[0], "{") {
		return nil
	}
	if _, err := keystore.ParseLifetime(args[0]); err != nil {
		return d.Errf("unused %s: %v", redact.Argument(args[0]), err)
	}
	return nil
}

func parseLeakKeys(a *App, d *caddyfile.Dispenser, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return d.Err("leak_keys requires one URL or file with the keys that sign reports")
	}
	a.LeakKeys = args[0]
	if strings.Contains(args[0], "{") {
		return nil
	}
	if err := checkLeakKeys(args[0]); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

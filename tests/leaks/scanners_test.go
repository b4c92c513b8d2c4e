package leaks

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/viper"
	"github.com/zricethezav/gitleaks/v8/config"
	"github.com/zricethezav/gitleaks/v8/detect"
	"gopkg.in/yaml.v3"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestScannerRules plants tokens, and texts that are not quite tokens, and searches for them with
// the rules that the command line prints.
func TestScannerRules(t *testing.T) {
	g := gate.Start(t, gate.Config{APIKeys: "token_prefix acme_live ak"})
	g.Namespace(t, "old", gate.JSON{"token_prefix": "ak"})
	planted := []string{
		string(g.Mint(t, gate.JSON{"name": "CI", "access": "read_only"}).Token),
		string(g.Mint(t, gate.JSON{"name": "CI", "access": "read_only", "namespace": "old"}).Token),
	}
	member := g.Call(t, "POST", "/members", gate.JSON{"name": "Ada"}).JSON()
	made := g.Call(t, "POST", fmt.Sprintf("/members/%s/token", member["id"]), gate.JSON{}).JSON()
	planted = append(planted, made["token"].(string))
	body := planted[1][len("ak_"):]
	nearMisses := []string{
		"ak_" + body[1:],                    // too short
		"ak_" + body + "0",                  // too long
		"ak_" + body[:20] + "-" + body[21:], // another character
		"ax_" + body, "ak-" + body,          // another prefix
		"weak_" + body, // a longer word
		"AK_" + body,
		"ak_" + strings.Repeat("a", len(body)), // a placeholder
	}
	rules := func(flag string) string {
		r := g.APIKeys(t, "", "scanner-rules", "--"+flag)
		if r.Exit != 0 || r.Stderr != "" {
			t.Fatalf("%s: %v", flag, r)
		}
		return r.Stdout
	}

	v := viper.New()
	v.SetConfigType("toml")
	if err := v.ReadConfig(strings.NewReader(rules("gitleaks"))); err != nil {
		t.Fatal(err)
	}
	var parsed config.ViperConfig
	if err := v.Unmarshal(&parsed); err != nil {
		t.Fatal(err)
	}
	cfg, err := parsed.Translate()
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Rules) < 100 {
		t.Errorf("%d rules: the default ones are missing", len(cfg.Rules))
	}
	found := func(text string) (secrets []string) {
		for _, f := range detect.NewDetector(cfg).DetectString(text) {
			if f.RuleID == "caddy-apikeys-token" {
				secrets = append(secrets, f.Secret)
			}
		}
		return secrets
	}
	for _, form := range []string{"%s", "API_KEY=%s\n", `{"key": "%s"}`,
		"Authorization: Bearer %s\r\n", "curl 'https://example.com/?key=%s&x=1'"} {
		for i, token := range planted {
			if got := found(fmt.Sprintf(form, token)); !slices.Equal(got, []string{token}) {
				t.Errorf("gitleaks finds %d secrets in the form %q of token %d", len(got), form, i)
			}
		}
		for i, text := range nearMisses {
			if got := found(fmt.Sprintf(form, text)); len(got) > 0 {
				t.Errorf("gitleaks takes near miss %d in the form %q for a token", i, form)
			}
		}
	}

	// https://docs.trufflesecurity.com/custom-detectors
	var truffle struct {
		Detectors []struct {
			Name     string
			Keywords []string
			Regex    map[string]string
		}
	}
	d := yaml.NewDecoder(strings.NewReader(rules("trufflehog")))
	d.KnownFields(true)
	if err := d.Decode(&truffle); err != nil {
		t.Fatal(err)
	}
	if len(truffle.Detectors) != 1 || truffle.Detectors[0].Name == "" {
		t.Fatalf("%+v", truffle)
	}
	detector := truffle.Detectors[0]
	expressions := []string{strings.TrimSpace(rules("regex")), detector.Regex["token"]}
	for i, token := range planted {
		if !slices.ContainsFunc(detector.Keywords,
			func(k string) bool { return strings.Contains(token, k) }) {
			t.Errorf("no keyword of TruffleHog is in token %d", i)
		}
	}
	pattern := regexp.MustCompile(`(?m)^Secret format:\s+(\S+)$`)
	gitHub := pattern.FindStringSubmatch(rules("github"))
	if gitHub == nil {
		t.Fatal("no secret format for GitHub")
	}
	expressions = append(expressions, `(?:\A|[^0-9A-Za-z_])`+gitHub[1]+`(?:\z|[^0-9A-Za-z_])`)
	for _, expression := range expressions {
		r, err := regexp.Compile(expression)
		if err != nil {
			t.Fatal(err)
		}
		for i, token := range planted {
			if !r.MatchString("key: " + token) {
				t.Errorf("%s does not match token %d", expression, i)
			}
		}
		for i, text := range nearMisses[:len(nearMisses)-1] {
			if r.MatchString("key: " + text) {
				t.Errorf("%s matches near miss %d", expression, i)
			}
		}
	}
	if r := g.APIKeys(t, "", "scanner-rules"); r.Exit != 1 ||
		!strings.Contains(r.Stderr, "--gitleaks") {
		t.Errorf("without a format: %v", r)
	}
}

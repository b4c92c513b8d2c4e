package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A scannerFormat is a form of the rules that find tokens in repositories.
type scannerFormat struct {
	flag, usage string
	write       func(prefixes []string) string
}

var scannerFormats = []scannerFormat{
	{"gitleaks", "A configuration of gitleaks, which GitLab reads too", gitleaksRules},
	{"trufflehog", "A configuration of TruffleHog", truffleHogRules},
	{"github", "The fields of a custom pattern of GitHub, and of its partner program", gitHubRules},
	{"regex", "The regular expression alone, in the syntax of RE2", func(prefixes []string) string {
		return `\b` + keystore.TokenPattern(prefixes) + `\b` + "\n"
	}},
}

func (c *cli) scannerRulesCommand() *cobra.Command {
	chosen := make([]bool, len(scannerFormats))
	cmd := &cobra.Command{
		Use:   "scanner-rules",
		Short: "Prints rules with which scanners find leaked tokens",
		Long: `
Prints a rule for the tokens of this deployment: those of keys, with every
accepted prefix, and those of members. Imported credentials can have any form
and are not found.`,
		Example: `  caddy apikeys scanner-rules --gitleaks > .gitleaks.toml
  caddy apikeys scanner-rules --trufflehog > trufflehog.yaml
  caddy apikeys scanner-rules --regex`,
		Args: noArguments,
	}
	var names []string
	for i, f := range scannerFormats {
		cmd.Flags().BoolVar(&chosen[i], f.flag, false, f.usage)
		names = append(names, "--"+f.flag)
	}
	cmd.RunE = c.run(func(ctx context.Context, _ []string) error {
		format := slices.Index(chosen, true)
		if format < 0 || slices.Contains(chosen[format+1:], true) {
			return errors.New("choose one of " + strings.Join(names, ", "))
		}
		server, err := c.connect(ctx)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		list, err := server.ListPrefixes(ctx)
		if err != nil {
			return err
		}
		prefixes := append(list.Accepted, keystore.MemberPrefix)
		_, err = fmt.Fprint(c.out, scannerFormats[format].write(prefixes))
		return err
	})
	return cmd
}

// quoted returns the beginnings of tokens with some prefixes, in quotes and separated by commas.
func quoted(prefixes []string) string {
	list := make([]string, len(prefixes))
	for i, p := range prefixes {
		list[i] = `"` + p + `_"`
	}
	return strings.Join(list, ", ")
}

func gitleaksRules(prefixes []string) string {
	return `# Finds the API keys of this deployment: gitleaks git --config FILE
title = "caddy-apikeys"

[extend]
useDefault = true

[[rules]]
id = "caddy-apikeys-token"
description = "API key or member token of caddy-apikeys"
regex = '''\b(` + keystore.TokenPattern(prefixes) + `)\b'''
secretGroup = 1
entropy = 3.5
keywords = [` + quoted(prefixes) + `]
`
}

func truffleHogRules(prefixes []string) string {
	return `# Finds the API keys of this deployment: trufflehog git URL --config FILE
detectors:
  - name: caddy-apikeys
    keywords: [` + quoted(prefixes) + `]
    regex:
      token: '\b(` + keystore.TokenPattern(prefixes) + `)\b'
`
}

func gitHubRules(prefixes []string) string {
	return `Pattern name:   caddy-apikeys token
Secret format:  ` + keystore.TokenPattern(prefixes) + `
Before secret:  \A|[^0-9A-Za-z_]
After secret:   \z|[^0-9A-Za-z_]
Alert endpoint: https://YOUR-SITE/apikeys/v1/leaks (partner program only)
`
}

package command

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Shows the version of the plugin and of Caddy",
		Long: `
Shows the version of caddy-apikeys in this program, and that of Caddy. 'caddy
apikeys doctor' and 'caddy apikeys nodes' are about a running Caddy.`,
		Example: "  caddy apikeys version\n  caddy apikeys version --json | jq -r .version",
		Args:    noArguments,
		RunE: c.local(func(context.Context, []string) error {
			plugin, ours := versions()
			if c.json {
				return c.writeJSON(struct {
					Version string `json:"version"`
					Caddy   string `json:"caddy"`
				}{plugin, ours})
			}
			_, err := fmt.Fprintf(c.out, "caddy-apikeys %s (Caddy %s)\n", plugin, ours)
			return err
		}),
	}
}

// versions returns the versions of the plugin and of Caddy in this binary. Programs and images of
// releases name the plugin's in CustomVersion, because an image is built without the Git repository.
func versions() (plugin, ours string) {
	ours, _ = caddy.Version()
	if released, ok := strings.CutPrefix(caddy.CustomVersion, "caddy-apikeys/"); ok {
		return released, ours
	}
	plugin = "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range append(info.Deps, &info.Main) {
			if dep.Path == modulePath && dep.Version != "" {
				plugin = dep.Version
			}
		}
	}
	return plugin, ours
}

const modulePath = "github.com/caddy-apikeys/caddy-apikeys"

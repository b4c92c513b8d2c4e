// Command caddy is Caddy with its standard modules and API keys.
package main

import (
	"fmt"
	"os"
	"slices"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-apikeys/caddy-apikeys"
)

// downloads are Caddy's commands that replace the program with one of caddyserver.com. They look up
// each plugin among the dependencies of the program and crash if it is the main module.
var downloads = []string{"upgrade", "add-package", "remove-package"}

func main() {
	if len(os.Args) > 1 && slices.Contains(downloads, os.Args[1]) {
		fmt.Fprintf(os.Stderr, "caddy %s does not work in this build. Install a newer release, or "+
			"build Caddy with other plugins:\n"+
			"https://github.com/caddy-apikeys/caddy-apikeys/blob/main/xcaddy.md\n", os.Args[1])
		os.Exit(1)
	}
	caddycmd.Main()
}

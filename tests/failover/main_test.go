package failover

import (
	"os"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == keeperCommand {
		os.Exit(keep(os.Args[2:]))
	}
	gate.Main(m)
}

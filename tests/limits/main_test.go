package limits

import (
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) {
	gate.DetectRaces()
	gate.Main(m, postgres.Stop)
}

// postgres is the server for tests that do not break it. Each fleet has its own schema.
var postgres postgrestest.Shared

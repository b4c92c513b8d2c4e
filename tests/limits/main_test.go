package limits

import (
	"sync"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/postgrestest"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func TestMain(m *testing.M) {
	gate.Main(m, func() {
		if shared != nil {
			shared.Stop()
		}
	})
}

// sharedPostgres starts the server for tests that do not break it. Each fleet has its own schema.
var (
	sharedPostgres = sync.OnceValue(func() (err error) {
		shared, err = postgrestest.Start()
		return err
	})
	shared *postgrestest.Server
)

func postgres(t testing.TB) *postgrestest.Server {
	t.Helper()
	if err := sharedPostgres(); err != nil {
		t.Fatal(err)
	}
	return shared
}

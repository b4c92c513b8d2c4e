package postgrestest

import (
	"sync"
	"testing"
)

// Shared is a server that several tests use. It starts when it is used first.
type Shared struct {
	once   sync.Once
	server *Server
	err    error
}

// For returns the server. It fails the test if the server does not start.
func (s *Shared) For(t testing.TB) *Server {
	t.Helper()
	s.once.Do(func() { s.server, s.err = Start() })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.server
}

// Stop stops the server if it was started.
func (s *Shared) Stop() {
	if s.server != nil {
		s.server.Stop()
	}
}

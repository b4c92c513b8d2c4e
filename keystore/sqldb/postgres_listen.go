package sqldb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	maxBackoff = 5 * time.Second
	// pingInterval is after how much silence the listening connection is asked whether it is still there.
	pingInterval = 10 * time.Second
	pingTimeout  = 3 * time.Second
)

// listen calls fire for each change of any process that PostgreSQL tells of, until ctx ends, on a connection of its own.
// Each new connection may have missed some. Errors are left to whoever asks for the head next and can tell someone.
func (p *postgres) listen(ctx context.Context, fire func()) {
	backoff := 50 * time.Millisecond
	for ctx.Err() == nil {
		if p.listenOnce(ctx, fire) {
			backoff = 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// listenOnce returns when the connection is lost, and whether it was ever good.
func (p *postgres) listenOnce(ctx context.Context, fire func()) (listened bool) {
	connectCtx, cancel := context.WithTimeout(ctx, pingInterval)
	defer cancel()
	conn, err := pgx.ConnectConfig(connectCtx, p.current(connectCtx))
	if err != nil {
		return false
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(closeCtx)
	}()
	var schema uint32
	if err := conn.QueryRow(connectCtx, "SELECT oid FROM pg_namespace WHERE nspname = current_schema()").Scan(&schema); err != nil {
		return false
	}
	if _, err := conn.Exec(connectCtx, fmt.Sprintf("LISTEN apikeys_%d", schema)); err != nil {
		return false
	}
	fire()
	for {
		wait, cancel := context.WithTimeout(ctx, pingInterval)
		_, err := conn.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			fire()
			continue
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return true
		}
		ping, cancel := context.WithTimeout(ctx, pingTimeout)
		err = conn.Ping(ping)
		cancel()
		if err != nil {
			return true
		}
	}
}

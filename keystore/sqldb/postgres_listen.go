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
	// checkInterval is how long the connection may be silent before it is checked: that it still
	// works, and that it listens for the right schema.
	checkInterval = 2 * time.Second
	checkTimeout  = 3 * time.Second
	listenTimeout = 10 * time.Second
)

// listen calls fire for each notification of a change, by any process, until ctx ends. It has its
// own connection. It also fires for each new connection, which may have missed notifications. It
// ignores errors, because the next call that reads the head reports them.
func (p *postgres) listen(ctx context.Context, fire func()) {
	backoff := 50 * time.Millisecond
	for ctx.Err() == nil {
		if p.listenOnce(ctx, fire) {
			backoff = 50 * time.Millisecond
		}
		_ = sleep(ctx, backoff)
		backoff = min(2*backoff, maxBackoff)
	}
}

// listenOnce returns when the connection is lost or the schema was replaced. It reports whether it
// has listened.
func (p *postgres) listenOnce(ctx context.Context, fire func()) (listened bool) {
	connectCtx, cancel := context.WithTimeout(ctx, listenTimeout)
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
	schema, err := currentSchema(connectCtx, conn)
	if err != nil {
		return false
	}
	if _, err := conn.Exec(connectCtx, fmt.Sprintf("LISTEN apikeys_%d", schema)); err != nil {
		return false
	}
	fire()
	for {
		wait, cancel := context.WithTimeout(ctx, checkInterval)
		_, err := conn.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			fire()
			continue
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return true
		}
		check, cancel := context.WithTimeout(ctx, checkTimeout)
		now, err := currentSchema(check, conn)
		cancel()
		if err != nil || now != schema {
			return true
		}
	}
}

// currentSchema returns the oid of the schema. The name of the channel contains it, and a restore
// changes it.
func currentSchema(ctx context.Context, conn *pgx.Conn) (oid uint32, err error) {
	err = conn.QueryRow(ctx,
		"SELECT oid FROM pg_namespace WHERE nspname = current_schema()").Scan(&oid)
	return oid, err
}

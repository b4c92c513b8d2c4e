package events

import (
	"context"
	"slices"
	"sync"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// A saver stores the rows of the webhooks of this process. While it writes some rows, others wait
// and are then written together: SQLite has a single writer, and a revoke may wait for it.
type saver struct {
	keys *manage.Keystore
	turn chan struct{} // full while a goroutine writes

	mu      sync.Mutex
	waiting []*pendingSave
}

// A pendingSave is a row that waits to be written. Once it is in waiting, only the goroutine that
// has the turn uses it.
type pendingSave struct {
	webhook     *keystore.Webhook
	done, saved bool
}

func newSaver(ks *manage.Keystore) *saver {
	return &saver{keys: ks, turn: make(chan struct{}, 1)}
}

// save stores a row within storeTimeout. It returns false if another node has changed the row, or if
// the write failed. A write that failed may have been committed.
func (s *saver) save(w *keystore.Webhook) bool {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	own := &pendingSave{webhook: w}
	s.mu.Lock()
	s.waiting = append(s.waiting, own)
	s.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting = slices.DeleteFunc(s.waiting, func(one *pendingSave) bool { return one == own })
		return false
	}
	if !own.done { // another goroutine has not written it together with its own row
		s.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		s.mu.Unlock()
		s.write(ctx, batch)
	}
	return own.saved
}

func (s *saver) write(ctx context.Context, batch []*pendingSave) {
	var rows []keystore.Webhook
	for _, one := range batch {
		// A delivery that ends and its successor may save the same row. Only the first one can
		// succeed, because both expect the same Beat.
		one.done = slices.ContainsFunc(rows, func(w keystore.Webhook) bool {
			return w.ID == one.webhook.ID
		})
		if !one.done {
			rows = append(rows, *one.webhook)
		}
	}
	saved, err := s.keys.Database().SaveWebhooks(ctx, rows)
	if err != nil {
		_ = s.keys.StoreFailed("saving the progress of webhooks", err)
	}
	for _, one := range batch {
		one.saved = !one.done && err == nil && slices.Contains(saved, one.webhook.ID)
		one.done = true
	}
}

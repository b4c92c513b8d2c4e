package events

import (
	"context"
	"slices"
	"sync"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// A saver stores the rows of the webhooks of this process. The rows that come while it writes
// others are written together, because SQLite has a single writer, which a revoke may wait for.
type saver struct {
	keys *manage.Keystore
	turn chan struct{} // full while a goroutine writes

	mu      sync.Mutex
	waiting []*saving
}

// A saving is one row. Only the goroutine that has the turn uses it.
type saving struct {
	webhook     *keystore.Webhook
	done, saved bool
}

func newSaver(ks *manage.Keystore) *saver {
	return &saver{keys: ks, turn: make(chan struct{}, 1)}
}

// save stores a row, within storeTimeout. It returns false if somebody else has changed it, or if
// the write failed. The write may have happened then.
func (s *saver) save(w *keystore.Webhook) bool {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	own := &saving{webhook: w}
	s.mu.Lock()
	s.waiting = append(s.waiting, own)
	s.mu.Unlock()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting = slices.DeleteFunc(s.waiting, func(one *saving) bool { return one == own })
		return false
	}
	if !own.done { // with the rows of another goroutine
		s.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		s.mu.Unlock()
		s.write(ctx, batch)
	}
	return own.saved
}

func (s *saver) write(ctx context.Context, batch []*saving) {
	var rows []keystore.Webhook
	for _, one := range batch {
		// A delivery that ends and its successor may save the same row. The second has lost it.
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

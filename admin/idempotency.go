package admin

import (
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// Idempotency holds the header of every operation that creates keys. It is exported because huma
// sets it by reflection.
type Idempotency struct {
	Key string `header:"Idempotency-Key" maxLength:"200" doc:"A repeated request with the same value within 24 h is refused (409) and creates nothing"`
}

// idempotencyPeriod is how long a value of Idempotency-Key is remembered.
const idempotencyPeriod = 24 * time.Hour

// once returns the check for a repeat of this request, or nil without the header.
func (i Idempotency) once() manage.Once {
	if i.Key == "" {
		return nil
	}
	return idempotencyKey(i.Key)
}

// An idempotencyKey is a value of Idempotency-Key. Values of different callers are independent. The
// id of the created key is stored with the value, so that the refusal of a repeat can name the key.
type idempotencyKey string

// Before implements manage.Once.
func (k idempotencyKey) Before(tx keystore.Tx, caller string) error {
	created, err := tx.Remembered(caller, string(k), tx.Now().Add(-idempotencyPeriod))
	if err != nil || created == "" {
		return err
	}
	return &keystore.Error{Kind: keystore.KindConflict, Code: "already_made",
		Detail: "a request with this Idempotency-Key has already been carried out; its token is " +
			"shown only once", ID: created}
}

// After implements manage.Once.
func (k idempotencyKey) After(tx keystore.Tx, caller, created string) error {
	return tx.Remember(caller, string(k), created, tx.Now().Add(-idempotencyPeriod))
}

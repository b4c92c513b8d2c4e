package manage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// An ImportSpec describes a key to import. Its credential was created elsewhere.
type ImportSpec struct {
	KeySpec
	Line   int             // the line in the input, counted from 1
	Token  string          // the credential, or empty if Digest is set
	Digest keystore.Digest // the SHA-256 of the credential, or zero if Token is set
	Err    *keystore.Error // why the line could not be parsed, nil if it could
	ID     string          // the id of the imported key, set by ImportKeys; empty if it was refused
}

// An ImportRefusal says why a line was not imported.
type ImportRefusal struct {
	Line   int
	Code   string
	Detail string
}

const (
	// importBatch is how many rows one transaction adds: keys with their grants and roles. Other
	// changes wait for at most one such transaction.
	importBatch = 500
	// importWait bounds how long an import waits for unreachable nodes. It is longer than the usual
	// lease. Until its lease expires, an unreachable node refuses the credentials of the first
	// import as malformed.
	importWait = 5 * time.Minute
	// importIdle is the time after which an import that adds no keys counts as abandoned.
	importIdle = time.Minute
	// maxImports is how many imports may run on a node at the same time.
	maxImports = 16
	// MaxImport is how many keys an import of a caller other than root may have if it is not
	// partial or has a Once. All of them may have to be checked again before they become valid.
	MaxImport = 10_000
)

// An ImportSource is a list of keys to import.
type ImportSource interface {
	// Len returns the number of keys.
	Len() int
	// At returns a key. It may be called several times for each key, so that a source can store
	// keys as text and parse them when they are needed.
	At(i int) ImportSpec
	// Imported is called for each imported key, with its id, after the key has become valid.
	Imported(i int, id string)
}

type importSpecs []ImportSpec

func (s importSpecs) Len() int                  { return len(s) }
func (s importSpecs) At(i int) ImportSpec       { return s[i] }
func (s importSpecs) Imported(i int, id string) { s[i].ID = id }

// ImportKeys is ImportFrom for a list of keys. It sets the ID of each key that it imports.
func (k *Keystore) ImportKeys(
	ctx context.Context, c Caller, specs []ImportSpec, partial bool, once Once,
) (imported int, refused []ImportRefusal, err error) {
	return k.ImportFrom(ctx, c, importSpecs(specs), partial, once)
}

// ImportFrom creates keys with existing credentials. With partial, it imports the valid keys.
// Without partial, it imports nothing if any key is refused. Without partial or with a Once, all
// credentials become valid at the same time. They are valid on every node when ImportFrom returns.
// The keys of a large import appear in lists earlier.
func (k *Keystore) ImportFrom(
	ctx context.Context, c Caller, source ImportSource, partial bool, once Once,
) (imported int, refused []ImportRefusal, err error) {
	whole := !partial || once != nil
	if !c.root && whole && source.Len() > MaxImport {
		return 0, nil, &keystore.Error{Kind: keystore.KindInvalid, Code: "too_many",
			Detail: fmt.Sprintf("only root can import more than %d keys at once: send fewer at a "+
				"time, or use partial=1 without Idempotency-Key", MaxImport)}
	}
	select {
	case k.imports <- struct{}{}:
		defer func() { <-k.imports }()
	default:
		return 0, nil, &keystore.Error{Kind: keystore.KindBusy, Code: "busy", Detail: fmt.Sprintf(
			"%d imports are running on this node; try again when one has finished", maxImports)}
	}
	for indexes, batch := range batches(source, upTo(source.Len())) {
		if whole && len(batch) < source.Len() {
			return k.importInBatches(ctx, c, source, partial, once)
		}
		ids, refusedHere, err := k.importInOneTransaction(ctx, c, batch, partial, once)
		refused = append(refused, refusedHere...)
		if err != nil {
			return imported, refused, err
		}
		imported += reportImported(source, indexes, ids)
	}
	return imported, refused, nil
}

// reportImported reports the ids of keys to their source and returns how many were imported. An
// empty id means that the key was refused.
func reportImported(source ImportSource, indexes []int, ids []string) (imported int) {
	for i, id := range ids {
		if id != "" {
			source.Imported(indexes[i], id)
			imported++
		}
	}
	return imported
}

// upTo yields 0 to n-1.
func upTo(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := 0; i < n && yield(i); i++ {
		}
	}
}

// batches splits the keys at the given indexes of a source into batches, one for each transaction.
// It yields the indexes and the keys of each batch.
func batches(source ImportSource, at iter.Seq[int]) iter.Seq2[[]int, []ImportSpec] {
	return func(yield func([]int, []ImportSpec) bool) {
		var indexes []int
		var batch []ImportSpec
		size := 0
		for i := range at {
			s := source.At(i)
			rows := s.rows()
			if len(batch) > 0 && size+rows > importBatch {
				if !yield(indexes, batch) {
					return
				}
				indexes, batch, size = nil, nil, 0
			}
			indexes, batch = append(indexes, i), append(batch, s)
			size += rows
		}
		if len(batch) > 0 {
			yield(indexes, batch)
		}
	}
}

// rows returns the number of database rows that a key needs.
func (s *KeySpec) rows() int {
	n := 1
	if s.Home != nil {
		n += len(s.Home.Roles)
	}
	for _, g := range s.Grants {
		n += 1 + len(g.Roles)
	}
	return n
}

// errNotImported rolls back the transaction of an import.
var errNotImported = &keystore.Error{Kind: keystore.KindInvalid, Code: "import_refused",
	Detail: "nothing was imported"}

// importInOneTransaction imports a batch of keys. It returns their ids, empty for refused keys.
func (k *Keystore) importInOneTransaction(
	ctx context.Context, c Caller, specs []ImportSpec, partial bool, once Once,
) (ids []string, refused []ImportRefusal, err error) {
	done, err := k.commitBulk(ctx, c, func(tx keystore.Tx, auth authority) error {
		if err := mayImport(tx, auth, once); err != nil {
			return err
		}
		keys, errs, err := k.insertImports(tx.Now(), auth, specs, k.keyCapacityIn(tx, auth),
			tx.InsertKeys)
		if err != nil {
			return err
		}
		ids, refused = idsOf(keys, errs), refusals(specs, errs)
		if len(refused) > 0 && !partial {
			return errNotImported
		}
		if err := auditImport(tx, auth, keys); err != nil {
			return err
		}
		return recordCreated(once, tx, auth, lastID(keys))
	})
	if err == nil {
		_, err = k.Propagate(done, importWait)
	}
	switch {
	case errors.Is(err, errNotImported):
		return nil, refused, nil
	case err != nil:
		return nil, refused, err
	}
	return ids, refused, nil
}

// idsOf returns an id for each of errs: that of the next key if the error is nil, otherwise an
// empty one.
func idsOf(keys []*keystore.Key, errs []*keystore.Error) []string {
	ids := make([]string, len(errs))
	for i, err := range errs {
		if err == nil {
			ids[i], keys = keys[0].ID, keys[1:]
		}
	}
	return ids
}

// mayImport makes the checks with which every transaction of an import begins.
func mayImport(tx keystore.Tx, auth authority, once Once) error {
	if err := auth.requireAnywhere(adminKeys, "create"); err != nil {
		return err
	}
	return refuseRepeat(once, tx, auth)
}

// importInBatches imports many keys in short transactions. Each key exists from its own transaction
// on, so that nothing it refers to can be deleted, and revoking the keys that the caller created
// revokes it too. All credentials become valid in the last transaction.
func (k *Keystore) importInBatches(
	ctx context.Context, c Caller, source ImportSource, partial bool, once Once,
) (imported int, refused []ImportRefusal, err error) {
	// Errors in the keys are found before the first write and without the write lock.
	valid, refused, err := k.validateImport(ctx, c, source, once)
	if err != nil || len(refused) > 0 && !partial || len(valid) == 0 {
		return 0, refused, err
	}
	// An import belongs to a registered node. If the node is removed, the import is abandoned.
	if err := k.Renew(ctx); err != nil {
		return 0, nil, err
	}
	var id int64
	var createdAt time.Time
	var first authority // in the first transaction
	changed := false    // whether the authority changed after it
	published := false
	defer func() {
		if id != 0 && !published {
			k.abandonImports(k.Running(), id)
		}
		if errors.Is(err, errNotImported) {
			err = nil
		}
	}()
	var keys []*keystore.Key
	ids := make([]string, 0, len(valid))
	for _, batch := range batches(source, slices.Values(valid)) {
		var errs []*keystore.Error
		_, err := k.commitBulk(ctx, c, func(tx keystore.Tx, auth authority) (err error) {
			if err := mayImport(tx, auth, once); err != nil {
				return err
			}
			if id == 0 {
				first, createdAt = auth, tx.Now()
				if id, err = tx.BeginImport(k.Incarnation(), auth.actor); err != nil {
					return err
				}
			}
			changed = changed || !auth.equal(&first)
			stage := func(keys []*keystore.Key) (map[int]error, error) {
				return tx.StageKeys(id, keys)
			}
			keys, errs, err = k.insertImports(createdAt, auth, batch, k.keyCapacityIn(tx, auth),
				stage)
			if err != nil {
				return importAbandoned(err)
			}
			if len(keys) < len(batch) && !partial {
				return errNotImported
			}
			return auditImport(tx, auth, keys)
		})
		refused = append(refused, refusals(batch, errs)...)
		if err != nil {
			return 0, refused, err
		}
		ids = append(ids, idsOf(keys, errs)...)
	}
	err = k.add(ctx, c, importWait, func(tx keystore.Tx, auth authority) error {
		if err := mayImport(tx, auth, once); err != nil {
			return err
		}
		// Check all keys again if the caller's authority has changed. Root has no limits.
		if !auth.root && (changed || !auth.equal(&first)) {
			for _, i := range valid {
				if _, err := k.importedKey(createdAt, auth, source.At(i)); err != nil {
					return err
				}
			}
		}
		if err := tx.PublishImport(id); err != nil {
			return importAbandoned(err)
		}
		return recordCreated(once, tx, auth, lastID(keys))
	})
	if err != nil {
		return 0, refused, err
	}
	published = true
	return reportImported(source, valid, ids), refused, nil
}

// importAbandoned returns a refusal if err says that another node has abandoned the import,
// otherwise err.
func importAbandoned(err error) error {
	if isNotFound(err) {
		return &keystore.Error{Kind: keystore.KindConflict, Code: "import_abandoned",
			Detail: "another node removed the keys of this import, because the import added none " +
				"for too long or its node was removed; import them again"}
	}
	return err
}

// validateImport returns the indexes of the keys that can be imported, as far as can be known
// before writing, and the errors of the others.
func (k *Keystore) validateImport(
	ctx context.Context, c Caller, source ImportSource, once Once,
) (valid []int, refused []ImportRefusal, err error) {
	var auth authority
	var now time.Time
	_, err = k.commitBulk(ctx, c, func(tx keystore.Tx, a authority) error {
		if err := mayImport(tx, a, once); err != nil {
			return err
		}
		auth, now = a, tx.Now()
		return errNotImported
	})
	if !errors.Is(err, errNotImported) {
		return nil, nil, err
	}
	taken, spent := make(map[string]bool), make(map[keystore.Digest]bool, source.Len())
	check := func(keys []*keystore.Key) (map[int]error, error) {
		refused, err := k.Database().RefusedKeys(ctx, keys)
		for i, key := range keys {
			digest := key.Secrets[0].Digest
			switch {
			case err != nil || refused[i] != nil:
			case taken[key.ID]:
				refused[i] = keystore.ErrExists
			case spent[digest]:
				refused[i] = keystore.ErrSpent
			default:
				taken[key.ID], spent[digest] = true, true
			}
		}
		return refused, err
	}
	for indexes, batch := range batches(source, upTo(source.Len())) {
		_, errs, err := k.insertImports(now, auth, batch, nil, check)
		if err != nil {
			return nil, nil, k.StoreFailed("checking an import", err)
		}
		refused = append(refused, refusals(batch, errs)...)
		for i, index := range indexes {
			if errs[i] == nil {
				valid = append(valid, index)
			}
		}
	}
	return valid, refused, nil
}

// equal reports whether a caller has the same permissions and limits as before.
func (a *authority) equal(before *authority) bool {
	return a.policy.Revision() == before.policy.Revision() && a.keyGrants == before.keyGrants &&
		a.expiresAt.Equal(before.expiresAt) && slices.Equal(a.allowedIPs, before.allowedIPs) &&
		a.limits == before.limits
}

// abandonImports removes the keys of the import with this id and of all abandoned imports. With id
// 0 it removes only the latter. It stops when parent is done.
func (k *Keystore) abandonImports(parent context.Context, id int64) {
	ctx, cancel := context.WithTimeout(parent, node.QueryTimeout)
	defer cancel()
	if _, err := k.Database().Nodes(ctx); err != nil {
		_ = k.StoreFailed("searching for abandoned imports", err)
		return
	}
	auth := internalAuthority("a failed import")
	for more := true; more; {
		// The commit may wait for a standby.
		ctx, cancel := context.WithTimeout(parent, node.WriteTimeout)
		_, err := k.commitBulk(ctx, Root(auth.from), func(tx keystore.Tx, _ authority) error {
			if err := tx.AbandonImports(id, tx.Now().Add(-importIdle)); err != nil {
				return err
			}
			keys, err := tx.RemoveAbandoned(importBatch)
			if err != nil {
				return err
			}
			if more = len(keys) > 0; !more {
				// Someone has changed these keys since they were added and has been told that the
				// change was made. They are revoked rather than removed, so that a revoked
				// credential cannot be imported again.
				changed, err := tx.ChangedAbandoned(importBatch)
				if err != nil || len(changed) == 0 {
					return err
				}
				more = true
				_, err = revokeAll(tx, auth, changed,
					func(string) string { return "the import of this key failed" })
				return err
			}
			changes := make([]auditedChange, len(keys))
			for i := range keys {
				changes[i] = auditedChange{keys[i].ID, keys[i].Touches(auth.policy), &keys[i], nil}
			}
			return auditAll(tx, auth, "key.delete", changes)
		})
		cancel()
		if err != nil {
			return // the next call continues
		}
	}
}

// insertImports creates keys from specs and inserts them. It returns the inserted keys, and for
// each spec the error that refused it, or nil. With a nil capacity, it does not check the caps on
// keys.
func (k *Keystore) insertImports(
	now time.Time, auth authority, specs []ImportSpec, capacity *keyCapacity,
	insert func([]*keystore.Key) (refused map[int]error, err error),
) (inserted []*keystore.Key, errs []*keystore.Error, err error) {
	errs = make([]*keystore.Error, len(specs))
	keys := make([]*keystore.Key, 0, len(specs))
	specOf := make([]int, 0, len(specs)) // for each of keys, the index of its spec
	for i, s := range specs {
		key, err := k.importedKey(now, auth, s)
		if err == nil && capacity != nil {
			err = capacity.add(key)
		}
		switch {
		case err == nil:
			keys, specOf = append(keys, key), append(specOf, i)
		case !errors.As(err, &errs[i]):
			return nil, nil, err
		}
	}
	refused, err := insert(keys)
	if err != nil {
		return nil, nil, err
	}
	for i, key := range keys {
		switch {
		case refused[i] == nil:
			inserted = append(inserted, key)
		case errors.Is(refused[i], keystore.ErrExists):
			errs[specOf[i]] = &keystore.Error{Kind: keystore.KindConflict, Code: "exists",
				Detail: "a key with the id in this token already exists"}
		default: // ErrSpent
			errs[specOf[i]] = &keystore.Error{Kind: keystore.KindConflict, Code: "already_used",
				Detail: "this credential is or was in use; it cannot be used again"}
		}
	}
	return inserted, errs, nil
}

// refusals returns the errors of specs that are not nil.
func refusals(specs []ImportSpec, errs []*keystore.Error) (list []ImportRefusal) {
	for i, err := range errs {
		if err != nil {
			list = append(list, ImportRefusal{Line: specs[i].Line, Code: err.Code,
				Detail: err.Error()})
		}
	}
	return list
}

func auditImport(tx keystore.Tx, auth authority, keys []*keystore.Key) error {
	return auditNew(tx, auth, "key.import", keys, nil)
}

func lastID(keys []*keystore.Key) string {
	if len(keys) == 0 {
		return ""
	}
	return keys[len(keys)-1].ID
}

// importedKey checks a spec and returns the key that it describes.
func (k *Keystore) importedKey(now time.Time, auth authority, s ImportSpec) (*keystore.Key, error) {
	if s.Err != nil {
		return nil, s.Err
	}
	if len(s.NewRoles) > 0 {
		return nil, &keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_fields",
			Detail: "new_roles: must be empty in an import; create the roles first"}
	}
	secret := keystore.Secret{Digest: s.Digest, CreatedAt: now, Imported: true}
	id, prefix := keystore.NewID(), k.prefixIn(auth.policy, s.Namespace)
	switch {
	case s.Token != "" && !s.Digest.IsZero():
		return nil, badCredential("exactly one of token and sha256 is required")
	case s.Token != "":
		token := keystore.TrimSecretToken(s.Token) // as in requests
		ours, err := k.importable(token)
		if err != nil {
			return nil, err
		}
		secret.Digest = keystore.DigestOf(token)
		if ours.Reveal() != "" {
			id, prefix, secret.Imported = ours.ID(), ours.Prefix(), false
		}
		secret.Deriving = k.NewDerivingKey(token)
	case s.Digest.IsZero():
		return nil, badCredential("exactly one of token and sha256 is required")
	}
	key, err := s.key(now, auth, id, prefix)
	if err != nil {
		return nil, err
	}
	key.Secrets = []keystore.Secret{secret}
	return key, nil
}

// importable checks a credential. One with a prefix of this deployment must have a valid tag,
// because requests with it would otherwise be refused as forged; importable returns it as a Token.
// For any other credential, it returns the zero Token. A derived token is not importable.
func (k *Keystore) importable(credential string) (keystore.Token, error) {
	if keystore.IsDerived(credential) { // requests with it count as those of its key
		return keystore.Token{}, badCredential(
			"this is a derived token: import the token that it was derived from")
	}
	if !keystore.PossibleCredential(credential) {
		return keystore.Token{}, badCredential(
			"a token must have 8 to 512 visible ASCII characters")
	}
	if k.Abandoned(credential) {
		t, _ := keystore.ParseToken(credential)
		return keystore.Token{}, badCredential("this deployment created the token with prefix " +
			t.Prefix() + ", which it no longer accepts: accept the prefix again, or create " +
			"another key")
	}
	if !k.HasPrefix(credential) {
		return keystore.Token{}, nil
	}
	if _, ok := k.Inspect(credential); !ok {
		return keystore.Token{}, badCredential("the token has a prefix of this deployment but " +
			"was not created with its token key: check that it is complete, or create another key")
	}
	return keystore.ParseToken(credential)
}

func badCredential(detail string) *keystore.Error {
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_credential", Detail: detail}
}

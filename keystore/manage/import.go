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

// An ImportSpec is a key whose credential was made elsewhere.
type ImportSpec struct {
	KeySpec
	Line   int             // where it stands in the input, counted from 1
	Token  string          // the credential itself …
	Digest keystore.Digest // … or its SHA-256
	Err    *keystore.Error // why the line could not be read, nil: it could
	ID     string          // of the imported key, set by ImportKeys; empty if the key was refused
}

// An ImportRefusal is one line that was not imported.
type ImportRefusal struct {
	Line   int
	Code   string
	Detail string
}

const (
	// importSlice is how many rows one transaction adds: keys, with their grants and roles. Other
	// changes wait for at most one such transaction.
	importBatch = 500
	// importWait bounds how long an import waits for a node that is cut off: longer than leases
	// usually are. Until its lease has run out, that node takes imported credentials for malformed
	// if there were none before.
	importWait = 5 * time.Minute
	// importIdle is how long an import may add nothing before it counts as abandoned.
	importIdle = time.Minute
	// maxImports is how many imports may run on a node.
	maxImports = 16
	// MaxImport is how many keys a caller other than root may import in one import that is all or
	// nothing: all of them are checked again before they become valid.
	MaxImport = 10_000
)

// An ImportSource is a list of keys to import. At may be called several times for each key, so a
// source can hold keys as text and parse them in At.
type ImportSource interface {
	Len() int
	At(i int) ImportSpec
	// Imported is called with the id of each key that was imported, once it is valid.
	Imported(i int, id string)
}

type importSpecs []ImportSpec

func (s importSpecs) Len() int                  { return len(s) }
func (s importSpecs) At(i int) ImportSpec       { return s[i] }
func (s importSpecs) Imported(i int, id string) { s[i].ID = id }

// ImportKeys is ImportFrom for keys that are in memory. It sets the ID of each key that it imports.
func (k *Keystore) ImportKeys(
	ctx context.Context, c Caller, specs []ImportSpec, partial bool, once Once,
) (imported int, refused []ImportRefusal, err error) {
	return k.ImportFrom(ctx, c, importSpecs(specs), partial, once)
}

// ImportFrom adds keys with existing credentials. With partial, it imports the valid keys. Without
// partial, it imports nothing if any key is refused, and all credentials become valid at the same
// time; the latter also holds with once, see [Once]. The keys are valid on every node
// when ImportFrom returns; keys of a large import are listed earlier.
func (k *Keystore) ImportFrom(
	ctx context.Context, c Caller, source ImportSource, partial bool, once Once,
) (imported int, refused []ImportRefusal, err error) {
	whole := !partial || once != nil
	if !c.root && whole && source.Len() > MaxImport {
		return 0, nil, &keystore.Error{Kind: keystore.KindInvalid, Code: "too_many",
			Detail: fmt.Sprintf("more than %d keys cannot be imported all or nothing: send fewer "+
				"at a time, or use partial=1", MaxImport)}
	}
	select {
	case k.imports <- struct{}{}:
		defer func() { <-k.imports }()
	default:
		return 0, nil, &keystore.Error{Kind: keystore.KindBusy, Code: "busy", Detail: fmt.Sprintf(
			"%d imports are running on this node: try again when one has finished", maxImports)}
	}
	for numbers, slice := range batches(source, all(source.Len())) {
		if whole && len(slice) < source.Len() {
			return k.importInBatches(ctx, c, source, partial, once)
		}
		ids, no, err := k.importInOneTransaction(ctx, c, slice, partial, once)
		refused = append(refused, no...)
		if err != nil {
			return imported, refused, err
		}
		imported += reportImported(source, numbers, ids)
	}
	return imported, refused, nil
}

// announce tells a source the ids of its keys, empty for those that were refused. It returns how
// many were imported.
func reportImported(source ImportSource, numbers []int, ids []string) (imported int) {
	for i, id := range ids {
		if id != "" {
			source.Imported(numbers[i], id)
			imported++
		}
	}
	return imported
}

// all yields 0 to n-1.
func all(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := 0; i < n && yield(i); i++ {
		}
	}
}

// sliced splits some keys of a source into the parts that one transaction each adds, with their
// numbers.
func batches(source ImportSource, which iter.Seq[int]) iter.Seq2[[]int, []ImportSpec] {
	return func(yield func([]int, []ImportSpec) bool) {
		var numbers []int
		var slice []ImportSpec
		size := 0
		for i := range which {
			s := source.At(i)
			rows := s.rows()
			if len(slice) > 0 && size+rows > importBatch {
				if !yield(numbers, slice) {
					return
				}
				numbers, slice, size = nil, nil, 0
			}
			numbers, slice = append(numbers, i), append(slice, s)
			size += rows
		}
		if len(slice) > 0 {
			yield(numbers, slice)
		}
	}
}

// rows is the number of rows to write for a key.
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

// errNothing rolls a transaction back.
var errNotImported = &keystore.Error{Kind: keystore.KindInvalid, Code: "import_refused",
	Detail: "nothing is imported"}

// importAtOnce imports a few keys in one transaction. It returns their ids, empty for those that it
// refused.
func (k *Keystore) importInOneTransaction(
	ctx context.Context, c Caller, specs []ImportSpec, partial bool, once Once,
) (ids []string, refused []ImportRefusal, err error) {
	done, err := k.commitBulk(ctx, c, func(tx keystore.Tx, auth authority) error {
		if err := mayImport(tx, auth, once); err != nil {
			return err
		}
		keys, no, err := k.insertImports(tx.Now(), auth, specs, k.keyCapacityIn(tx, auth), tx.InsertKeys)
		if err != nil {
			return err
		}
		ids, refused = idsOf(keys, no, len(specs)), refusals(specs, no)
		if len(refused) > 0 && !partial {
			return errNotImported
		}
		if err := auditImport(tx, auth, keys); err != nil {
			return err
		}
		return noteCreated(once, tx, auth, lastID(keys))
	})
	if err == nil {
		_, err = k.Propagate(ctx, done, importWait)
	}
	switch {
	case errors.Is(err, errNotImported):
		return nil, refused, nil
	case err != nil:
		return nil, refused, err
	}
	return ids, refused, nil
}

// idsOf returns the ids of n keys, some of which were refused. keys are the others.
func idsOf(keys []*keystore.Key, refused []*keystore.Error, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		if refused[i] == nil {
			ids[i], keys = keys[0].ID, keys[1:]
		}
	}
	return ids
}

func mayImport(tx keystore.Tx, auth authority, once Once) error {
	if err := auth.requireAnywhere(adminKeys, "create"); err != nil {
		return err
	}
	return refuseRepeat(once, tx, auth)
}

// importInSlices imports many keys in short transactions. The keys exist from their own transaction
// on: nothing they refer to can be deleted, and revoking the keys of their creator revokes them
// too. Their secrets become valid with the last transaction.
func (k *Keystore) importInBatches(
	ctx context.Context, c Caller, source ImportSource, partial bool, once Once,
) (imported int, refused []ImportRefusal, err error) {
	// Mistakes are found before anything is written, and without the write lock.
	fit, refused, err := k.validateImport(ctx, c, source, once)
	if err != nil || len(refused) > 0 && !partial || len(fit) == 0 {
		return 0, refused, err
	}
	if err := k.Renew(ctx); err != nil { // an import belongs to a registered node
		return 0, nil, err
	}
	var id int64
	var at time.Time    // of the keys' creation
	var first authority // of the first slice
	changed := false    // it, since
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
	ids := make([]string, 0, len(fit))
	for _, slice := range batches(source, slices.Values(fit)) {
		var no []*keystore.Error
		_, err := k.commitBulk(ctx, c, func(tx keystore.Tx, auth authority) (err error) {
			if err := mayImport(tx, auth, once); err != nil {
				return err
			}
			if id == 0 {
				first, at = auth, tx.Now()
				if id, err = tx.BeginImport(k.Incarnation(), auth.actor); err != nil {
					return err
				}
			}
			changed = changed || !auth.equal(&first)
			keys, no,
				err = k.insertImports(at, auth, slice, k.keyCapacityIn(tx, auth),
				func(keys []*keystore.Key) (map[int]error, error) { return tx.StageKeys(id, keys) })
			if err != nil {
				return interrupted(err)
			}
			if len(keys) < len(slice) && !partial {
				return errNotImported
			}
			return auditImport(tx, auth, keys)
		})
		refused = append(refused, refusals(slice, no)...)
		if err != nil {
			return 0, refused, err
		}
		ids = append(ids, idsOf(keys, no, len(slice))...)
	}
	err = k.add(ctx, c, importWait, func(tx keystore.Tx, auth authority) error {
		if err := mayImport(tx, auth, once); err != nil {
			return err
		}
		if !auth.root && (changed || !auth.equal(&first)) { // root may give anything
			for _, i := range fit {
				if _, err := k.importedKey(at, auth, source.At(i)); err != nil {
					return err
				}
			}
		}
		if err := tx.PublishImport(id); err != nil {
			return interrupted(err)
		}
		return noteCreated(once, tx, auth, lastID(keys))
	})
	if err != nil {
		return 0, refused, err
	}
	published = true
	return reportImported(source, fit, ids), refused, nil
}

// interrupted explains that an import has been abandoned by another node.
func interrupted(err error) error {
	if isNotFound(err) {
		return &keystore.Error{Kind: keystore.KindConflict, Code: "import_abandoned",
			Detail: "another node removed the keys of this import, " +
				"because it added no key for too long or its node was removed: import them again"}
	}
	return err
}

// sift returns the numbers of the keys that can be imported, as far as is known before writing, and
// the errors of the others.
func (k *Keystore) validateImport(
	ctx context.Context, c Caller, source ImportSource, once Once,
) (fit []int, refused []ImportRefusal, err error) {
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
	for numbers, slice := range batches(source, all(source.Len())) {
		_, no, err := k.insertImports(now, auth, slice, nil,
			func(keys []*keystore.Key) (map[int]error, error) {
				no, err := k.Database().RefusedKeys(ctx, keys)
				for i, key := range keys {
					digest := key.Secrets[0].Digest
					switch {
					case err != nil || no[i] != nil:
					case taken[key.ID]:
						no[i] = keystore.ErrExists
					case spent[digest]:
						no[i] = keystore.ErrSpent
					default:
						taken[key.ID], spent[digest] = true, true
					}
				}
				return no, err
			})
		if err != nil {
			return nil, nil, k.StoreFailed("checking an import", err)
		}
		refused = append(refused, refusals(slice, no)...)
		for i, number := range numbers {
			if no[i] == nil {
				fit = append(fit, number)
			}
		}
	}
	return fit, refused, nil
}

// same reports whether a caller still has the same permissions and restrictions.
func (a *authority) equal(before *authority) bool {
	return a.policy.Revision() == before.policy.Revision() && a.keyGrants == before.keyGrants &&
		a.expiresAt.Equal(before.expiresAt) && slices.Equal(a.allowedIPs, before.allowedIPs)
}

// abandonImports removes the keys of the import with this id and of all imports that were
// abandoned. With id 0 it removes only the latter.
func (k *Keystore) abandonImports(running context.Context, id int64) {
	ctx, cancel := context.WithTimeout(running, node.QueryTimeout)
	defer cancel()
	if _, err := k.Database().Nodes(ctx); err != nil { // those that have ended are not waited for
		_ = k.StoreFailed("searching for abandoned imports", err)
		return
	}
	auth := authority{root: true, actor: keystore.RootMember, from: "a failed import",
		policy: keystore.NewDirectory(new(keystore.Policy))}
	for more := true; more; {
		// it may wait for a standby
		ctx, cancel := context.WithTimeout(running, node.WriteTimeout)
		_, err := k.commitBulk(ctx, Root(auth.from), func(tx keystore.Tx, _ authority) error {
			if err := tx.AbandonImports(id, tx.Now().Add(-importIdle)); err != nil {
				return err
			}
			keys, err := tx.RemoveAbandoned(importBatch)
			if err != nil {
				return err
			}
			if more = len(keys) > 0; !more {
				// Whoever changed such a key was told so: what was revoked must not come back with
				// the next try.
				changed, err := tx.ChangedAbandoned(importBatch)
				if err != nil || len(changed) == 0 {
					return err
				}
				more = true
				_,
					err = revokeAll(tx, auth, changed,
					func(string) string { return "the import of this key failed" })
				return err
			}
			gone := make([]auditedChange, len(keys))
			for i := range keys {
				gone[i] = auditedChange{keys[i].ID, keys[i].Touches(auth.policy), &keys[i], nil}
			}
			return auditAll(tx, auth, "key.delete", gone)
		})
		cancel()
		if err != nil {
			return // the next one goes on
		}
	}
}

// importThese creates keys from specs and inserts them. It returns the inserted keys, and for each
// spec the error that refused it, or nil. A nil room does not check the caps on keys.
func (k *Keystore) insertImports(
	now time.Time, auth authority, specs []ImportSpec, room *keyCapacity,
	insert func([]*keystore.Key) (map[int]error, error),
) (done []*keystore.Key, refused []*keystore.Error, err error) {
	refused = make([]*keystore.Error, len(specs))
	keys := make([]*keystore.Key, 0, len(specs))
	at := make([]int, 0, len(specs)) // where in specs each of keys was
	for i, s := range specs {
		key, err := k.importedKey(now, auth, s)
		if err == nil && room != nil {
			err = room.add(key)
		}
		switch {
		case err == nil:
			keys, at = append(keys, key), append(at, i)
		case !errors.As(err, &refused[i]):
			return nil, nil, err
		}
	}
	no, err := insert(keys)
	if err != nil {
		return nil, nil, err
	}
	for i, key := range keys {
		switch {
		case no[i] == nil:
			done = append(done, key)
		case errors.Is(no[i], keystore.ErrExists):
			refused[at[i]] = &keystore.Error{Kind: keystore.KindConflict, Code: "exists",
				Detail: "a key with the id in this token exists"}
		default: // ErrSpent
			refused[at[i]] = &keystore.Error{Kind: keystore.KindConflict, Code: "already_used",
				Detail: "this credential is or was in use; a credential cannot come back"}
		}
	}
	return done, refused, nil
}

func refusals(specs []ImportSpec, no []*keystore.Error) (list []ImportRefusal) {
	for i, no := range no {
		if no != nil {
			list = append(list, ImportRefusal{Line: specs[i].Line, Code: no.Code,
				Detail: no.Error()})
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

// imported makes the key of a line.
func (k *Keystore) importedKey(now time.Time, auth authority, s ImportSpec) (*keystore.Key, error) {
	if s.Err != nil {
		return nil, s.Err
	}
	if len(s.NewRoles) > 0 {
		return nil, &keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_fields",
			Detail: "new_roles: an import makes no roles; create them first"}
	}
	secret := keystore.Secret{Digest: s.Digest, CreatedAt: now, Imported: true}
	id, prefix := keystore.NewID(), k.prefixIn(auth.policy, s.Namespace)
	switch {
	case s.Token != "" && !s.Digest.IsZero():
		return nil, badCredential("give either token or sha256")
	case s.Token != "":
		ours, err := k.importable(s.Token)
		if err != nil {
			return nil, err
		}
		secret.Digest = keystore.DigestOf(s.Token)
		if ours.Reveal() != "" {
			id, prefix, secret.Imported = ours.ID(), ours.Prefix(), false
		}
	case s.Digest.IsZero():
		return nil, badCredential("needs token or sha256")
	}
	key, err := s.key(now, auth, id, prefix)
	if err != nil {
		return nil, err
	}
	key.Secrets = []keystore.Secret{secret}
	return key, nil
}

// importable checks a credential that is to go on working. One with a prefix of ours is returned as
// a Token: it must bear the right tag, since without it would be refused as forged.
func (k *Keystore) importable(credential string) (keystore.Token, error) {
	if !keystore.PossibleCredential(credential) {
		return keystore.Token{}, badCredential("a token has 8 to 512 visible ASCII characters")
	}
	if k.Abandoned(credential) {
		t, _ := keystore.ParseToken(credential)
		return keystore.Token{}, badCredential("this deployment made the token with the prefix " +
			t.Prefix() + ", which it no longer accepts")
	}
	if !k.HasPrefix(credential) {
		return keystore.Token{}, nil
	}
	tagged, ok := k.Inspect(credential)
	if !tagged || !ok {
		return keystore.Token{}, badCredential("the token bears a prefix of this deployment, but " +
			"was not " +
			"made with its token key")
	}
	return keystore.ParseToken(credential)
}

func badCredential(detail string) *keystore.Error {
	return &keystore.Error{Kind: keystore.KindInvalid, Code: "invalid_credential", Detail: detail}
}

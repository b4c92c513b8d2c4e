package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// An ImportSpec is a key whose credential was made elsewhere.
type ImportSpec struct {
	KeySpec
	Line   int    // where it stands in the input, counted from 1
	Token  string // the credential itself …
	Digest Digest // … or its SHA-256
	Err    *Error // why the line could not be read, nil: it could
}

// An ImportRefusal is one line that was not imported.
type ImportRefusal struct {
	Line   int
	Code   string
	Detail string
}

const (
	// importBatch is how many keys are added at once, and how many one transaction takes where lines are imported each for itself: others
	// that change something wait for one at most.
	importBatch = 1000
	// importWait bounds how long an import waits for a node that is cut off: longer than leases usually are. Until its lease has run out, that
	// node takes imported credentials for malformed if there were none before.
	importWait = 5 * time.Minute
	// MaxImport is how many keys a caller other than root may import in one transaction: others cannot write meanwhile.
	MaxImport = 10_000
)

// ImportKeys adds keys whose credentials go on working. Without partial it is one transaction: with any refusal nothing is imported.
// With partial, what can be imported is. The keys can be used on every node when this returns. See MintKey for idempotencyKey, which makes
// it one transaction too.
func (k *Keystore) ImportKeys(ctx context.Context, c Caller, specs []ImportSpec, partial bool, idempotencyKey string) (imported int, refused []ImportRefusal, err error) {
	if !c.root && (!partial || idempotencyKey != "") && len(specs) > MaxImport {
		return 0, nil, &Error{Kind: KindInvalid, Code: "too_many", Detail: fmt.Sprintf("more than %d keys cannot be imported all or nothing: send fewer at a time, or use partial=1", MaxImport)}
	}
	size := max(1, len(specs))
	if partial && idempotencyKey == "" {
		size = importBatch
	}
	for batch := range slices.Chunk(specs, size) {
		n, no, err := k.importBatch(ctx, c, batch, partial, idempotencyKey)
		refused = append(refused, no...)
		if err != nil {
			return imported, refused, err
		}
		imported += n
	}
	return imported, refused, nil
}

// errNothing rolls a batch back.
var errNothing = &Error{Kind: KindInvalid, Code: "import_refused", Detail: "nothing is imported"}

func (k *Keystore) importBatch(ctx context.Context, c Caller, specs []ImportSpec, partial bool, idempotencyKey string) (imported int, refused []ImportRefusal, err error) {
	err = k.add(ctx, c, importWait, func(tx Tx, by authority) error {
		imported, refused = 0, nil
		if err := by.anywhere(adminKeys, "create"); err != nil {
			return err
		}
		if err := remembered(tx, by, idempotencyKey); err != nil {
			return err
		}
		last := ""
		for batch := range slices.Chunk(specs, importBatch) {
			ids, no, err := k.importThese(tx, by, batch)
			if err != nil {
				return err
			}
			refused = append(refused, no...)
			if imported += len(ids); len(ids) > 0 {
				last = ids[len(ids)-1]
			}
		}
		if len(refused) > 0 && !partial {
			return errNothing
		}
		return remember(tx, by, idempotencyKey, last)
	})
	if errors.Is(err, errNothing) {
		return 0, refused, nil
	}
	return imported, refused, err
}

// importThese adds the keys of specs, and returns the ids of those that were and why the others were not.
func (k *Keystore) importThese(tx Tx, by authority, specs []ImportSpec) (ids []string, refused []ImportRefusal, err error) {
	refusals := make([]*Error, len(specs))
	keys := make([]*Key, 0, len(specs))
	at := make([]int, 0, len(specs)) // where in specs each of keys was
	for i, s := range specs {
		key, err := k.imported(tx, by, s)
		switch {
		case err == nil:
			keys, at = append(keys, key), append(at, i)
		case !errors.As(err, &refusals[i]):
			return nil, nil, err
		}
	}
	no, err := insertKeys(tx, by, "key.import", keys)
	if err != nil {
		return nil, nil, err
	}
	for i, key := range keys {
		switch {
		case no[i] == nil:
			ids = append(ids, key.ID)
		case errors.Is(no[i], ErrExists):
			refusals[at[i]] = &Error{Kind: KindConflict, Code: "exists", Detail: "a key with the id in this token exists"}
		default: // ErrSpent
			refusals[at[i]] = &Error{Kind: KindConflict, Code: "already_used", Detail: "this credential is or was in use; a credential cannot come back"}
		}
	}
	for i, no := range refusals {
		if no != nil {
			refused = append(refused, ImportRefusal{Line: specs[i].Line, Code: no.Code, Detail: no.Error()})
		}
	}
	return ids, refused, nil
}

// imported makes the key of a line.
func (k *Keystore) imported(tx Tx, by authority, s ImportSpec) (*Key, error) {
	if s.Err != nil {
		return nil, s.Err
	}
	if len(s.NewRoles) > 0 {
		return nil, &Error{Kind: KindInvalid, Code: "invalid_fields", Detail: "new_roles: an import makes no roles; create them first"}
	}
	secret := Secret{Digest: s.Digest, CreatedAt: tx.Now(), Imported: true}
	id, prefix := NewID(), k.prefixIn(by.policy, s.Namespace)
	switch {
	case s.Token != "" && !s.Digest.IsZero():
		return nil, badCredential("give either token or sha256")
	case s.Token != "":
		ours, err := k.importable(s.Token)
		if err != nil {
			return nil, err
		}
		secret.Digest = DigestOf(s.Token)
		if ours.text != "" {
			id, prefix, secret.Imported = ours.ID(), ours.Prefix(), false
		}
	case s.Digest.IsZero():
		return nil, badCredential("needs token or sha256")
	}
	key, err := s.key(tx, by, id, prefix)
	if err != nil {
		return nil, err
	}
	key.Secrets = []Secret{secret}
	return key, nil
}

// importable checks a credential that is to go on working. One with a prefix of ours is returned as a Token: it must bear the
// right tag, since without it would be refused as forged.
func (k *Keystore) importable(credential string) (Token, error) {
	if !possible(credential) {
		return Token{}, badCredential("a token has 8 to 512 visible ASCII characters")
	}
	if !k.HasPrefix(credential) {
		return Token{}, nil
	}
	tagged, ok := k.inspect(credential)
	if !tagged || !ok {
		return Token{}, badCredential("the token bears a prefix of this deployment, but was not made with its token key")
	}
	return ParseToken(credential)
}

func badCredential(detail string) *Error {
	return &Error{Kind: KindInvalid, Code: "invalid_credential", Detail: detail}
}

package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	// importBatch is how many keys one transaction takes where lines are imported each for itself.
	importBatch = 1000
	// MaxImport is how many keys a caller other than root may import in one transaction: others cannot write meanwhile.
	MaxImport = 10_000
)

// ImportKeys adds keys whose credentials go on working. Without partial it is one transaction: with any refusal nothing is imported.
// With partial, what can be imported is. The keys can be used on every node when this returns. See MintKey for idempotencyKey, which makes
// it one transaction too.
func (k *Keystore) ImportKeys(ctx context.Context, c Caller, specs []ImportSpec, partial bool, idempotencyKey string) (imported int, refused []ImportRefusal, err error) {
	if c.record != nil && (!partial || idempotencyKey != "") && len(specs) > MaxImport {
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
	_, err = k.change(ctx, c, 0, func(tx Tx, by authority) error {
		imported, refused = 0, nil
		if err := by.anywhere(adminKeys, "create"); err != nil {
			return err
		}
		if err := remembered(tx, by, idempotencyKey); err != nil {
			return err
		}
		last := ""
		for _, s := range specs {
			id, err := k.importOne(tx, by, s)
			var no *Error
			switch {
			case errors.As(err, &no):
				refused = append(refused, ImportRefusal{Line: s.Line, Code: no.Code, Detail: no.Error()})
			case err != nil:
				return err
			default:
				imported++
				last = id
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

func (k *Keystore) importOne(tx Tx, by authority, s ImportSpec) (id string, err error) {
	if s.Err != nil {
		return "", s.Err
	}
	secret := Secret{Digest: s.Digest, CreatedAt: tx.Now(), Imported: true}
	id, prefix := NewID(), k.settings.Load().TokenPrefixes[0]
	switch {
	case s.Token != "" && !s.Digest.IsZero():
		return "", badCredential("give either token or sha256")
	case s.Token != "":
		ours, err := k.importable(s.Token)
		if err != nil {
			return "", err
		}
		secret.Digest = DigestOf(s.Token)
		if ours.text != "" {
			id, prefix, secret.Imported = ours.ID(), ours.Prefix(), false
		}
	case s.Digest.IsZero():
		return "", badCredential("needs token or sha256")
	}
	key, err := s.key(tx, by, id, prefix)
	if err != nil {
		return "", err
	}
	key.Secrets = []Secret{secret}
	return key.ID, spentOr(insertKey(tx, by, "key.import", key))
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

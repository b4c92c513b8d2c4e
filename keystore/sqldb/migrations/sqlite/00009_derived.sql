-- The public keys that verify derived tokens. They can neither authenticate a request nor sign a token.

-- +goose Up
-- +goose StatementBegin

-- A secret that was stored as a digest, or by an earlier release, has a row once a node has seen its token.
CREATE TABLE deriving_keys (
    digest     BLOB PRIMARY KEY NOT NULL, -- of the secret
    public_key BLOB NOT NULL CHECK (length(public_key) = 32), -- Ed25519
    prefix     TEXT NOT NULL -- of the token; begins with a space if another system created it
) WITHOUT ROWID, STRICT;

CREATE TRIGGER secrets_forget_deriving AFTER UPDATE OF dropped ON secrets
WHEN NEW.dropped = 1 BEGIN
    DELETE FROM deriving_keys WHERE digest = NEW.digest;
END;
-- +goose StatementEnd

-- The public keys that verify derived tokens. They can neither authenticate a request nor sign a token.

-- +goose Up
-- +goose StatementBegin

-- The functions use the schema in which they were created, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Nodes of the previous release may be writing. They take this lock before any other.
SELECT 1 FROM head FOR UPDATE;

-- A secret that was stored as a digest, or by an earlier release, has a row once a node has seen its token.
CREATE TABLE deriving_keys (
    digest     BYTEA PRIMARY KEY, -- of the secret
    public_key BYTEA NOT NULL CHECK (octet_length(public_key) = 32), -- Ed25519
    prefix     TEXT  NOT NULL -- of the token; begins with a space if another system created it
);

CREATE FUNCTION forget_deriving() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM deriving_keys WHERE digest = NEW.digest;
    RETURN NULL;
END $$;

CREATE TRIGGER secrets_forget_deriving AFTER UPDATE OF dropped ON secrets FOR EACH ROW
    WHEN (NEW.dropped = 1 AND OLD.dropped = 0) EXECUTE FUNCTION forget_deriving();
-- +goose StatementEnd

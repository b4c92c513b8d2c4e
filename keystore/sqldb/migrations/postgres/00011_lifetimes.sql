-- Rules of namespaces for the lifetime of keys, and which reminders were given.

-- +goose Up
-- +goose StatementBegin

-- The functions use the schema in which they were created, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Nodes of the previous release may be writing. They take this lock before any other.
SELECT 1 FROM head FOR UPDATE;

-- Reminders read the keys in this order. The id is in the index because keys that were imported together may expire at the same
-- time. With a million keys, creating it takes seconds. Nodes of the previous release can still read keys meanwhile, because the
-- statements that block reading come later.
CREATE INDEX keys_reminded ON keys (expires_at, id) WHERE expires_at IS NOT NULL AND revoked_at IS NULL AND personal = 0;

-- Microseconds; 0: no rule.
ALTER TABLE namespaces
    ADD COLUMN max_lifetime BIGINT NOT NULL DEFAULT 0 CHECK (max_lifetime >= 0),
    ADD COLUMN idle_after BIGINT NOT NULL DEFAULT 0 CHECK (idle_after >= 0),
    ADD COLUMN idle_then TEXT COLLATE "C" NOT NULL DEFAULT '' CHECK (idle_then IN ('', 'notify', 'inactivate')),
    ADD COLUMN on_leak TEXT COLLATE "C" NOT NULL DEFAULT '' CHECK (on_leak IN ('', 'notify', 'inactivate', 'revoke'));

-- For each time before the expiry (0: the expiry itself), the last key, in the order of expiry, for which a reminder was given.
CREATE TABLE reminders (
    before     BIGINT PRIMARY KEY,
    expires_at BIGINT NOT NULL,
    key_id     TEXT   COLLATE "C" NOT NULL
);

-- The keys that were reported as unused. since is the last use before the report, or the creation of the key.
CREATE TABLE unused_keys (
    key_id      TEXT     COLLATE "C" PRIMARY KEY,
    since       BIGINT   NOT NULL,
    inactivated SMALLINT NOT NULL CHECK (inactivated IN (0, 1)) -- whether the key was made inactive because it was unused
);

CREATE FUNCTION forget_unused() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM unused_keys WHERE key_id = OLD.id;
    RETURN NULL;
END $$;

CREATE TRIGGER keys_delete_unused AFTER DELETE ON keys FOR EACH ROW EXECUTE FUNCTION forget_unused();

DROP INDEX keys_expiring;
ALTER INDEX keys_reminded RENAME TO keys_expiring;
-- +goose StatementEnd

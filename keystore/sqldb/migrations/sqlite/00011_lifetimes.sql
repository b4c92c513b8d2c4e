-- Rules of namespaces for the lifetime of keys, and which reminders were given.

-- +goose Up
-- +goose StatementBegin

-- Microseconds; 0: no rule.
ALTER TABLE namespaces ADD COLUMN max_lifetime INTEGER NOT NULL DEFAULT 0 CHECK (max_lifetime >= 0);
ALTER TABLE namespaces ADD COLUMN idle_after INTEGER NOT NULL DEFAULT 0 CHECK (idle_after >= 0);
ALTER TABLE namespaces ADD COLUMN idle_then TEXT NOT NULL DEFAULT '' CHECK (idle_then IN ('', 'notify', 'inactivate'));
ALTER TABLE namespaces ADD COLUMN on_leak TEXT NOT NULL DEFAULT '' CHECK (on_leak IN ('', 'notify', 'inactivate', 'revoke'));

-- Reminders read the keys in this order. The id is in the index because keys that were imported together may expire at the same time.
DROP INDEX keys_expiring;
CREATE INDEX keys_expiring ON keys (expires_at, id, revoked_at, personal) WHERE expires_at IS NOT NULL AND revoked_at IS NULL AND personal = 0;

-- For each time before the expiry (0: the expiry itself), the last key, in the order of expiry, for which a reminder was given.
CREATE TABLE reminders (
    before     INTEGER PRIMARY KEY NOT NULL,
    expires_at INTEGER NOT NULL,
    key_id     TEXT    NOT NULL
) STRICT;

-- The keys that were reported as unused. since is the last use before the report, or the creation of the key.
CREATE TABLE unused_keys (
    key_id      TEXT    PRIMARY KEY NOT NULL,
    since       INTEGER NOT NULL,
    inactivated INTEGER NOT NULL CHECK (inactivated IN (0, 1)) -- whether the key was made inactive because it was unused
) WITHOUT ROWID, STRICT;

CREATE TRIGGER keys_delete_unused AFTER DELETE ON keys BEGIN
    DELETE FROM unused_keys WHERE key_id = OLD.id;
END;
-- +goose StatementEnd

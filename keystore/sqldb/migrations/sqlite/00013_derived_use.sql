-- The last uses of keys with derived tokens.

-- +goose Up
-- +goose StatementBegin

-- A time may be earlier than that of the same key in last_uses.
CREATE TABLE last_derived (
    key_id  TEXT    PRIMARY KEY NOT NULL,
    used_at INTEGER NOT NULL,
    note    TEXT    NOT NULL -- of the token; empty: none, or unknown
) WITHOUT ROWID, STRICT;

CREATE TRIGGER keys_delete_derived AFTER DELETE ON keys BEGIN
    DELETE FROM last_derived WHERE key_id = OLD.id;
END;
-- +goose StatementEnd

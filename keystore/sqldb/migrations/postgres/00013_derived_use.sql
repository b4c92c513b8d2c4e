-- The last uses of keys with derived tokens.

-- +goose Up
-- +goose StatementBegin

-- The functions use the schema in which they were created, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- A time may be earlier than that of the same key in last_uses.
CREATE TABLE last_derived (
    key_id  TEXT   COLLATE "C" PRIMARY KEY,
    used_at BIGINT NOT NULL,
    note    TEXT   NOT NULL -- of the token; empty: none, or unknown
) WITH (fillfactor = 70);

-- Replacing the function of a trigger does not lock the keys, unlike another trigger.
CREATE OR REPLACE FUNCTION forget_uses() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM last_addresses WHERE key_id = OLD.id;
    DELETE FROM last_derived WHERE key_id = OLD.id;
    DELETE FROM usage_operations WHERE key_id = OLD.id;
    RETURN NULL;
END $$;
-- +goose StatementEnd

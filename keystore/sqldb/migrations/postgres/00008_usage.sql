-- Usage of keys over time, the addresses of last uses, and the limits of quotas next to their granted units.

-- +goose Up
-- +goose StatementBegin

-- The functions use the schema in which they were created, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Nodes of the previous release may be writing. They take this lock before any other.
SELECT 1 FROM head FOR UPDATE;

-- The tables that hold usage. The program creates them as needed and drops them whole when they are old. Each holds the buckets of one
-- step in the next longer one: the minutes of an hour, the hours of a day, the days of a month, the months of a year. A row stands for
-- two tables with the same counters: usage_STEP_key_BEGIN by key, and usage_STEP_group_BEGIN by namespace, owner and operation.
CREATE TABLE usage_tables (
    step   TEXT    COLLATE "C" NOT NULL CHECK (step IN ('minute', 'hour', 'day', 'month')),
    begins INTEGER NOT NULL, -- minutes since 1970
    PRIMARY KEY (step, begins)
);

-- 'marks' says how far usage is rolled up and which tables are dropped, as JSON. A transaction that adds usage locks its row against changes.
-- 'maintainer' has no value. The process that rolls up locks its row.
CREATE TABLE usage_state (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
) WITH (fillfactor = 10);
INSERT INTO usage_state (name, value) VALUES ('marks', '{}'), ('maintainer', '');

-- The number of the last batch of each writer, so that a repeated batch does not count twice.
CREATE TABLE usage_batches (
    writer TEXT   COLLATE "C" PRIMARY KEY,
    number BIGINT NOT NULL,
    at     BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE usage_operations (
    key_id    TEXT    COLLATE "C" NOT NULL,
    operation TEXT    COLLATE "C" NOT NULL,
    day       INTEGER NOT NULL, -- of the last use: its beginning, in minutes since 1970
    PRIMARY KEY (key_id, operation)
) WITH (fillfactor = 80);

-- The client of the last use. It belongs to the row of last_uses with the same time.
CREATE TABLE last_addresses (
    key_id  TEXT   COLLATE "C" PRIMARY KEY,
    used_at BIGINT NOT NULL,
    address TEXT   NOT NULL
) WITH (fillfactor = 70);

CREATE FUNCTION forget_uses() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM last_addresses WHERE key_id = OLD.id;
    DELETE FROM usage_operations WHERE key_id = OLD.id;
    RETURN NULL;
END $$;

CREATE TRIGGER keys_delete_uses AFTER DELETE ON keys FOR EACH ROW EXECUTE FUNCTION forget_uses();

ALTER TABLE quota_grants ADD COLUMN units BIGINT NOT NULL DEFAULT 0; -- the limit when units were last reserved; 0: unknown
-- +goose StatementEnd

-- Usage of keys over time, the addresses of last uses, and the limits of quotas next to their granted units.

-- +goose Up
-- +goose StatementBegin

-- The tables that hold usage. The program creates them as needed and drops them whole when they are old. Each holds the buckets of one
-- step in the next longer one: the minutes of an hour, the hours of a day, the days of a month, the months of a year. A row stands for
-- two tables with the same counters: usage_STEP_key_BEGIN by key, and usage_STEP_group_BEGIN by namespace, owner and operation.
CREATE TABLE usage_tables (
    step   TEXT    NOT NULL CHECK (step IN ('minute', 'hour', 'day', 'month')),
    begins INTEGER NOT NULL, -- minutes since 1970
    PRIMARY KEY (step, begins)
) WITHOUT ROWID, STRICT;

-- 'marks' says how far usage is rolled up and which tables are dropped, as JSON. A transaction that adds usage locks its row against changes.
-- 'maintainer' has no value. The process that rolls up locks its row.
CREATE TABLE usage_state (
    name  TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) WITHOUT ROWID, STRICT;
INSERT INTO usage_state (name, value) VALUES ('marks', '{}'), ('maintainer', '');

-- The number of the last batch of each writer, so that a repeated batch does not count twice.
CREATE TABLE usage_batches (
    writer TEXT    PRIMARY KEY NOT NULL,
    number INTEGER NOT NULL,
    at     INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE usage_operations (
    key_id    TEXT    NOT NULL,
    operation TEXT    NOT NULL,
    day       INTEGER NOT NULL, -- of the last use: its beginning, in minutes since 1970
    PRIMARY KEY (key_id, operation)
) WITHOUT ROWID, STRICT;

-- The client of the last use. It belongs to the row of last_uses with the same time.
CREATE TABLE last_addresses (
    key_id  TEXT    PRIMARY KEY NOT NULL,
    used_at INTEGER NOT NULL,
    address TEXT    NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TRIGGER keys_delete_uses AFTER DELETE ON keys BEGIN
    DELETE FROM last_addresses WHERE key_id = OLD.id;
    DELETE FROM usage_operations WHERE key_id = OLD.id;
END;

ALTER TABLE quota_grants ADD COLUMN units INTEGER NOT NULL DEFAULT 0; -- the limit when units were last reserved; 0: unknown
-- +goose StatementEnd

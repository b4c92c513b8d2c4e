-- Webhooks: how far each has come in the audit log, and the thresholds of quotas that are in the log.

-- +goose Up
-- +goose StatementBegin

CREATE TABLE webhooks (
    id       TEXT   PRIMARY KEY NOT NULL,
    beat     INTEGER NOT NULL, -- incremented by each change of the row
    holder   TEXT   NOT NULL, -- incarnation of the node that delivers; empty: none
    position INTEGER NOT NULL, -- seq of the last row of the audit log that was delivered or filtered out
    replay   INTEGER, -- NULL: none; -1: try again now; otherwise the position to continue from
    saved_at INTEGER NOT NULL,
    state    TEXT   NOT NULL CHECK (json_valid(state)) -- filters, failed attempts and the last deliveries, as JSON
) WITHOUT ROWID, STRICT;

-- The highest threshold of a quota that the audit log has in a period.
CREATE TABLE quota_thresholds (
    quota   TEXT    NOT NULL,
    begins  INTEGER NOT NULL,
    ends    INTEGER NOT NULL,
    percent INTEGER NOT NULL,
    PRIMARY KEY (quota, begins)
) WITHOUT ROWID, STRICT;
CREATE INDEX quota_thresholds_ends ON quota_thresholds (ends);
-- +goose StatementEnd

-- Webhooks: how far each has come in the audit log, and the thresholds of quotas that are in the log.

-- +goose Up
-- +goose StatementBegin

-- The tables are in the schema in which the others are, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE webhooks (
    id       TEXT   COLLATE "C" PRIMARY KEY,
    beat     BIGINT NOT NULL, -- incremented by each change of the row
    holder   TEXT   NOT NULL, -- incarnation of the node that delivers; empty: none
    position BIGINT NOT NULL, -- seq of the last row of the audit log that was delivered or filtered out
    replay   BIGINT, -- NULL: none; -1: try again now; otherwise the position to continue from
    saved_at BIGINT NOT NULL,
    state    TEXT   NOT NULL -- filters, failed attempts and the last deliveries, as JSON
) WITH (fillfactor = 10);

-- The highest threshold of a quota that the audit log has in a period.
CREATE TABLE quota_thresholds (
    quota   TEXT    COLLATE "C" NOT NULL,
    begins  BIGINT NOT NULL,
    ends    BIGINT NOT NULL,
    percent INTEGER NOT NULL,
    PRIMARY KEY (quota, begins)
);
CREATE INDEX quota_thresholds_ends ON quota_thresholds (ends);
-- +goose StatementEnd

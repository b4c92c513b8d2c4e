-- The home namespaces of a member's keys, without reading each key.

-- +goose Up
-- +goose StatementBegin
-- Nodes of the previous release may be writing. They take this lock before any other.
SELECT 1 FROM head FOR UPDATE;
-- With a million keys, creating it takes seconds.
CREATE INDEX keys_homes ON keys (owner, namespace) WHERE revoked_at IS NULL AND personal = 0;
-- +goose StatementEnd

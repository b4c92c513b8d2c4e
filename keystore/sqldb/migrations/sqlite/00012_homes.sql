-- The home namespaces of a member's keys, without reading each key.

-- +goose Up
-- +goose StatementBegin
-- With a million keys, creating it takes seconds.
CREATE INDEX keys_homes ON keys (owner, namespace, revoked_at, personal) WHERE revoked_at IS NULL AND personal = 0;
-- +goose StatementEnd

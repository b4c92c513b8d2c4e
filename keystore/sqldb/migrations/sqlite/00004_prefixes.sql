-- +goose Up

-- Finds live keys whose token has a prefix that the configuration does not accept.
CREATE INDEX keys_prefix ON keys (prefix, expires_at) WHERE revoked_at IS NULL AND personal = 0;

-- What the ids of descendants must begin with; empty: anything.
ALTER TABLE namespaces ADD COLUMN child_prefix TEXT NOT NULL DEFAULT '';

-- Ids of namespaces that were deleted, kept for good: the API and the audit log may still hold what
-- belonged to them.
CREATE TABLE former_namespaces (
    id TEXT PRIMARY KEY NOT NULL
) WITHOUT ROWID, STRICT;
INSERT INTO former_namespaces SELECT DISTINCT object FROM audit WHERE action = 'namespace.delete';

-- +goose StatementBegin
CREATE TRIGGER namespaces_former AFTER DELETE ON namespaces BEGIN
    INSERT INTO former_namespaces (id) VALUES (OLD.id) ON CONFLICT DO NOTHING;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER namespaces_renamed AFTER UPDATE OF id ON namespaces WHEN NEW.id <> OLD.id BEGIN
    INSERT INTO former_namespaces (id) VALUES (OLD.id) ON CONFLICT DO NOTHING;
END;
-- +goose StatementEnd

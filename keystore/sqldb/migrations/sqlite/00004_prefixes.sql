-- +goose Up
-- +goose StatementBegin

-- Finds active keys whose token has a prefix that the configuration does not accept.
CREATE INDEX keys_prefix ON keys (prefix, expires_at) WHERE revoked_at IS NULL AND personal = 0;

-- The prefix that ids of descendants must have; empty: any.
ALTER TABLE namespaces ADD COLUMN child_prefix TEXT NOT NULL DEFAULT '';

-- Ids of deleted namespaces, kept forever: the API and the audit log may still contain their objects.
CREATE TABLE former_namespaces (
    id TEXT PRIMARY KEY NOT NULL
) WITHOUT ROWID, STRICT;
INSERT INTO former_namespaces SELECT DISTINCT object FROM audit WHERE action = 'namespace.delete';

CREATE TRIGGER namespaces_former AFTER DELETE ON namespaces BEGIN
    INSERT INTO former_namespaces (id) VALUES (OLD.id) ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER namespaces_renamed AFTER UPDATE OF id ON namespaces WHEN NEW.id <> OLD.id BEGIN
    INSERT INTO former_namespaces (id) VALUES (OLD.id) ON CONFLICT DO NOTHING;
END;
-- +goose StatementEnd

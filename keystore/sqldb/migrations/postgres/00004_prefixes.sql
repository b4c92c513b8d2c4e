-- +goose Up
-- +goose StatementBegin

-- The functions use the schema in which they were created, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Finds active keys whose token has a prefix that the configuration does not accept.
CREATE INDEX keys_prefix ON keys (prefix COLLATE "C", expires_at) WHERE revoked_at IS NULL AND personal = 0;

-- The prefix that ids of descendants must have; empty: any.
ALTER TABLE namespaces ADD COLUMN child_prefix TEXT NOT NULL DEFAULT '';

-- Ids of deleted namespaces, kept forever: the API and the audit log may still contain their objects.
CREATE TABLE former_namespaces (
    id TEXT COLLATE "C" PRIMARY KEY
);
INSERT INTO former_namespaces SELECT DISTINCT object FROM audit WHERE action = 'namespace.delete';

CREATE FUNCTION keep_namespace_id() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO former_namespaces (id) VALUES (OLD.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER namespaces_former AFTER DELETE ON namespaces FOR EACH ROW EXECUTE FUNCTION keep_namespace_id();
CREATE TRIGGER namespaces_renamed AFTER UPDATE OF id ON namespaces FOR EACH ROW
    WHEN (NEW.id <> OLD.id) EXECUTE FUNCTION keep_namespace_id();
-- +goose StatementEnd

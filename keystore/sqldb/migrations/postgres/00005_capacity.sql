-- Nodes read only the namespaces, roles and members that have changed, so the change log names them.
-- Triggers maintain the numbers of keys to which caps apply, so that no change counts keys.

-- +goose Up
-- +goose StatementBegin

-- The functions use the schema in which they were created, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Nodes of the previous release may be writing. They take this lock before any other.
SELECT 1 FROM head FOR UPDATE;

ALTER TABLE change_log ADD COLUMN object TEXT; -- of 'policy': namespace, role or member. NULL: any of them
ALTER TABLE change_log ADD COLUMN namespace TEXT COLLATE "C"; -- of a role
ALTER TABLE change_log ADD COLUMN name TEXT COLLATE "C"; -- of a role, else the id

-- The argument is the kind of object. For an update the log names the old rows too, because an id may
-- have changed.
CREATE FUNCTION log_objects() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    taken bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM changed) THEN
        RETURN NULL;
    END IF;
    taken := next_revision();
    UPDATE head SET policy = taken WHERE policy < taken;
    IF TG_ARGV[0] = 'role' THEN
        INSERT INTO change_log (revision, kind, object, namespace, name)
            SELECT taken, 'policy', 'role', c.namespace, c.name FROM changed c;
        IF TG_OP = 'UPDATE' THEN
            INSERT INTO change_log (revision, kind, object, namespace, name)
                SELECT taken, 'policy', 'role', o.namespace, o.name FROM former o
                EXCEPT SELECT taken, 'policy', 'role', c.namespace, c.name FROM changed c;
        END IF;
    ELSE
        INSERT INTO change_log (revision, kind, object, name)
            SELECT taken, 'policy', TG_ARGV[0], c.id FROM changed c;
        IF TG_OP = 'UPDATE' THEN
            INSERT INTO change_log (revision, kind, object, name)
                SELECT taken, 'policy', TG_ARGV[0], o.id FROM former o
                EXCEPT SELECT taken, 'policy', TG_ARGV[0], c.id FROM changed c;
        END IF;
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER namespaces_insert ON namespaces;
DROP TRIGGER namespaces_update ON namespaces;
DROP TRIGGER namespaces_delete ON namespaces;
CREATE TRIGGER namespaces_insert AFTER INSERT ON namespaces REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_objects('namespace');
CREATE TRIGGER namespaces_update AFTER UPDATE ON namespaces REFERENCING NEW TABLE AS changed OLD TABLE AS former FOR EACH STATEMENT EXECUTE FUNCTION log_objects('namespace');
CREATE TRIGGER namespaces_delete AFTER DELETE ON namespaces REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_objects('namespace');

DROP TRIGGER roles_insert ON roles;
DROP TRIGGER roles_update ON roles;
DROP TRIGGER roles_delete ON roles;
CREATE TRIGGER roles_insert AFTER INSERT ON roles REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_objects('role');
CREATE TRIGGER roles_update AFTER UPDATE ON roles REFERENCING NEW TABLE AS changed OLD TABLE AS former FOR EACH STATEMENT EXECUTE FUNCTION log_objects('role');
CREATE TRIGGER roles_delete AFTER DELETE ON roles REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_objects('role');

DROP TRIGGER members_insert ON members;
DROP TRIGGER members_update ON members;
DROP TRIGGER members_delete ON members;
CREATE TRIGGER members_insert AFTER INSERT ON members REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_objects('member');
CREATE TRIGGER members_update AFTER UPDATE ON members REFERENCING NEW TABLE AS changed OLD TABLE AS former FOR EACH STATEMENT EXECUTE FUNCTION log_objects('member');
CREATE TRIGGER members_delete AFTER DELETE ON members REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_objects('member');

DROP FUNCTION log_policy();

-- The number of keys that act for an owner or have their home in a namespace, without members' own tokens.
CREATE TABLE key_counts (
    kind TEXT   NOT NULL CHECK (kind IN ('owner', 'namespace')),
    id   TEXT   COLLATE "C" NOT NULL,
    n    BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
) WITH (fillfactor = 50);
CREATE INDEX key_counts_most ON key_counts (kind, n);
INSERT INTO key_counts SELECT 'owner', owner, count(*) FROM keys WHERE personal = 0 GROUP BY owner;
INSERT INTO key_counts SELECT 'namespace', namespace, count(*) FROM keys WHERE personal = 0 GROUP BY namespace;

CREATE FUNCTION count_keys() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NOT EXISTS (SELECT 1 FROM former f JOIN changed c ON c.id = f.id
            WHERE c.owner <> f.owner OR c.namespace <> f.namespace OR c.personal <> f.personal) THEN
            RETURN NULL; -- as with most updates
        END IF;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        UPDATE key_counts k SET n = k.n - f.n
            FROM (SELECT owner, count(*) AS n FROM former WHERE personal = 0 GROUP BY owner) f
            WHERE k.kind = 'owner' AND k.id = f.owner;
        UPDATE key_counts k SET n = k.n - f.n
            FROM (SELECT namespace, count(*) AS n FROM former WHERE personal = 0 GROUP BY namespace) f
            WHERE k.kind = 'namespace' AND k.id = f.namespace;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO key_counts AS k (kind, id, n)
            SELECT 'owner', owner, count(*) FROM changed WHERE personal = 0 GROUP BY owner
            UNION ALL
            SELECT 'namespace', namespace, count(*) FROM changed WHERE personal = 0 GROUP BY namespace
            ON CONFLICT (kind, id) DO UPDATE SET n = k.n + excluded.n;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM key_counts WHERE n <= 0
            AND (kind = 'owner' AND id IN (SELECT owner FROM former) OR kind = 'namespace' AND id IN (SELECT namespace FROM former));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER keys_count_insert AFTER INSERT ON keys REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_keys();
CREATE TRIGGER keys_count_update AFTER UPDATE ON keys REFERENCING NEW TABLE AS changed OLD TABLE AS former FOR EACH STATEMENT EXECUTE FUNCTION count_keys();
CREATE TRIGGER keys_count_delete AFTER DELETE ON keys REFERENCING OLD TABLE AS former FOR EACH STATEMENT EXECUTE FUNCTION count_keys();
-- +goose StatementEnd

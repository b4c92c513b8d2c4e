-- Limits of keys and namespaces, plans, and the units of quotas that nodes have been granted.

-- +goose Up
-- +goose StatementBegin

-- The functions use the schema in which they were created, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Nodes of the previous release may be writing. They take this lock before any other.
SELECT 1 FROM head FOR UPDATE;

-- The limits of keys that have any.
CREATE TABLE key_limits (
    key_id     TEXT COLLATE "C" PRIMARY KEY,
    namespace  TEXT COLLATE "C" NOT NULL, -- home of the key
    rate_limit JSON CHECK (json_typeof(rate_limit) = 'object'), -- {"requests","per","burst","shadow"} or {"unlimited"}; NULL: as the plan says
    quota      JSON CHECK (json_typeof(quota) = 'object'), -- {"requests","per","shadow"} or {"unlimited"}; NULL: as the plan says
    plan       TEXT COLLATE "C" NOT NULL DEFAULT '' -- empty: the default plan of the namespace
);
CREATE INDEX key_limits_plan ON key_limits (plan, namespace) WHERE plan <> '';

-- A key without secrets is not usable. When it gets secrets, they are logged.
-- EXECUTE plans the query each time: a plan for a few secrets would read all of them for each batch of an import.
CREATE FUNCTION log_limits() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    ids   text[];
    known boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        ids := ARRAY(
            (SELECT key_id FROM (SELECT key_id, CAST(rate_limit AS text), CAST(quota AS text), plan FROM changed
                EXCEPT SELECT key_id, CAST(rate_limit AS text), CAST(quota AS text), plan FROM former) c)
            UNION
            (SELECT key_id FROM former EXCEPT SELECT key_id FROM changed));
    ELSE
        ids := ARRAY(SELECT key_id FROM changed);
    END IF;
    EXECUTE 'SELECT EXISTS (SELECT 1 FROM secrets WHERE key_id = ANY ($1) AND dropped = 0)' INTO STRICT known USING ids;
    IF known THEN
        INSERT INTO change_log (revision, kind, key_id, digest, ends)
            SELECT taken, 'key', s.key_id, s.digest,
                   CASE WHEN k.id IS NULL OR k.revoked_at IS NOT NULL OR k.active = 0 THEN 0
                        WHEN k.expires_at IS NULL OR s.ends_at < k.expires_at THEN s.ends_at
                        ELSE k.expires_at END
            FROM next_revision() taken, secrets s LEFT JOIN keys k ON k.id = s.key_id
            WHERE s.key_id = ANY (ids) AND s.dropped = 0;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER key_limits_lock   BEFORE INSERT OR UPDATE OR DELETE ON key_limits FOR EACH STATEMENT EXECUTE FUNCTION lock_head();
CREATE TRIGGER key_limits_insert AFTER INSERT ON key_limits REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_limits();
CREATE TRIGGER key_limits_update AFTER UPDATE ON key_limits REFERENCING NEW TABLE AS changed OLD TABLE AS former FOR EACH STATEMENT EXECUTE FUNCTION log_limits();
CREATE TRIGGER key_limits_delete AFTER DELETE ON key_limits REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_limits();
CREATE TRIGGER key_limits_truncate BEFORE TRUNCATE ON key_limits FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('no node would be told: use DELETE');

CREATE FUNCTION keep_limits() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM key_limits WHERE key_id = OLD.id;
    ELSE
        UPDATE key_limits SET namespace = NEW.namespace WHERE key_id = NEW.id;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER keys_delete_limits AFTER DELETE ON keys FOR EACH ROW EXECUTE FUNCTION keep_limits();
CREATE TRIGGER keys_update_limits AFTER UPDATE OF namespace ON keys FOR EACH ROW
    WHEN (NEW.namespace <> OLD.namespace) EXECUTE FUNCTION keep_limits();

ALTER TABLE namespaces
    ADD COLUMN rate_limit JSON CHECK (json_typeof(rate_limit) = 'object'),
    ADD COLUMN quota JSON CHECK (json_typeof(quota) = 'object'),
    ADD COLUMN default_plan TEXT COLLATE "C" NOT NULL DEFAULT '';

CREATE TABLE plans (
    namespace   TEXT   COLLATE "C" NOT NULL,
    name        TEXT   COLLATE "C" NOT NULL,
    description TEXT   NOT NULL,
    rate_limit  JSON   CHECK (json_typeof(rate_limit) = 'object'),
    quota       JSON   CHECK (json_typeof(quota) = 'object'),
    created_at  BIGINT NOT NULL,
    version     BIGINT NOT NULL,
    PRIMARY KEY (namespace, name)
);

CREATE OR REPLACE FUNCTION log_objects() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    taken bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM changed) THEN
        RETURN NULL;
    END IF;
    taken := next_revision();
    UPDATE head SET policy = taken WHERE policy < taken;
    IF TG_ARGV[0] IN ('role', 'plan') THEN
        INSERT INTO change_log (revision, kind, object, namespace, name)
            SELECT taken, 'policy', TG_ARGV[0], c.namespace, c.name FROM changed c;
        IF TG_OP = 'UPDATE' THEN
            INSERT INTO change_log (revision, kind, object, namespace, name)
                SELECT taken, 'policy', TG_ARGV[0], o.namespace, o.name FROM former o
                EXCEPT SELECT taken, 'policy', TG_ARGV[0], c.namespace, c.name FROM changed c;
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

CREATE TRIGGER plans_lock   BEFORE INSERT OR UPDATE OR DELETE ON plans FOR EACH STATEMENT EXECUTE FUNCTION lock_head();
CREATE TRIGGER plans_insert AFTER INSERT ON plans REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_objects('plan');
CREATE TRIGGER plans_update AFTER UPDATE ON plans REFERENCING NEW TABLE AS changed OLD TABLE AS former FOR EACH STATEMENT EXECUTE FUNCTION log_objects('plan');
CREATE TRIGGER plans_delete AFTER DELETE ON plans REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_objects('plan');
CREATE TRIGGER plans_truncate BEFORE TRUNCATE ON plans FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('no node would be told: use DELETE');

-- Units granted in each period of a quota. A row is deleted a day after the end of its period.
CREATE TABLE quota_grants (
    quota   TEXT   COLLATE "C" NOT NULL,
    begins  BIGINT NOT NULL,
    ends    BIGINT NOT NULL,
    granted BIGINT NOT NULL,
    PRIMARY KEY (quota, begins)
) WITH (fillfactor = 50);
CREATE INDEX quota_grants_ends ON quota_grants (ends);
-- +goose StatementEnd

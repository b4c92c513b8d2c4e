-- Limits of keys and namespaces, plans, and the units of quotas that nodes have been granted.

-- +goose Up
-- +goose StatementBegin

-- The functions use the schema in which they were created, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Nodes of the previous release may be writing. They take this lock before any other.
SELECT 1 FROM head FOR UPDATE;

-- Columns without a CHECK, because it would read all keys. NULL leaves the limit to the plan.
ALTER TABLE keys
    ADD COLUMN rate_limit JSON, -- {"requests","per","burst","shadow"} or {"unlimited"}
    ADD COLUMN quota JSON, -- {"requests","per","shadow"} or {"unlimited"}
    ADD COLUMN plan TEXT COLLATE "C" NOT NULL DEFAULT ''; -- empty: the default plan of the namespace
CREATE INDEX keys_plan ON keys (plan, namespace) WHERE plan <> '';

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
) WITH (fillfactor = 70);
CREATE INDEX quota_grants_ends ON quota_grants (ends);
-- +goose StatementEnd

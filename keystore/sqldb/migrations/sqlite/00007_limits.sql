-- Limits of keys and namespaces, plans, and the units of quotas that nodes have been granted.

-- +goose Up
-- +goose StatementBegin

-- Columns without a CHECK, because it would read all keys. NULL leaves the limit to the plan.
ALTER TABLE keys ADD COLUMN rate_limit TEXT; -- {"requests","per","burst","shadow"} or {"unlimited"}
ALTER TABLE keys ADD COLUMN quota TEXT; -- {"requests","per","shadow"} or {"unlimited"}
ALTER TABLE keys ADD COLUMN plan TEXT NOT NULL DEFAULT ''; -- empty: the default plan of the namespace
CREATE INDEX keys_plan ON keys (plan, namespace) WHERE plan <> '';

ALTER TABLE namespaces ADD COLUMN rate_limit TEXT CHECK (json_valid(rate_limit) AND json_type(rate_limit) = 'object');
ALTER TABLE namespaces ADD COLUMN quota TEXT CHECK (json_valid(quota) AND json_type(quota) = 'object');
ALTER TABLE namespaces ADD COLUMN default_plan TEXT NOT NULL DEFAULT '';

CREATE TABLE plans (
    namespace   TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    description TEXT    NOT NULL,
    rate_limit  TEXT    CHECK (json_valid(rate_limit) AND json_type(rate_limit) = 'object'),
    quota       TEXT    CHECK (json_valid(quota) AND json_type(quota) = 'object'),
    created_at  INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT;

CREATE TRIGGER plans_insert AFTER INSERT ON plans BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'plan', NEW.namespace, NEW.name FROM head;
END;

CREATE TRIGGER plans_update AFTER UPDATE ON plans BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'plan', NEW.namespace, NEW.name FROM head;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'plan', OLD.namespace, OLD.name FROM head WHERE OLD.namespace <> NEW.namespace OR OLD.name <> NEW.name;
END;

CREATE TRIGGER plans_delete AFTER DELETE ON plans BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'plan', OLD.namespace, OLD.name FROM head;
END;

-- Units granted in each period of a quota. A row is deleted a day after the end of its period.
CREATE TABLE quota_grants (
    quota   TEXT    NOT NULL,
    begins  INTEGER NOT NULL,
    ends    INTEGER NOT NULL,
    granted INTEGER NOT NULL,
    PRIMARY KEY (quota, begins)
) WITHOUT ROWID, STRICT;
CREATE INDEX quota_grants_ends ON quota_grants (ends);
-- +goose StatementEnd

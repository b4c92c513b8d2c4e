-- Limits of keys and namespaces, plans, and the units of quotas that nodes have been granted.

-- +goose Up
-- +goose StatementBegin

-- The limits of keys that have any. Adding columns to keys instead would take long, because SQLite would check all rows.
CREATE TABLE key_limits (
    key_id     TEXT PRIMARY KEY NOT NULL,
    namespace  TEXT NOT NULL, -- home of the key
    rate_limit TEXT CHECK (rate_limit IS NULL OR json_valid(rate_limit) AND json_type(rate_limit) = 'object'), -- {"requests","per","burst","shadow"} or {"unlimited"}; NULL: as the plan says
    quota      TEXT CHECK (quota IS NULL OR json_valid(quota) AND json_type(quota) = 'object'), -- {"requests","per","shadow"} or {"unlimited"}; NULL: as the plan says
    plan       TEXT NOT NULL DEFAULT '' -- empty: the default plan of the namespace
) WITHOUT ROWID, STRICT;
CREATE INDEX key_limits_plan ON key_limits (plan, namespace) WHERE plan <> '';

-- A key without secrets is not usable. When it gets secrets, they are logged.
CREATE TRIGGER key_limits_insert AFTER INSERT ON key_limits
WHEN EXISTS (SELECT 1 FROM secrets WHERE key_id = NEW.key_id AND dropped = 0) BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT h.revision, 'key', s.key_id, s.digest,
               CASE WHEN k.id IS NULL OR k.revoked_at IS NOT NULL OR k.active = 0 THEN 0
                    WHEN k.expires_at IS NULL OR s.ends_at < k.expires_at THEN s.ends_at
                    ELSE k.expires_at END
        FROM head h JOIN secrets s ON s.key_id = NEW.key_id AND s.dropped = 0 LEFT JOIN keys k ON k.id = s.key_id;
END;

CREATE TRIGGER key_limits_update AFTER UPDATE OF key_id, rate_limit, quota, plan ON key_limits
WHEN EXISTS (SELECT 1 FROM secrets WHERE key_id IN (NEW.key_id, OLD.key_id) AND dropped = 0) BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT h.revision, 'key', s.key_id, s.digest,
               CASE WHEN k.id IS NULL OR k.revoked_at IS NOT NULL OR k.active = 0 THEN 0
                    WHEN k.expires_at IS NULL OR s.ends_at < k.expires_at THEN s.ends_at
                    ELSE k.expires_at END
        FROM head h JOIN secrets s ON s.key_id IN (NEW.key_id, OLD.key_id) AND s.dropped = 0 LEFT JOIN keys k ON k.id = s.key_id;
END;

CREATE TRIGGER key_limits_delete AFTER DELETE ON key_limits
WHEN EXISTS (SELECT 1 FROM secrets WHERE key_id = OLD.key_id AND dropped = 0) BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT h.revision, 'key', s.key_id, s.digest,
               CASE WHEN k.id IS NULL OR k.revoked_at IS NOT NULL OR k.active = 0 THEN 0
                    WHEN k.expires_at IS NULL OR s.ends_at < k.expires_at THEN s.ends_at
                    ELSE k.expires_at END
        FROM head h JOIN secrets s ON s.key_id = OLD.key_id AND s.dropped = 0 LEFT JOIN keys k ON k.id = s.key_id;
END;

CREATE TRIGGER keys_delete_limits AFTER DELETE ON keys BEGIN
    DELETE FROM key_limits WHERE key_id = OLD.id;
END;

CREATE TRIGGER keys_update_limits AFTER UPDATE OF namespace ON keys
WHEN NEW.namespace <> OLD.namespace BEGIN
    UPDATE key_limits SET namespace = NEW.namespace WHERE key_id = NEW.id;
END;

ALTER TABLE namespaces ADD COLUMN rate_limit TEXT CHECK (rate_limit IS NULL OR json_valid(rate_limit) AND json_type(rate_limit) = 'object');
ALTER TABLE namespaces ADD COLUMN quota TEXT CHECK (quota IS NULL OR json_valid(quota) AND json_type(quota) = 'object');
ALTER TABLE namespaces ADD COLUMN default_plan TEXT NOT NULL DEFAULT '';

CREATE TABLE plans (
    namespace   TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    description TEXT    NOT NULL,
    rate_limit  TEXT    CHECK (rate_limit IS NULL OR json_valid(rate_limit) AND json_type(rate_limit) = 'object'),
    quota       TEXT    CHECK (quota IS NULL OR json_valid(quota) AND json_type(quota) = 'object'),
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

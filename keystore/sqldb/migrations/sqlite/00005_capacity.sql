-- Nodes read only the namespaces, roles and members that have changed, so the change log names them.
-- Triggers maintain the numbers of keys to which caps apply, so that no change counts keys.

-- +goose Up
-- +goose StatementBegin

ALTER TABLE change_log ADD COLUMN object TEXT; -- of 'policy': namespace, role or member. NULL: any of them
ALTER TABLE change_log ADD COLUMN namespace TEXT; -- of a role
ALTER TABLE change_log ADD COLUMN name TEXT; -- of a role, else the id

DROP TRIGGER namespaces_insert;
DROP TRIGGER namespaces_update;
DROP TRIGGER namespaces_delete;
DROP TRIGGER roles_insert;
DROP TRIGGER roles_update;
DROP TRIGGER roles_delete;
DROP TRIGGER members_insert;
DROP TRIGGER members_update;
DROP TRIGGER members_delete;

CREATE TRIGGER namespaces_insert AFTER INSERT ON namespaces BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'namespace', NULL, NEW.id FROM head;
END;

CREATE TRIGGER namespaces_update AFTER UPDATE ON namespaces BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'namespace', NULL, NEW.id FROM head;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'namespace', NULL, OLD.id FROM head WHERE OLD.id <> NEW.id;
END;

CREATE TRIGGER namespaces_delete AFTER DELETE ON namespaces BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'namespace', NULL, OLD.id FROM head;
END;

CREATE TRIGGER roles_insert AFTER INSERT ON roles BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'role', NEW.namespace, NEW.name FROM head;
END;

CREATE TRIGGER roles_update AFTER UPDATE ON roles BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'role', NEW.namespace, NEW.name FROM head;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'role', OLD.namespace, OLD.name FROM head WHERE OLD.namespace <> NEW.namespace OR OLD.name <> NEW.name;
END;

CREATE TRIGGER roles_delete AFTER DELETE ON roles BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'role', OLD.namespace, OLD.name FROM head;
END;

CREATE TRIGGER members_insert AFTER INSERT ON members BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'member', NULL, NEW.id FROM head;
END;

CREATE TRIGGER members_update AFTER UPDATE ON members BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'member', NULL, NEW.id FROM head;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'member', NULL, OLD.id FROM head WHERE OLD.id <> NEW.id;
END;

CREATE TRIGGER members_delete AFTER DELETE ON members BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind, object, namespace, name)
        SELECT revision, 'policy', 'member', NULL, OLD.id FROM head;
END;

-- The number of keys that act for an owner or have their home in a namespace, without members' own tokens.
CREATE TABLE key_counts (
    kind TEXT    NOT NULL CHECK (kind IN ('owner', 'namespace')),
    id   TEXT    NOT NULL,
    n    INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID, STRICT;
CREATE INDEX key_counts_most ON key_counts (kind, n);
INSERT INTO key_counts SELECT 'owner', owner, count(*) FROM keys WHERE personal = 0 GROUP BY owner;
INSERT INTO key_counts SELECT 'namespace', namespace, count(*) FROM keys WHERE personal = 0 GROUP BY namespace;

CREATE TRIGGER keys_count_insert AFTER INSERT ON keys
WHEN NEW.personal = 0 BEGIN
    INSERT INTO key_counts VALUES ('owner', NEW.owner, 1), ('namespace', NEW.namespace, 1)
        ON CONFLICT (kind, id) DO UPDATE SET n = n + 1;
END;

CREATE TRIGGER keys_count_delete AFTER DELETE ON keys
WHEN OLD.personal = 0 BEGIN
    UPDATE key_counts SET n = n - 1 WHERE kind = 'owner' AND id = OLD.owner;
    UPDATE key_counts SET n = n - 1 WHERE kind = 'namespace' AND id = OLD.namespace;
    DELETE FROM key_counts WHERE n <= 0 AND (kind = 'owner' AND id = OLD.owner OR kind = 'namespace' AND id = OLD.namespace);
END;

CREATE TRIGGER keys_count_less AFTER UPDATE OF owner, namespace, personal ON keys
WHEN OLD.personal = 0 AND (NEW.personal <> 0 OR NEW.owner <> OLD.owner OR NEW.namespace <> OLD.namespace) BEGIN
    UPDATE key_counts SET n = n - 1 WHERE kind = 'owner' AND id = OLD.owner;
    UPDATE key_counts SET n = n - 1 WHERE kind = 'namespace' AND id = OLD.namespace;
    DELETE FROM key_counts WHERE n <= 0 AND (kind = 'owner' AND id = OLD.owner OR kind = 'namespace' AND id = OLD.namespace);
END;

CREATE TRIGGER keys_count_more AFTER UPDATE OF owner, namespace, personal ON keys
WHEN NEW.personal = 0 AND (OLD.personal <> 0 OR NEW.owner <> OLD.owner OR NEW.namespace <> OLD.namespace) BEGIN
    INSERT INTO key_counts VALUES ('owner', NEW.owner, 1), ('namespace', NEW.namespace, 1)
        ON CONFLICT (kind, id) DO UPDATE SET n = n + 1;
END;
-- +goose StatementEnd

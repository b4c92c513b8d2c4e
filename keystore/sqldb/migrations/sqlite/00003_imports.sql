-- A large import adds its keys in many short transactions, so that other changes never wait for it.
-- Its secrets are not valid while the import has a row in imports. Deleting the row publishes all of
-- them at once.

-- +goose Up
-- +goose StatementBegin

CREATE TABLE imports (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    node      TEXT    NOT NULL, -- incarnation of the node that imports
    caller    TEXT    NOT NULL, -- created_by of the keys
    at        INTEGER NOT NULL, -- created_at of the keys
    beat_at   INTEGER NOT NULL, -- when keys were added last
    abandoned INTEGER NOT NULL DEFAULT 0 CHECK (abandoned IN (0, 1)) -- its keys are being removed
) STRICT;

ALTER TABLE secrets ADD COLUMN import_id INTEGER; -- the import that added it in parts, also after it was published

CREATE TRIGGER imports_published AFTER DELETE ON imports
WHEN OLD.abandoned = 0 BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'new' FROM head;
END;

CREATE TRIGGER imports_one_way BEFORE UPDATE ON imports
WHEN NEW.id <> OLD.id OR NEW.abandoned < OLD.abandoned BEGIN
    SELECT RAISE(ABORT, 'an abandoned import stays abandoned');
END;

-- Unpublished secrets are not logged, because they change nothing for nodes.
DROP TRIGGER secrets_insert;
CREATE TRIGGER secrets_insert AFTER INSERT ON secrets
WHEN NEW.import_id IS NULL AND NOT EXISTS (SELECT 1 FROM adding) BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT h.revision, 'key', NEW.key_id, NEW.digest,
               CASE WHEN k.id IS NULL OR k.revoked_at IS NOT NULL OR k.active = 0 OR NEW.dropped = 1 THEN 0
                    WHEN k.expires_at IS NULL OR NEW.ends_at < k.expires_at THEN NEW.ends_at
                    ELSE k.expires_at END
        FROM head h LEFT JOIN keys k ON k.id = NEW.key_id;
END;

-- Secrets of an abandoned import were never valid, so another import may add them.
DROP TRIGGER secrets_delete;
CREATE TRIGGER secrets_delete BEFORE DELETE ON secrets
WHEN NOT EXISTS (SELECT 1 FROM imports WHERE id = OLD.import_id AND abandoned = 1) BEGIN
    SELECT RAISE(ABORT, 'secrets are kept for good: set dropped = 1, or delete the key');
END;
-- +goose StatementEnd

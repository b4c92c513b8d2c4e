-- A large import adds its keys in many short transactions, so that other changes never wait for it.
-- Its secrets are not valid while the import has a row in imports. Deleting the row publishes all of
-- them at once.

-- +goose Up
-- +goose StatementBegin

-- The functions use the schema in which they were created, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE imports (
    id        BIGINT   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node      TEXT     COLLATE "C" NOT NULL, -- incarnation of the node that imports
    caller    TEXT     COLLATE "C" NOT NULL, -- created_by of the keys
    at        BIGINT   NOT NULL, -- created_at of the keys
    beat_at   BIGINT   NOT NULL, -- when keys were added last
    abandoned SMALLINT NOT NULL DEFAULT 0 CHECK (abandoned IN (0, 1)) -- its keys are being removed
);

ALTER TABLE secrets ADD COLUMN import_id BIGINT; -- the import that added it in parts, also after it was published

CREATE FUNCTION log_published() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM changed WHERE abandoned = 0) THEN
        INSERT INTO change_log (revision, kind) VALUES (next_revision(), 'new');
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER imports_lock BEFORE INSERT OR UPDATE OR DELETE ON imports FOR EACH STATEMENT EXECUTE FUNCTION lock_head();
CREATE TRIGGER imports_published AFTER DELETE ON imports REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_published();
CREATE TRIGGER imports_one_way BEFORE UPDATE ON imports FOR EACH ROW
    WHEN (NEW.id <> OLD.id OR NEW.abandoned < OLD.abandoned)
    EXECUTE FUNCTION refuse('an abandoned import stays abandoned');
CREATE TRIGGER imports_truncate BEFORE TRUNCATE ON imports FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('no node would be told: use DELETE');

-- Unpublished secrets are not logged, because they change nothing for nodes.
CREATE OR REPLACE FUNCTION log_secrets() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    taken bigint;
BEGIN
    IF TG_OP = 'INSERT' AND NOT EXISTS (SELECT 1 FROM changed WHERE import_id IS NULL)
        OR NOT EXISTS (SELECT 1 FROM changed) THEN
        RETURN NULL;
    END IF;
    taken := next_revision();
    -- Many new secrets are not named one by one: every node would have to read a log as long as
    -- the import.
    IF TG_OP = 'INSERT' AND (SELECT count(*) FROM changed) > 100 THEN
        INSERT INTO change_log (revision, kind) VALUES (taken, 'new');
        RETURN NULL;
    END IF;
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT taken, 'key', s.key_id, s.digest,
               CASE WHEN k.id IS NULL OR k.revoked_at IS NOT NULL OR k.active = 0 OR s.dropped = 1 THEN 0
                    WHEN k.expires_at IS NULL OR s.ends_at < k.expires_at THEN s.ends_at
                    ELSE k.expires_at END
        FROM changed s LEFT JOIN keys k ON k.id = s.key_id;
    RETURN NULL;
END $$;

-- Secrets of an abandoned import were never valid, so another import may add them.
CREATE FUNCTION keep_secret() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM imports WHERE id = OLD.import_id AND abandoned = 1) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'secrets are kept for good: set dropped = 1, or delete the key';
END $$;

DROP TRIGGER secrets_delete ON secrets;
CREATE TRIGGER secrets_delete BEFORE DELETE ON secrets FOR EACH ROW EXECUTE FUNCTION keep_secret();
CREATE TRIGGER secrets_truncate BEFORE TRUNCATE ON secrets FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('secrets are kept for good: set dropped = 1, or delete the key');
-- +goose StatementEnd

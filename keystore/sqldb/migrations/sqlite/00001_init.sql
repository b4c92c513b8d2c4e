-- Times are Unix microseconds. Every change of keys, secrets, namespaces, roles and members, by any program, takes the next revision
-- from the one row of head and leaves rows in change_log. The triggers below do this, so that manual changes in SQL are logged too.
--
-- Tables are STRICT: otherwise an invalid time ('tomorrow') could get into change_log, and no node could read the log beyond it.

-- +goose Up
-- +goose StatementBegin
CREATE TABLE head (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    epoch    TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    policy   INTEGER NOT NULL -- the revision of the newest change of namespaces, roles or members
) STRICT;
INSERT INTO head VALUES (1, '', 0, 0);

CREATE TABLE deployment (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    token_key   BLOB, -- NULL when it is configured
    fingerprint BLOB  -- of the configured one
) STRICT;

CREATE TABLE change_log (
    revision INTEGER NOT NULL,
    kind     TEXT    NOT NULL CHECK (kind IN ('key', 'new', 'policy', 'all')),
    key_id   TEXT,
    digest   BLOB,
    ends     INTEGER -- when the secret stops being valid; 0: it is not valid now; NULL: never
) STRICT;
CREATE INDEX change_log_revision ON change_log (revision);

-- A random mark for each revision in the log. A database that was restored has different marks after the backup.
CREATE TABLE marks (
    revision INTEGER PRIMARY KEY NOT NULL,
    mark     TEXT    NOT NULL DEFAULT (hex(randomblob(16)))
) STRICT;

CREATE TRIGGER head_revision AFTER UPDATE OF revision ON head BEGIN
    INSERT INTO marks (revision) VALUES (NEW.revision);
END;

CREATE TABLE namespaces (
    id           TEXT    PRIMARY KEY NOT NULL,
    kind         TEXT    NOT NULL,
    parent       TEXT    NOT NULL, -- empty: none
    name         TEXT    NOT NULL,
    edit_policy  TEXT    NOT NULL,
    reach        TEXT    NOT NULL CHECK (json_valid(reach) AND json_type(reach) = 'array'), -- ["kind"]
    key_roles    TEXT    NOT NULL CHECK (json_valid(key_roles) AND json_type(key_roles) = 'array'), -- ["role"]
    token_prefix TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    version      INTEGER NOT NULL
) STRICT;

CREATE TABLE roles (
    namespace   TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    permissions TEXT    NOT NULL CHECK (json_valid(permissions) AND json_type(permissions) = 'array'), -- ["orders:read"]
    created_at  INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT;

CREATE TABLE members (
    id         TEXT    PRIMARY KEY NOT NULL,
    name       TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    login      TEXT    NOT NULL, -- empty: nobody's
    grants     TEXT    NOT NULL CHECK (json_valid(grants) AND json_type(grants) = 'array'), -- in the same form as those of keys
    active     INTEGER NOT NULL CHECK (active IN (0, 1)),
    created_at INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    version    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX members_login ON members (login) WHERE login <> '';

CREATE TABLE keys (
    id            TEXT    PRIMARY KEY NOT NULL,
    prefix        TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    namespace     TEXT    NOT NULL,
    grants        TEXT    NOT NULL CHECK (json_valid(grants) AND json_type(grants) = 'array'), -- [{"namespace","permissions","roles","connected"}]
    owner         TEXT    NOT NULL,
    personal      INTEGER NOT NULL DEFAULT 0 CHECK (personal IN (0, 1)), -- 1: the owner's own token, excluded from lists and counts
    created_by    TEXT    NOT NULL,
    active        INTEGER NOT NULL CHECK (active IN (0, 1)),
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER,
    revoked_at    INTEGER,
    revoked_by    TEXT    NOT NULL,
    revoke_reason TEXT    NOT NULL,
    allowed_ips   TEXT    NOT NULL CHECK (json_valid(allowed_ips) AND json_type(allowed_ips) = 'array'), -- ["10.0.0.0/8"]
    metadata      TEXT    NOT NULL CHECK (json_valid(metadata)),    -- {"name":"value"}
    version       INTEGER NOT NULL
) STRICT;
-- Pages start with the newest key. The last four columns determine the status without reading the row.
CREATE INDEX keys_page       ON keys (created_at, id, revoked_at, expires_at, active, personal);
CREATE INDEX keys_namespace  ON keys (namespace, created_at, id, revoked_at, expires_at, active, personal);
CREATE INDEX keys_owner      ON keys (owner, created_at, id, revoked_at, expires_at, active, personal);
CREATE INDEX keys_created_by ON keys (created_by, created_at, id, revoked_at, expires_at, active, personal);
-- A member has at most one token that is not revoked.
CREATE UNIQUE INDEX keys_personal ON keys (owner) WHERE personal = 1 AND revoked_at IS NULL;
CREATE INDEX keys_uncounted ON keys (personal) WHERE personal = 1;
-- Keys that are not active, for counts and for lists of few keys. SQLite uses the index only if it has all columns of the
-- condition.
CREATE INDEX keys_revoked  ON keys (created_at, id, revoked_at, personal) WHERE revoked_at IS NOT NULL AND personal = 0;
CREATE INDEX keys_inactive ON keys (created_at, id, active, revoked_at, expires_at, personal) WHERE active = 0 AND revoked_at IS NULL AND personal = 0;
CREATE INDEX keys_expiring ON keys (expires_at, revoked_at, personal) WHERE expires_at IS NOT NULL AND revoked_at IS NULL AND personal = 0;
-- For lists of expired keys. With an index in the order of pages, SQLite would read all keys to find a few.
CREATE INDEX keys_expiring_page ON keys (created_at, id, expires_at, revoked_at, personal) WHERE expires_at IS NOT NULL AND revoked_at IS NULL AND personal = 0;

-- Rows are kept forever, so that no credential can be stored twice.
CREATE TABLE secrets (
    digest     BLOB    PRIMARY KEY NOT NULL CHECK (length(digest) = 32),
    key_id     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    ends_at    INTEGER,
    imported   INTEGER NOT NULL DEFAULT 0 CHECK (imported IN (0, 1)),
    dropped    INTEGER NOT NULL DEFAULT 0 CHECK (dropped IN (0, 1)) -- 1: no longer valid
) WITHOUT ROWID, STRICT;
CREATE INDEX secrets_key ON secrets (key_id) WHERE dropped = 0;
CREATE INDEX secrets_imported ON secrets (imported) WHERE imported = 1;

-- The namespaces other than its home in which a key has a grant, maintained by triggers.
CREATE TABLE granted (
    key_id    TEXT NOT NULL,
    namespace TEXT NOT NULL,
    PRIMARY KEY (key_id, namespace)
) WITHOUT ROWID, STRICT;
CREATE INDEX granted_namespace ON granted (namespace);

-- The roles in the grants of keys, maintained by triggers.
CREATE TABLE held (
    role      TEXT    NOT NULL,
    home      TEXT    NOT NULL, -- of the key
    namespace TEXT    NOT NULL, -- of the grant
    connected INTEGER NOT NULL,
    key_id    TEXT    NOT NULL,
    PRIMARY KEY (role, home, namespace, connected, key_id)
) WITHOUT ROWID, STRICT;
CREATE INDEX held_reach ON held (role, connected, namespace);
CREATE INDEX held_key   ON held (key_id, role);

CREATE TABLE last_uses (
    key_id  TEXT    PRIMARY KEY NOT NULL,
    used_at INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE nodes (
    incarnation TEXT    PRIMARY KEY NOT NULL,
    address     TEXT    NOT NULL,
    lease       INTEGER NOT NULL, -- microseconds
    state       TEXT    NOT NULL CHECK (state IN ('active', 'fencing')),
    acked       INTEGER NOT NULL DEFAULT 0,
    beats       INTEGER NOT NULL DEFAULT 0,
    joined_at   INTEGER NOT NULL,
    heard_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    seq        INTEGER PRIMARY KEY NOT NULL,
    at         INTEGER NOT NULL,
    actor      TEXT    NOT NULL,
    source     TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    object     TEXT    NOT NULL,
    namespaces TEXT    NOT NULL CHECK (json_valid(namespaces) AND json_type(namespaces) IN ('array', 'null')),
    before     TEXT    NOT NULL,
    after      TEXT    NOT NULL,
    hash       BLOB    NOT NULL
) STRICT;
CREATE INDEX audit_object ON audit (object, seq);
CREATE INDEX audit_actor  ON audit (actor, seq);
CREATE INDEX audit_action ON audit (action, seq);
CREATE INDEX audit_at     ON audit (at, seq);

-- The namespaces of a row of the audit log, maintained by a trigger.
CREATE TABLE touched (
    namespace TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    PRIMARY KEY (namespace, seq)
) WITHOUT ROWID, STRICT;

CREATE TABLE remembered (
    caller TEXT    NOT NULL,
    key    TEXT    NOT NULL,
    made   TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT;
CREATE INDEX remembered_at ON remembered (at);

CREATE TABLE sessions (
    digest     BLOB    PRIMARY KEY NOT NULL CHECK (length(digest) = 32), -- of the secret in the browser's cookie
    token      BLOB    NOT NULL CHECK (length(token) = 32), -- digest of the member's token that it was opened with
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX sessions_used    ON sessions (used_at);
CREATE INDEX sessions_created ON sessions (created_at);
CREATE INDEX sessions_token   ON sessions (token, used_at); -- the number of sessions of a token is limited

-- While a transaction has a row here, the secrets that it adds are not logged one by one. Otherwise every node would have to read a log
-- as long as the import. The deletion of the row logs one change. No other transaction ever sees the row.
CREATE TABLE adding (
    one INTEGER PRIMARY KEY CHECK (one = 1)
) STRICT;

CREATE TRIGGER adding_ends AFTER DELETE ON adding BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'new' FROM head;
END;

CREATE TRIGGER keys_insert AFTER INSERT ON keys BEGIN
    INSERT INTO granted (key_id, namespace)
        SELECT DISTINCT NEW.id, json_extract(g.value, '$.namespace') FROM json_each(NEW.grants) g
        WHERE json_extract(g.value, '$.namespace') <> NEW.namespace;
    INSERT INTO held (role, home, namespace, connected, key_id)
        SELECT DISTINCT r.value, NEW.namespace, json_extract(g.value, '$.namespace'), coalesce(json_extract(g.value, '$.connected'), 0), NEW.id
        FROM json_each(NEW.grants) g, json_each(g.value, '$.roles') r;
END;

-- A new key is not usable before it has secrets, which are logged when they are added. If it has secrets already, the row may not be new:
-- REPLACE may have replaced an existing one.
CREATE TRIGGER keys_insert_after_secrets AFTER INSERT ON keys
WHEN EXISTS (SELECT 1 FROM secrets WHERE key_id = NEW.id AND dropped = 0) BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT h.revision, 'key', NEW.id, s.digest,
               CASE WHEN NEW.revoked_at IS NOT NULL OR NEW.active = 0 THEN 0
                    WHEN NEW.expires_at IS NULL OR s.ends_at < NEW.expires_at THEN s.ends_at
                    ELSE NEW.expires_at END
        FROM head h JOIN secrets s ON s.key_id = NEW.id AND s.dropped = 0;
END;

-- REPLACE deletes a row without running the delete triggers, so this trigger must refuse what they refuse.
CREATE TRIGGER keys_replace BEFORE INSERT ON keys
WHEN NEW.revoked_at IS NULL AND EXISTS (SELECT 1 FROM keys WHERE id = NEW.id AND revoked_at IS NOT NULL) BEGIN
    SELECT RAISE(ABORT, 'the id of a key never changes, and a revoked key stays revoked');
END;

CREATE TRIGGER secrets_replace BEFORE INSERT ON secrets
WHEN EXISTS (SELECT 1 FROM secrets WHERE digest = NEW.digest) BEGIN
    SELECT RAISE(ABORT, 'secrets are kept for good: a digest is inserted once');
END;

CREATE TRIGGER keys_update AFTER UPDATE ON keys BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT h.revision, 'key', NEW.id, s.digest,
               CASE WHEN NEW.revoked_at IS NOT NULL OR NEW.active = 0 THEN 0
                    WHEN NEW.expires_at IS NULL OR s.ends_at < NEW.expires_at THEN s.ends_at
                    ELSE NEW.expires_at END
        FROM head h LEFT JOIN secrets s ON s.key_id = NEW.id AND s.dropped = 0;
END;

CREATE TRIGGER keys_update_grants AFTER UPDATE OF grants, namespace ON keys
WHEN NEW.grants <> OLD.grants OR NEW.namespace <> OLD.namespace BEGIN
    DELETE FROM granted WHERE key_id = NEW.id;
    DELETE FROM held WHERE key_id = NEW.id;
    INSERT INTO granted (key_id, namespace)
        SELECT DISTINCT NEW.id, json_extract(g.value, '$.namespace') FROM json_each(NEW.grants) g
        WHERE json_extract(g.value, '$.namespace') <> NEW.namespace;
    INSERT INTO held (role, home, namespace, connected, key_id)
        SELECT DISTINCT r.value, NEW.namespace, json_extract(g.value, '$.namespace'), coalesce(json_extract(g.value, '$.connected'), 0), NEW.id
        FROM json_each(NEW.grants) g, json_each(g.value, '$.roles') r;
END;

CREATE TRIGGER keys_delete AFTER DELETE ON keys BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT h.revision, 'key', OLD.id, s.digest, 0
        FROM head h LEFT JOIN secrets s ON s.key_id = OLD.id AND s.dropped = 0;
    UPDATE secrets SET dropped = 1 WHERE key_id = OLD.id AND dropped = 0;
    DELETE FROM granted WHERE key_id = OLD.id;
    DELETE FROM held WHERE key_id = OLD.id;
    DELETE FROM last_uses WHERE key_id = OLD.id;
END;

CREATE TRIGGER keys_one_way BEFORE UPDATE ON keys
WHEN NEW.id <> OLD.id OR (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS NULL) BEGIN
    SELECT RAISE(ABORT, 'the id of a key never changes, and a revoked key stays revoked');
END;

CREATE TRIGGER secrets_insert AFTER INSERT ON secrets
WHEN NOT EXISTS (SELECT 1 FROM adding) BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT h.revision, 'key', NEW.key_id, NEW.digest,
               CASE WHEN k.id IS NULL OR k.revoked_at IS NOT NULL OR k.active = 0 OR NEW.dropped = 1 THEN 0
                    WHEN k.expires_at IS NULL OR NEW.ends_at < k.expires_at THEN NEW.ends_at
                    ELSE k.expires_at END
        FROM head h LEFT JOIN keys k ON k.id = NEW.key_id;
END;

CREATE TRIGGER secrets_update AFTER UPDATE ON secrets BEGIN
    UPDATE head SET revision = revision + 1;
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT h.revision, 'key', NEW.key_id, NEW.digest,
               CASE WHEN k.id IS NULL OR k.revoked_at IS NOT NULL OR k.active = 0 OR NEW.dropped = 1 THEN 0
                    WHEN k.expires_at IS NULL OR NEW.ends_at < k.expires_at THEN NEW.ends_at
                    ELSE k.expires_at END
        FROM head h LEFT JOIN keys k ON k.id = NEW.key_id;
END;

CREATE TRIGGER secrets_one_way BEFORE UPDATE ON secrets
WHEN NEW.digest <> OLD.digest OR NEW.key_id <> OLD.key_id OR NEW.dropped < OLD.dropped BEGIN
    SELECT RAISE(ABORT, 'a secret stays with its key, and a dropped one stays dropped');
END;

CREATE TRIGGER secrets_delete BEFORE DELETE ON secrets BEGIN
    SELECT RAISE(ABORT, 'secrets are kept for good: set dropped = 1, or delete the key');
END;

CREATE TRIGGER namespaces_insert AFTER INSERT ON namespaces BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'policy' FROM head;
END;

CREATE TRIGGER namespaces_update AFTER UPDATE ON namespaces BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'policy' FROM head;
END;

CREATE TRIGGER namespaces_delete AFTER DELETE ON namespaces BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'policy' FROM head;
END;

CREATE TRIGGER roles_insert AFTER INSERT ON roles BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'policy' FROM head;
END;

CREATE TRIGGER roles_update AFTER UPDATE ON roles BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'policy' FROM head;
END;

CREATE TRIGGER roles_delete AFTER DELETE ON roles BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'policy' FROM head;
END;

CREATE TRIGGER members_insert AFTER INSERT ON members BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'policy' FROM head;
END;

CREATE TRIGGER members_update AFTER UPDATE ON members BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'policy' FROM head;
END;

CREATE TRIGGER members_delete AFTER DELETE ON members BEGIN
    UPDATE head SET revision = revision + 1, policy = revision + 1;
    INSERT INTO change_log (revision, kind) SELECT revision, 'policy' FROM head;
END;

CREATE TRIGGER audit_touched AFTER INSERT ON audit BEGIN
    INSERT INTO touched (namespace, seq) SELECT DISTINCT n.value, NEW.seq FROM json_each(NEW.namespaces) n WHERE n.value IS NOT NULL;
END;

-- REPLACE deletes a row without running the delete trigger.
CREATE TRIGGER audit_replace BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq) BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_update BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_delete BEFORE DELETE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

-- A reader who may not read the whole log sees only the rows in touched.
CREATE TRIGGER touched_update BEFORE UPDATE ON touched BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER touched_delete BEFORE DELETE ON touched BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
-- +goose StatementEnd

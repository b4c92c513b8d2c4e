-- Times are Unix microseconds. Every transaction that changes keys, secrets, namespaces, roles or members, by any program, takes the
-- next revision from the one row of head and leaves rows in change_log. The triggers below do this, so that manual changes in SQL are
-- logged too.
--
-- Texts are compared byte by byte, whatever the collation of the database.

-- +goose Up
-- +goose StatementBegin

-- The functions use the schema in which they were created, whatever the search_path of the caller.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Free space on the page keeps the many updates of the row on it.
CREATE TABLE head (
    one      SMALLINT PRIMARY KEY CHECK (one = 1),
    epoch    TEXT     NOT NULL,
    revision BIGINT   NOT NULL,
    policy   BIGINT   NOT NULL -- the revision of the newest change of namespaces, roles or members
) WITH (fillfactor = 10);
INSERT INTO head VALUES (1, '', 0, 0);

CREATE TABLE deployment (
    one         SMALLINT PRIMARY KEY CHECK (one = 1),
    token_key   BYTEA, -- NULL when it is configured
    fingerprint BYTEA  -- of the configured one
);

CREATE TABLE change_log (
    rowid    BIGINT GENERATED ALWAYS AS IDENTITY, -- the order within a revision; SQLite's tables have a rowid by themselves
    revision BIGINT NOT NULL,
    kind     TEXT   NOT NULL CHECK (kind IN ('key', 'new', 'policy', 'all')),
    key_id   TEXT   COLLATE "C",
    digest   BYTEA,
    ends     BIGINT -- when the secret stops being valid; 0: it is not valid now; NULL: never
);
CREATE INDEX change_log_revision ON change_log (revision, rowid);

-- A random mark for each revision in the log. A database that was restored has different marks after the backup.
CREATE TABLE marks (
    revision BIGINT PRIMARY KEY,
    mark     TEXT   NOT NULL DEFAULT gen_random_uuid()
);

CREATE TABLE namespaces (
    id           TEXT   COLLATE "C" PRIMARY KEY,
    kind         TEXT   NOT NULL,
    parent       TEXT   COLLATE "C" NOT NULL, -- empty: none
    name         TEXT   NOT NULL,
    edit_policy  TEXT   NOT NULL,
    reach        JSON   NOT NULL CHECK (json_typeof(reach) = 'array'), -- ["kind"]
    key_roles    JSON   NOT NULL CHECK (json_typeof(key_roles) = 'array'), -- ["role"]
    token_prefix TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    version      BIGINT NOT NULL
);

CREATE TABLE roles (
    namespace   TEXT   COLLATE "C" NOT NULL,
    name        TEXT   COLLATE "C" NOT NULL,
    permissions JSON   NOT NULL CHECK (json_typeof(permissions) = 'array'), -- ["orders:read"]
    created_at  BIGINT NOT NULL,
    version     BIGINT NOT NULL,
    PRIMARY KEY (namespace, name)
);

CREATE TABLE members (
    id         TEXT     COLLATE "C" PRIMARY KEY,
    name       TEXT     NOT NULL,
    kind       TEXT     NOT NULL,
    login      TEXT     COLLATE "C" NOT NULL, -- empty: nobody's
    grants     JSON     NOT NULL CHECK (json_typeof(grants) = 'array'), -- in the same form as those of keys
    active     SMALLINT NOT NULL CHECK (active IN (0, 1)),
    created_at BIGINT   NOT NULL,
    created_by TEXT     NOT NULL,
    version    BIGINT   NOT NULL
);
CREATE UNIQUE INDEX members_login ON members (login) WHERE login <> '';

CREATE TABLE keys (
    id            TEXT     COLLATE "C" PRIMARY KEY,
    prefix        TEXT     NOT NULL,
    name          TEXT     COLLATE "C" NOT NULL,
    namespace     TEXT     COLLATE "C" NOT NULL,
    grants        JSON     NOT NULL, -- [{"namespace","permissions","roles","connected"}]
    owner         TEXT     COLLATE "C" NOT NULL,
    personal      SMALLINT NOT NULL DEFAULT 0 CHECK (personal IN (0, 1)), -- 1: the owner's own token, excluded from lists and counts
    created_by    TEXT     COLLATE "C" NOT NULL,
    active        SMALLINT NOT NULL CHECK (active IN (0, 1)),
    created_at    BIGINT   NOT NULL,
    expires_at    BIGINT,
    revoked_at    BIGINT,
    revoked_by    TEXT     NOT NULL,
    revoke_reason TEXT     NOT NULL,
    allowed_ips   JSON     NOT NULL, -- ["10.0.0.0/8"]
    metadata      JSON     NOT NULL, -- {"name":"value"}
    version       BIGINT   NOT NULL
);
-- Pages start with the newest key. The last four columns determine the status without reading the row.
CREATE INDEX keys_page       ON keys (created_at, id, revoked_at, expires_at, active, personal);
CREATE INDEX keys_namespace  ON keys (namespace, created_at, id, revoked_at, expires_at, active, personal);
CREATE INDEX keys_owner      ON keys (owner, created_at, id, revoked_at, expires_at, active, personal);
CREATE INDEX keys_created_by ON keys (created_by, created_at, id, revoked_at, expires_at, active, personal);
-- A member has at most one token that is not revoked.
CREATE UNIQUE INDEX keys_personal ON keys (owner) WHERE personal = 1 AND revoked_at IS NULL;
CREATE INDEX keys_uncounted ON keys (personal) WHERE personal = 1;
-- Keys that are not active, for counts and for lists of few keys.
CREATE INDEX keys_revoked  ON keys (created_at, id) WHERE revoked_at IS NOT NULL AND personal = 0;
CREATE INDEX keys_inactive ON keys (created_at, id, expires_at) WHERE active = 0 AND revoked_at IS NULL AND personal = 0;
CREATE INDEX keys_expiring ON keys (expires_at) WHERE expires_at IS NOT NULL AND revoked_at IS NULL AND personal = 0;

-- Rows are kept forever, so that no credential can be stored twice.
CREATE TABLE secrets (
    digest     BYTEA    PRIMARY KEY CHECK (length(digest) = 32),
    key_id     TEXT     COLLATE "C" NOT NULL,
    created_at BIGINT   NOT NULL,
    ends_at    BIGINT,
    imported   SMALLINT NOT NULL DEFAULT 0 CHECK (imported IN (0, 1)),
    dropped    SMALLINT NOT NULL DEFAULT 0 CHECK (dropped IN (0, 1)) -- 1: no longer valid
);
CREATE INDEX secrets_key ON secrets (key_id) WHERE dropped = 0;
CREATE INDEX secrets_imported ON secrets (imported) WHERE imported = 1;

-- The namespaces other than its home in which a key has a grant, maintained by triggers.
CREATE TABLE granted (
    key_id    TEXT COLLATE "C" NOT NULL,
    namespace TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (key_id, namespace)
);
CREATE INDEX granted_namespace ON granted (namespace);

-- The roles in the grants of keys, maintained by triggers.
CREATE TABLE held (
    role      TEXT     COLLATE "C" NOT NULL,
    home      TEXT     COLLATE "C" NOT NULL, -- of the key
    namespace TEXT     COLLATE "C" NOT NULL, -- of the grant
    connected SMALLINT NOT NULL,
    key_id    TEXT     COLLATE "C" NOT NULL,
    PRIMARY KEY (role, home, namespace, connected, key_id)
);
CREATE INDEX held_reach ON held (role, connected, namespace);
CREATE INDEX held_key   ON held (key_id, role);

CREATE TABLE last_uses (
    key_id  TEXT   COLLATE "C" PRIMARY KEY,
    used_at BIGINT NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE nodes (
    incarnation TEXT   COLLATE "C" PRIMARY KEY,
    address     TEXT   NOT NULL,
    lease       BIGINT NOT NULL, -- microseconds
    state       TEXT   NOT NULL CHECK (state IN ('active', 'fencing')),
    acked       BIGINT NOT NULL DEFAULT 0,
    beats       BIGINT NOT NULL DEFAULT 0,
    joined_at   BIGINT NOT NULL,
    heard_at    BIGINT NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE audit (
    seq        BIGINT PRIMARY KEY,
    at         BIGINT NOT NULL,
    actor      TEXT   COLLATE "C" NOT NULL,
    source     TEXT   NOT NULL,
    action     TEXT   COLLATE "C" NOT NULL,
    object     TEXT   COLLATE "C" NOT NULL,
    namespaces JSON   NOT NULL CHECK (json_typeof(namespaces) IN ('array', 'null')),
    before     TEXT   NOT NULL,
    after      TEXT   NOT NULL,
    hash       BYTEA  NOT NULL
);
CREATE INDEX audit_object ON audit (object, seq);
CREATE INDEX audit_actor  ON audit (actor, seq);
CREATE INDEX audit_action ON audit (action, seq);
CREATE INDEX audit_at     ON audit (at, seq);

-- The namespaces of a row of the audit log, maintained by a trigger.
CREATE TABLE touched (
    namespace TEXT   COLLATE "C" NOT NULL,
    seq       BIGINT NOT NULL,
    PRIMARY KEY (namespace, seq)
);

CREATE TABLE remembered (
    caller TEXT   COLLATE "C" NOT NULL,
    key    TEXT   COLLATE "C" NOT NULL,
    made   TEXT   NOT NULL,
    at     BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX remembered_at ON remembered (at);

CREATE TABLE sessions (
    digest     BYTEA  PRIMARY KEY CHECK (length(digest) = 32), -- of the secret in the browser's cookie
    token      BYTEA  NOT NULL CHECK (length(token) = 32), -- digest of the member's token that it was opened with
    created_at BIGINT NOT NULL,
    used_at    BIGINT NOT NULL
);
CREATE INDEX sessions_used    ON sessions (used_at);
CREATE INDEX sessions_created ON sessions (created_at);
CREATE INDEX sessions_token   ON sessions (token, used_at); -- the number of sessions of a token is limited

-- The data of a standby may be outdated, so no read may be answered from it, not even behind a pooler that sends reads there.
CREATE FUNCTION on_primary() RETURNS boolean LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE 'this server is a standby' USING ERRCODE = 'read_only_sql_transaction';
    END IF;
    RETURN true;
END $$;

-- Takes the lock of all changes for this transaction and returns the time. A program that is stopped or cut off loses the lock after the
-- idle timeout. A running one has no other timeout: those of the user are meant for queries.
-- PostgreSQL estimates a hundred elements for each JSON array, so it would JIT-compile the queries on grants for each batch of an
-- import, which would take two thirds of the time.
CREATE FUNCTION begin_change(lock_wait text, idle text) RETURNS bigint LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('lock_timeout', lock_wait, true), set_config('idle_in_transaction_session_timeout', idle, true), set_config('statement_timeout', '0', true),
        set_config('jit', 'off', true);
    IF current_setting('transaction_timeout', true) IS NOT NULL THEN -- PostgreSQL 17
        PERFORM set_config('transaction_timeout', '0', true);
    END IF;
    PERFORM 1 FROM head FOR UPDATE;
    RETURN floor(extract(epoch FROM clock_timestamp()) * 1000000);
END $$;

-- The first change of a transaction takes the revision and records it in a setting that ends with the transaction. Later changes use the
-- same revision, because a row that is updated thousands of times in one transaction has as many versions to scan.
--
-- The channel is named after the oid of the schema, whose name could be too long. PostgreSQL sends the notification at the commit.
CREATE FUNCTION next_revision() RETURNS bigint LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    mark  text := current_schema() || ' ' || pg_current_xact_id();
    taken bigint;
BEGIN
    IF current_setting('apikeys.taken', true) = mark THEN
        SELECT revision INTO STRICT taken FROM head;
    ELSE
        UPDATE head SET revision = revision + 1 RETURNING revision INTO STRICT taken;
        INSERT INTO marks (revision) VALUES (taken);
        PERFORM set_config('apikeys.taken', mark, true);
        PERFORM pg_notify('apikeys_' || oid, '') FROM pg_namespace WHERE nspname = current_schema();
    END IF;
    RETURN taken;
END $$;

-- Runs before a statement locks any row, so that two of them cannot deadlock.
CREATE FUNCTION lock_head() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM 1 FROM head FOR UPDATE;
    RETURN NULL;
END $$;

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0];
END $$;

CREATE FUNCTION log_keys() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    taken bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM changed) THEN
        RETURN NULL;
    END IF;
    taken := next_revision();
    INSERT INTO change_log (revision, kind, key_id, digest, ends)
        SELECT taken, 'key', k.id, s.digest,
               CASE WHEN TG_OP = 'DELETE' OR k.revoked_at IS NOT NULL OR k.active = 0 THEN 0
                    WHEN k.expires_at IS NULL OR s.ends_at < k.expires_at THEN s.ends_at
                    ELSE k.expires_at END
        FROM changed k LEFT JOIN secrets s ON s.key_id = k.id AND s.dropped = 0;
    IF TG_OP = 'DELETE' THEN
        UPDATE secrets SET dropped = 1 WHERE key_id IN (SELECT id FROM changed) AND dropped = 0;
        DELETE FROM last_uses WHERE key_id IN (SELECT id FROM changed);
    END IF;
    RETURN NULL;
END $$;

-- A new key is not usable before it has secrets, which are logged when they are added. Secrets that existed before the key were not valid.
-- EXECUTE plans the query each time: a plan for a few secrets would read all of them for each batch of an import.
CREATE FUNCTION log_new_keys() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    known boolean;
BEGIN
    EXECUTE 'SELECT EXISTS (SELECT 1 FROM secrets WHERE key_id = ANY (ARRAY(SELECT id FROM changed)) AND dropped = 0)' INTO STRICT known;
    IF known THEN
        INSERT INTO change_log (revision, kind) VALUES (next_revision(), 'new');
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION keep_grants() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM granted WHERE key_id IN (SELECT id FROM changed);
        DELETE FROM held WHERE key_id IN (SELECT id FROM changed);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO granted (key_id, namespace)
            SELECT DISTINCT k.id, g.value ->> 'namespace' FROM changed k, json_array_elements(k.grants) g
            WHERE g.value ->> 'namespace' <> k.namespace;
        INSERT INTO held (role, home, namespace, connected, key_id)
            SELECT DISTINCT r.value, k.namespace, g.value ->> 'namespace', CASE WHEN g.value ->> 'connected' = 'true' THEN 1 ELSE 0 END, k.id
            FROM changed k, json_array_elements(k.grants) g, json_array_elements_text(g.value -> 'roles') r;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION log_secrets() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    taken bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM changed) THEN
        RETURN NULL;
    END IF;
    taken := next_revision();
    -- Many new secrets are not named one by one: every node would have to read a log as long as the import.
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

CREATE FUNCTION log_policy() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    taken bigint;
BEGIN
    IF EXISTS (SELECT 1 FROM changed) THEN
        taken := next_revision();
        UPDATE head SET policy = taken WHERE policy < taken;
        INSERT INTO change_log (revision, kind) VALUES (taken, 'policy');
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION keep_touched() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO touched (namespace, seq)
        SELECT DISTINCT n.value, c.seq FROM changed c, json_array_elements_text(CASE WHEN json_typeof(c.namespaces) = 'array' THEN c.namespaces ELSE '[]' END) n
        WHERE n.value IS NOT NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER keys_lock   BEFORE INSERT OR UPDATE OR DELETE ON keys FOR EACH STATEMENT EXECUTE FUNCTION lock_head();
CREATE TRIGGER keys_insert AFTER INSERT ON keys REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_new_keys();
CREATE TRIGGER keys_update AFTER UPDATE ON keys REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_keys();
CREATE TRIGGER keys_delete AFTER DELETE ON keys REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_keys();
CREATE TRIGGER keys_insert_grants AFTER INSERT ON keys REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION keep_grants();
CREATE TRIGGER keys_update_grants AFTER UPDATE ON keys REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION keep_grants();
CREATE TRIGGER keys_delete_grants AFTER DELETE ON keys REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION keep_grants();
CREATE TRIGGER keys_one_way BEFORE UPDATE ON keys FOR EACH ROW
    WHEN (NEW.id <> OLD.id OR (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS NULL))
    EXECUTE FUNCTION refuse('the id of a key never changes, and a revoked key stays revoked');
CREATE TRIGGER keys_truncate BEFORE TRUNCATE ON keys FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('no node would be told: use DELETE');

CREATE TRIGGER secrets_lock   BEFORE INSERT OR UPDATE ON secrets FOR EACH STATEMENT EXECUTE FUNCTION lock_head();
CREATE TRIGGER secrets_insert AFTER INSERT ON secrets REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_secrets();
CREATE TRIGGER secrets_update AFTER UPDATE ON secrets REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_secrets();
CREATE TRIGGER secrets_one_way BEFORE UPDATE ON secrets FOR EACH ROW
    WHEN (NEW.digest <> OLD.digest OR NEW.key_id <> OLD.key_id OR NEW.dropped < OLD.dropped)
    EXECUTE FUNCTION refuse('a secret stays with its key, and a dropped one stays dropped');
CREATE TRIGGER secrets_delete BEFORE DELETE OR TRUNCATE ON secrets FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('secrets are kept for good: set dropped = 1, or delete the key');

CREATE TRIGGER namespaces_lock   BEFORE INSERT OR UPDATE OR DELETE ON namespaces FOR EACH STATEMENT EXECUTE FUNCTION lock_head();
CREATE TRIGGER namespaces_insert AFTER INSERT ON namespaces REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_policy();
CREATE TRIGGER namespaces_update AFTER UPDATE ON namespaces REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_policy();
CREATE TRIGGER namespaces_delete AFTER DELETE ON namespaces REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_policy();
CREATE TRIGGER namespaces_truncate BEFORE TRUNCATE ON namespaces FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('no node would be told: use DELETE');

CREATE TRIGGER roles_lock   BEFORE INSERT OR UPDATE OR DELETE ON roles FOR EACH STATEMENT EXECUTE FUNCTION lock_head();
CREATE TRIGGER roles_insert AFTER INSERT ON roles REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_policy();
CREATE TRIGGER roles_update AFTER UPDATE ON roles REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_policy();
CREATE TRIGGER roles_delete AFTER DELETE ON roles REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_policy();
CREATE TRIGGER roles_truncate BEFORE TRUNCATE ON roles FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('no node would be told: use DELETE');

CREATE TRIGGER members_lock   BEFORE INSERT OR UPDATE OR DELETE ON members FOR EACH STATEMENT EXECUTE FUNCTION lock_head();
CREATE TRIGGER members_insert AFTER INSERT ON members REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_policy();
CREATE TRIGGER members_update AFTER UPDATE ON members REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_policy();
CREATE TRIGGER members_delete AFTER DELETE ON members REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION log_policy();
CREATE TRIGGER members_truncate BEFORE TRUNCATE ON members FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('no node would be told: use DELETE');

CREATE TRIGGER audit_touched AFTER INSERT ON audit REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION keep_touched();
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('the audit log is append-only');
-- A reader who may not read the whole log sees only the rows in this table.
CREATE TRIGGER touched_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON touched FOR EACH STATEMENT
    EXECUTE FUNCTION refuse('the audit log is append-only');
-- +goose StatementEnd

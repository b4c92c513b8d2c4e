-- +goose Up

-- The deployment's epoch when a node joined. A row of another epoch is of a node that has to join again.
ALTER TABLE nodes ADD COLUMN epoch TEXT NOT NULL DEFAULT ''; -- empty: joined by the release before
-- The incarnation that a node was before it had to join again. That one holds no lease any more.
ALTER TABLE nodes ADD COLUMN former TEXT NOT NULL DEFAULT '';

-- The latest time by which keys have expired, in Unix microseconds. A clock that is set back does not bring them back.
CREATE TABLE clock (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    noted INTEGER
) STRICT;
INSERT INTO clock VALUES (1, NULL);

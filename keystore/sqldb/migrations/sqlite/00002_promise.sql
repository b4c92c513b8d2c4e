-- +goose Up
-- +goose StatementBegin

-- The epoch of the deployment when a node joined. A node whose row has another epoch must join again.
ALTER TABLE nodes ADD COLUMN epoch TEXT NOT NULL DEFAULT ''; -- empty: the node runs the previous release
-- The previous incarnation of a node that had to join again. It no longer holds a lease.
ALTER TABLE nodes ADD COLUMN former TEXT NOT NULL DEFAULT '';

-- The latest time that nodes have used to expire keys, in Unix microseconds. Setting the clock back does not make expired keys valid again.
CREATE TABLE clock (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    noted INTEGER
) STRICT;
INSERT INTO clock VALUES (1, NULL);
-- +goose StatementEnd

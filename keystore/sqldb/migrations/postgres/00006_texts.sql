-- +goose Up
-- +goose StatementBegin

-- A human-readable description.
ALTER TABLE roles ADD COLUMN description TEXT NOT NULL DEFAULT '';

-- {"name":"value"}
ALTER TABLE members ADD COLUMN labels JSON NOT NULL DEFAULT '{}' CHECK (json_typeof(labels) = 'object');
-- +goose StatementEnd

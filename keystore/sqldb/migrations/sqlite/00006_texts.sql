-- +goose Up
-- +goose StatementBegin

-- A human-readable description.
ALTER TABLE roles ADD COLUMN description TEXT NOT NULL DEFAULT '';

-- {"name":"value"}
ALTER TABLE members ADD COLUMN labels TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(labels) AND json_type(labels) = 'object');
-- +goose StatementEnd

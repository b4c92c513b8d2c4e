-- Creates the role, the database and the schema of the nodes. The entrypoint of the image runs this once in psql,
-- before the server accepts connections.
\set ON_ERROR_STOP on
\set password `cat "$DATABASE_PASSWORD_FILE"`
CREATE ROLE apikeys LOGIN PASSWORD :'password';
CREATE DATABASE apikeys OWNER apikeys ENCODING 'UTF8' TEMPLATE template0;
\connect apikeys
CREATE SCHEMA gate AUTHORIZATION apikeys;

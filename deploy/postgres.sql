-- The role, the database and the schema of the gates. The image's entrypoint runs it once, in psql, before the server takes connections.
\set ON_ERROR_STOP on
\set password `cat "$DATABASE_PASSWORD_FILE"`
CREATE ROLE apikeys LOGIN PASSWORD :'password';
CREATE DATABASE apikeys OWNER apikeys ENCODING 'UTF8' TEMPLATE template0;
\connect apikeys
CREATE SCHEMA gate AUTHORIZATION apikeys;

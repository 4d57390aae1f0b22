-- From version 1, before schema.sql: the ledger stays as it is, the rest makes room.
DROP INDEX one_stream_a_user;
DROP INDEX one_session_a_slot;
DROP INDEX sessions_of_an_edge;
DROP TABLE models;
DROP TABLE workers;
ALTER TABLE sessions RENAME TO sessions_1;

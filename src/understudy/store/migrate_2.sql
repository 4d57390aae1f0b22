-- From version 2 to 3: several edges on one database.

ALTER TABLE sessions ADD COLUMN resume TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN orphaned_s DOUBLE PRECISION;

CREATE TABLE edges (
    name   TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    url    TEXT NOT NULL,
    via    TEXT NOT NULL,
    beat   INTEGER NOT NULL
);

CREATE TABLE links (
    worker TEXT NOT NULL,
    edge   TEXT NOT NULL,
    rtt_s  DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (worker, edge)
);
CREATE INDEX links_of_an_edge ON links (edge);

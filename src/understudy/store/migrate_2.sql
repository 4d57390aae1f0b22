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

-- The files of each deployed bundle, as one archive in parts, so that any edge can hand them out.
-- Part 0 comes last and says what the others are (JSON): without it the bundle is not whole.
CREATE TABLE bundles (
    revision TEXT NOT NULL,
    part     INTEGER NOT NULL,
    data     BYTEA NOT NULL,            -- (SQLite keeps bytes as they are, whatever the type)
    PRIMARY KEY (revision, part)
);

-- The boxes that have joined, and what each is to run.
CREATE TABLE machines (
    name        TEXT PRIMARY KEY,
    region      TEXT NOT NULL,
    gpus        INTEGER NOT NULL,
    cpus        INTEGER NOT NULL,
    price_per_h DOUBLE PRECISION NOT NULL,
    beat        INTEGER NOT NULL
);

CREATE TABLE orders (
    id        TEXT PRIMARY KEY,         -- of the node, and so of its worker
    model     TEXT NOT NULL,
    revision  TEXT NOT NULL,
    region    TEXT NOT NULL,
    exited    TEXT,                     -- why, if it did by itself
    started_s DOUBLE PRECISION,
    machine   TEXT NOT NULL,
    light     INTEGER NOT NULL,
    wanted    INTEGER NOT NULL          -- 0: to be stopped; the row goes once it is
);
CREATE INDEX orders_of_a_machine ON orders (machine);

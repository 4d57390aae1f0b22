-- Version 1. Ids are unique anywhere (random), and every row of the fleet has its region, so that
-- cells can be merged later.

CREATE TABLE models (
    name TEXT PRIMARY KEY,
    card TEXT NOT NULL                  -- JSON: what the model said of itself when last loaded
);

CREATE TABLE workers (
    id       TEXT PRIMARY KEY,
    node     TEXT NOT NULL,
    model    TEXT NOT NULL,
    region   TEXT NOT NULL,
    slots    INTEGER NOT NULL,
    state    TEXT NOT NULL,             -- loading, ready, gone
    progress REAL NOT NULL,
    boot_s   REAL,
    reason   TEXT NOT NULL
);

CREATE TABLE sessions (
    id           TEXT PRIMARY KEY,
    user         TEXT NOT NULL,
    voice        TEXT NOT NULL,
    model        TEXT NOT NULL,
    region       TEXT NOT NULL,
    edge         TEXT NOT NULL,
    started_s    REAL NOT NULL,         -- Unix time
    worker       TEXT,
    slot         INTEGER,
    ended_s      REAL,
    reason       TEXT NOT NULL
);

-- One stream a user, and one session a slot: held by the database, whoever writes.
CREATE UNIQUE INDEX one_stream_a_user ON sessions (user) WHERE ended_s IS NULL;
CREATE UNIQUE INDEX one_session_a_slot ON sessions (worker, slot)
    WHERE ended_s IS NULL AND worker IS NOT NULL;
CREATE INDEX sessions_of_an_edge ON sessions (edge) WHERE ended_s IS NULL;

-- What each user heard. Rows are added and grow; none shrinks or goes.
CREATE TABLE ledger (
    session TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    user    TEXT NOT NULL,
    voice   TEXT NOT NULL,
    model   TEXT NOT NULL,
    worker  TEXT NOT NULL,
    region  TEXT NOT NULL,
    role    TEXT NOT NULL,              -- lead, understudy
    rate_hz INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    at_s    REAL NOT NULL,              -- Unix time of the last count
    PRIMARY KEY (session, seq)
);
CREATE INDEX ledger_in_time ON ledger (at_s);
CREATE INDEX ledger_of_a_user ON ledger (user, at_s);

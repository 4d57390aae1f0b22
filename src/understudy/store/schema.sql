-- Version 3, for SQLite and PostgreSQL. Ids are unique anywhere (random), and every row of the
-- fleet has its region, so that cells can be merged later.

CREATE TABLE cards (                    -- what a revision said of itself when last loaded
    model    TEXT NOT NULL,
    revision TEXT NOT NULL,
    card     TEXT NOT NULL,             -- JSON
    PRIMARY KEY (model, revision)
);

-- Every deploy and rollback; the last one that did not fail is what the model is.
CREATE TABLE deployments (
    model    TEXT NOT NULL,
    revision TEXT NOT NULL,
    at_s     DOUBLE PRECISION NOT NULL,
    spec     TEXT NOT NULL,             -- JSON: the bundle
    failed   TEXT NOT NULL,             -- why it does not load, or ''
    PRIMARY KEY (model, at_s)
);

-- The files of each deployed bundle, as one archive in parts, so that any edge can hand them out.
-- Part 0 comes last and says what the others are (JSON): without it the bundle is not whole.
CREATE TABLE bundles (
    revision TEXT NOT NULL,
    part     INTEGER NOT NULL,
    data     BYTEA NOT NULL,            -- (SQLite keeps bytes as they are, whatever the type)
    PRIMARY KEY (revision, part)
);

-- Every worker there ever was: what is paid for. An id is its node's.
CREATE TABLE workers (
    id          TEXT PRIMARY KEY,
    model       TEXT NOT NULL,
    revision    TEXT NOT NULL,
    region      TEXT NOT NULL,
    slots       INTEGER NOT NULL,
    state       TEXT NOT NULL,          -- loading, ready, stopping, gone
    started_s   DOUBLE PRECISION NOT NULL, -- Unix time, as all times here
    price_per_h DOUBLE PRECISION NOT NULL,
    ready_s     DOUBLE PRECISION,
    stopped_s   DOUBLE PRECISION,
    draining    INTEGER NOT NULL,
    reason      TEXT NOT NULL
);
CREATE INDEX workers_up ON workers (model) WHERE state != 'gone';
CREATE INDEX workers_that_loaded ON workers (model, ready_s) WHERE ready_s IS NOT NULL;
CREATE INDEX workers_that_stopped ON workers (stopped_s);

-- The edges that serve; one that beats no more is taken out.
CREATE TABLE edges (
    name   TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    url    TEXT NOT NULL,
    via    TEXT NOT NULL,               -- JSON: region -> url
    beat   INTEGER NOT NULL
);

-- Which workers each edge can reach, and how far they are.
CREATE TABLE links (
    worker TEXT NOT NULL,
    edge   TEXT NOT NULL,
    rtt_s  DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (worker, edge)
);
CREATE INDEX links_of_an_edge ON links (edge);

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

CREATE TABLE sessions (
    id           TEXT PRIMARY KEY,
    "user"       TEXT NOT NULL,
    voice        TEXT NOT NULL,
    model        TEXT NOT NULL,
    understudy   TEXT NOT NULL,
    region       TEXT NOT NULL,
    edge         TEXT NOT NULL,
    started_s    DOUBLE PRECISION NOT NULL,
    ended_s      DOUBLE PRECISION,
    reason       TEXT NOT NULL,
    resume       TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    orphaned_s   DOUBLE PRECISION
);

-- One stream a user: held by the database, whoever writes.
CREATE UNIQUE INDEX one_stream_a_user ON sessions ("user") WHERE ended_s IS NULL;
CREATE INDEX sessions_live ON sessions (started_s) WHERE ended_s IS NULL;
CREATE INDEX sessions_of_an_edge ON sessions (edge) WHERE ended_s IS NULL;
CREATE INDEX sessions_that_ended ON sessions (ended_s);

-- Who sits where: one session a slot. A session that moves has two seats for a moment.
CREATE TABLE seats (
    worker  TEXT NOT NULL,
    slot    INTEGER NOT NULL,
    session TEXT NOT NULL,
    role    TEXT NOT NULL,              -- lead, understudy
    turn    INTEGER NOT NULL,           -- the session's first, second, ... seat
    why     TEXT NOT NULL,
    PRIMARY KEY (worker, slot)
);
CREATE UNIQUE INDEX seats_of_a_session ON seats (session, turn);

-- What each user heard. Rows are added and grow; none shrinks or goes.
CREATE TABLE IF NOT EXISTS ledger (
    session TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    "user"  TEXT NOT NULL,
    voice   TEXT NOT NULL,
    model   TEXT NOT NULL,
    worker  TEXT NOT NULL,
    region  TEXT NOT NULL,
    role    TEXT NOT NULL,              -- lead, understudy
    rate_hz INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    at_s    DOUBLE PRECISION NOT NULL,  -- time of the last count
    PRIMARY KEY (session, seq)
);
CREATE INDEX IF NOT EXISTS ledger_in_time ON ledger (at_s);
CREATE INDEX IF NOT EXISTS ledger_of_a_user ON ledger ("user", at_s);

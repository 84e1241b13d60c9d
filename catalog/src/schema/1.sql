-- Ids are UUIDs in text, so that the file can be read with the sqlite3 shell. Times are milliseconds since
-- 1970. JSON columns belong to the rooms above; nothing here looks into them.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE relationship (
    vm                TEXT NOT NULL,
    idx               INTEGER NOT NULL,
    record            TEXT NOT NULL,
    generation_number INTEGER NOT NULL,
    generation_owner  TEXT NOT NULL,
    generation_nonce  TEXT NOT NULL,
    PRIMARY KEY (vm, idx)
) STRICT;

CREATE TABLE vm_document (
    vm   TEXT NOT NULL,
    key  TEXT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (vm, key)
) STRICT;

CREATE TABLE disk (
    vm         TEXT NOT NULL,
    disk       TEXT NOT NULL,
    position   INTEGER NOT NULL,
    target     TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    json       TEXT NOT NULL,
    PRIMARY KEY (vm, disk)
) STRICT;

-- A recovery point. Hidden: no longer offered, on its way out.
CREATE TABLE point (
    vm                TEXT NOT NULL,
    delta             TEXT NOT NULL,
    base              TEXT,
    sequence          INTEGER NOT NULL,
    kind              INTEGER NOT NULL,
    cut_at_ms         INTEGER NOT NULL,
    received_at_ms    INTEGER NOT NULL,
    generation_number INTEGER NOT NULL,
    visible           INTEGER NOT NULL CHECK (visible IN (0, 1)),
    note              TEXT NOT NULL,
    json              TEXT NOT NULL,
    PRIMARY KEY (vm, delta),
    UNIQUE (vm, sequence)
) STRICT;

-- One disk's part of a point. `base` is the delta of the layer below it; null at the bottom of a chain.
CREATE TABLE layer (
    vm            TEXT NOT NULL,
    disk          TEXT NOT NULL,
    delta         TEXT NOT NULL,
    base          TEXT,
    path          TEXT NOT NULL,
    format        TEXT NOT NULL CHECK (format IN ('qcow2', 'raw')),
    in_place      INTEGER NOT NULL CHECK (in_place IN (0, 1)),
    size_bytes    INTEGER NOT NULL,
    data_clusters INTEGER NOT NULL,
    stored_bytes  INTEGER NOT NULL,
    PRIMARY KEY (vm, disk, delta),
    FOREIGN KEY (vm, delta) REFERENCES point (vm, delta) ON DELETE CASCADE
) STRICT;

CREATE INDEX layer_by_point ON layer (vm, delta);

-- The merge in progress: at most one per VM.
CREATE TABLE merge (
    vm    TEXT PRIMARY KEY,
    older TEXT NOT NULL,
    newer TEXT NOT NULL,
    stage TEXT NOT NULL CHECK (stage IN ('copying', 'renaming')),
    FOREIGN KEY (vm, older) REFERENCES point (vm, delta) ON DELETE CASCADE,
    FOREIGN KEY (vm, newer) REFERENCES point (vm, delta) ON DELETE CASCADE
) STRICT;

-- A pinned point cannot be deleted: its pins have to go first.
CREATE TABLE pin (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    vm     TEXT NOT NULL,
    delta  TEXT NOT NULL,
    reason TEXT NOT NULL,
    owner  TEXT NOT NULL,
    UNIQUE (vm, delta, reason, owner),
    FOREIGN KEY (vm, delta) REFERENCES point (vm, delta)
) STRICT;

CREATE TABLE overlay (
    vm     TEXT NOT NULL,
    kind   TEXT NOT NULL CHECK (kind IN ('failover', 'test')),
    number INTEGER NOT NULL,
    disk   TEXT NOT NULL,
    delta  TEXT NOT NULL,
    path   TEXT NOT NULL,
    PRIMARY KEY (vm, kind, number, disk),
    FOREIGN KEY (vm, delta) REFERENCES point (vm, delta)
) STRICT;

CREATE TABLE cluster_list (
    vm     TEXT NOT NULL,
    disk   TEXT NOT NULL,
    label  TEXT NOT NULL,
    delta  TEXT,
    source TEXT NOT NULL,
    bitmap BLOB NOT NULL,
    PRIMARY KEY (vm, disk, label)
) STRICT;

CREATE TABLE receiving (
    vm    TEXT NOT NULL,
    delta TEXT NOT NULL,
    json  TEXT NOT NULL,
    PRIMARY KEY (vm, delta)
) STRICT;

CREATE TABLE journal (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    vm    TEXT NOT NULL,
    delta TEXT NOT NULL,
    base  TEXT,
    stage TEXT NOT NULL,
    json  TEXT NOT NULL,
    UNIQUE (vm, delta)
) STRICT;

CREATE TABLE job (
    id         TEXT PRIMARY KEY,
    vm         TEXT,
    kind       TEXT NOT NULL,
    state      TEXT NOT NULL,
    progress   INTEGER NOT NULL CHECK (progress BETWEEN 0 AND 100),
    stage      TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    started_ms INTEGER,
    ended_ms   INTEGER,
    json       TEXT NOT NULL
) STRICT;

CREATE TABLE authorization (
    host        TEXT PRIMARY KEY,
    trust_group TEXT NOT NULL,
    storage     TEXT NOT NULL
) STRICT;

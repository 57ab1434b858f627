-- A history of version 1, as handoff_dask 0.1.0 wrote it. It stays as it is: later versions have to read it.
PRAGMA application_id = 1751215716;
PRAGMA user_version = 1;
CREATE TABLE runs (
    id TEXT NOT NULL PRIMARY KEY,
    dag_id NOT NULL,
    status TEXT NOT NULL,
    client TEXT,
    submitted REAL NOT NULL,
    ended REAL,
    elapsed REAL NOT NULL,
    priority REAL NOT NULL,
    error TEXT,
    version TEXT NOT NULL
);
CREATE TABLE functions (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    id NOT NULL,
    code TEXT NOT NULL,
    stem TEXT NOT NULL,
    status TEXT NOT NULL,
    seconds REAL,
    nbytes INTEGER,
    cost TEXT NOT NULL,
    PRIMARY KEY (run_id, number)
) WITHOUT ROWID;
CREATE TABLE attempts (
    run_id TEXT NOT NULL,
    function INTEGER NOT NULL,
    number INTEGER NOT NULL,
    node,
    queued REAL,
    started REAL,
    stopped REAL,
    outcome TEXT NOT NULL,
    error TEXT,
    traceback TEXT,
    devices TEXT,
    PRIMARY KEY (run_id, function, number),
    FOREIGN KEY (run_id, function) REFERENCES functions (run_id, number) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX runs_by_dag ON runs (dag_id, submitted);
CREATE INDEX seconds_by_code ON functions (code, stem, seconds);
INSERT INTO runs VALUES
    ('r1', 'nightly', 'failed', 'Client-1', 1000.0, 1008.5, 8.5, 2.0, 'function (''use'', 1) failed: OSError()', '0.1.0');
INSERT INTO functions VALUES
    ('r1', 0, 'load', 'load', 'load', 'finished', 4.0, 24, '{"cpu": 1, "memory": 0.5}'),
    ('r1', 1, x'5b22757365222c20315d', 'use', 'use', 'failed', NULL, NULL, '{"gpu": 1}');
INSERT INTO attempts VALUES
    ('r1', 0, 1, 'node1', 1000.5, 1001.0, 1005.0, 'finished', NULL, NULL, NULL),
    ('r1', 1, 1, 7, 1005.0, 1006.0, 1007.0, 'lost', NULL, NULL, NULL),
    ('r1', 1, 2, 'node1', 1007.0, 1007.5, 1008.5, 'failed', 'OSError()', 'in use', '{"gpu": [0, 2]}');

"""The file format of histories: tables, migrations between versions, and the encoding of values.

Each version is defined by the statements that migrate from the previous one. Released entries of
:data:`MIGRATIONS` never change; a change of the tables appends an entry.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from handoff_dask._adapter.messages import wire_id

#: ``PRAGMA application_id`` of histories, to tell them from other databases: "hand" in ASCII.
APPLICATION_ID = 0x68616E64

#: Seconds to wait for a lock that another process holds.
BUSY_TIMEOUT = 60.0

#: Entry N has the statements that migrate from version N to version N + 1.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        # Columns without a type store a value with the type that it has: see encode_id().
        """
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
        )
        """,
        """
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
        ) WITHOUT ROWID
        """,
        """
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
        ) WITHOUT ROWID
        """,
        "CREATE INDEX runs_by_dag ON runs (dag_id, submitted)",
        # Covers the queries for durations, so that they need not read the tables.
        "CREATE INDEX seconds_by_code ON functions (code, stem, seconds)",
    ),
    ("ALTER TABLE attempts ADD COLUMN loaded INTEGER NOT NULL DEFAULT 0",),
    (
        "ALTER TABLE attempts ADD COLUMN cpu_seconds REAL",
        "ALTER TABLE attempts ADD COLUMN peak_memory REAL",
        "ALTER TABLE attempts ADD COLUMN peak_exact INTEGER NOT NULL DEFAULT 0",
        # NULL if it is the cost of the function.
        "ALTER TABLE attempts ADD COLUMN cost TEXT",
        # NULL if the function cannot be fingerprinted.
        "ALTER TABLE functions ADD COLUMN fingerprint TEXT",
        "CREATE INDEX seconds_by_fingerprint ON functions (fingerprint, seconds)",
    ),
    (
        # The key of the code, which unlike its name is unambiguous. NULL in older runs.
        "ALTER TABLE functions ADD COLUMN code_key TEXT",
        "CREATE INDEX seconds_by_code_key ON functions (code_key, stem, seconds)",
    ),
)


class UnusableFileError(Exception):
    """The file is not a history, or not one that this version can read. The message says why."""


def connect(path: str) -> sqlite3.Connection:
    """Open a history. Create it if it does not exist; migrate it if it is older than this version.

    Raises
    ------
    UnusableFileError
        The file is not a history or has a newer version. It is left unchanged.
    sqlite3.Error
        The file cannot be opened or is not a database.
    """
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    with transaction(connection):  # another process may be creating the tables between the two queries
        version = _version(connection)
    if version == len(MIGRATIONS):
        return  # without writing, so that a read-only history can be read
    with transaction(connection, "IMMEDIATE"):
        version = _version(connection)  # again: another process may have migrated it in the meantime
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")


def _version(connection: sqlite3.Connection) -> int:
    version = pragma(connection, "user_version")
    application = pragma(connection, "application_id")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise UnusableFileError("it is a database of another application")
    if version > len(MIGRATIONS):
        raise UnusableFileError(
            f"it was written by a newer handoff_dask: its version is {version}, and this one knows"
            f" versions up to {len(MIGRATIONS)}"
        )
    return version


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return an integer from the file's header."""
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "DEFERRED") -> Iterator[None]:
    """Run the block in a transaction: all or nothing. ``IMMEDIATE`` waits for other writers."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have already rolled it back
            connection.execute("ROLLBACK")
        raise


def check_writable(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.Error unless the file and its directory can be written."""
    version = pragma(connection, "user_version")
    connection.execute("BEGIN IMMEDIATE")
    try:
        # A write that changes nothing, since only a write shows whether SQLite can create its journal file.
        connection.execute(f"PRAGMA user_version = {version}")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


# ---------------------------------------------------------------------- values


def encode_id(id: Hashable) -> Any:
    """Encode an id for the database: strings and numbers as themselves, so that SQL can compare them.

    Other plain ids, such as tuples, become JSON in a blob, which cannot be confused with a string. Ids that
    are not plain are stored as their ``repr``.
    """
    id = wire_id(id)
    if type(id) is str:
        try:
            id.encode()
        except UnicodeEncodeError:  # a lone surrogate, as in file names that are not valid Unicode
            return json.dumps(id).encode()
        return id
    if type(id) is int and abs(id) < 2**63:
        return id
    if type(id) is float and math.isfinite(id):
        return id
    return json.dumps(id).encode()


def decode_id(value: Any) -> Hashable:
    """Decode an id. Return the ``repr`` of ids that are not plain."""
    return _as_tuples(json.loads(value)) if type(value) is bytes else value


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if type(value) is list else value


def encode_node(name: Any) -> Any:
    """Encode the name of a node, or None."""
    return None if name is None else encode_id(name)


def encode_amounts(amounts: Mapping[str, Any]) -> str:
    """Encode resource → amount as JSON."""
    return json.dumps({name: n if type(n) in (int, str) else float(n) for name, n in amounts.items()})


def encode_devices(devices: Mapping[str, Sequence[int]]) -> str | None:
    """Encode resource → indices as JSON."""
    return json.dumps({name: list(indices) for name, indices in devices.items()}) if devices else None


def decode_devices(text: str | None) -> dict[str, tuple[int, ...]]:
    """Decode resource → indices."""
    return {name: tuple(indices) for name, indices in json.loads(text).items()} if text else {}


def encode_text(text: str | None) -> str | None:
    """Escape surrogates, which the database does not accept."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()

"""The file of a history: its tables, how it comes from one version to the next, and how values are written.

Every version is described by the statements that lead to it from the one before. They stay as they are once
released; a change of the tables is another entry of :data:`MIGRATIONS`.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from handoff_dask._adapter.messages import wire_id

#: What ``PRAGMA application_id`` tells a history from other databases by: "hand" in ASCII.
APPLICATION_ID = 0x68616E64

#: Seconds to wait for other processes that write.
BUSY_TIMEOUT = 60.0

#: Statements that lead to version 1, 2, ... from the one before.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        # Columns without a type keep the type of what is written: see encode_id().
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
        # It holds all that durations are computed from, so that the tables need not be read for them.
        "CREATE INDEX seconds_by_code ON functions (code, stem, seconds)",
    ),
    ("ALTER TABLE attempts ADD COLUMN loaded INTEGER NOT NULL DEFAULT 0",),
)


class UnusableFileError(Exception):
    """The file is no history, or not one that this version can read. The text says why."""


def connect(path: str) -> sqlite3.Connection:
    """Open a history, which is made if there is none and brought to the current version if it is older.

    Raises
    ------
    UnusableFileError
        It is something else, or of a newer version. Nothing was changed.
    sqlite3.Error
        It cannot be opened, or is no database.
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
    with transaction(connection):  # another process may be making the tables between two questions
        version = _version(connection)
    if version == len(MIGRATIONS):
        return  # so that what cannot be written can be read
    with transaction(connection, "IMMEDIATE"):
        version = _version(connection)  # once more: another process may have been faster
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")


def _version(connection: sqlite3.Connection) -> int:
    version = pragma(connection, "user_version")
    application = pragma(connection, "application_id")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        raise UnusableFileError("it is a database of something else")
    if version > len(MIGRATIONS):
        raise UnusableFileError(
            f"it was written by a newer handoff_dask: its version is {version}, and this one knows"
            f" versions up to {len(MIGRATIONS)}"
        )
    return version


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """A number in the head of the file."""
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "DEFERRED") -> Iterator[None]:
    """All or nothing of what is done inside. ``IMMEDIATE`` waits for others that write."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors end it by themselves
            connection.execute("ROLLBACK")
        raise


def check_writable(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.Error unless the file and its directory can be written."""
    version = pragma(connection, "user_version")
    connection.execute("BEGIN IMMEDIATE")
    try:
        # A write that changes nothing: only that shows whether a journal can be made beside the file.
        connection.execute(f"PRAGMA user_version = {version}")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


# ---------------------------------------------------------------------- values


def encode_id(id: Hashable) -> Any:
    """An id as it is written: strings and numbers as themselves, so that SQL can compare them.

    Other plain ids, such as tuples, are JSON in a blob, which no string can be confused with; ids that are
    not plain are their ``repr``.
    """
    id = wire_id(id)
    if type(id) is str:
        try:
            id.encode()
        except UnicodeEncodeError:  # half a surrogate pair, as in names of files that are not Unicode
            return json.dumps(id).encode()
        return id
    if type(id) is int and abs(id) < 2**63:
        return id
    if type(id) is float and math.isfinite(id):
        return id
    return json.dumps(id).encode()


def decode_id(value: Any) -> Hashable:
    """The id that :func:`encode_id` was given, or its text."""
    return _as_tuples(json.loads(value)) if type(value) is bytes else value


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if type(value) is list else value


def encode_node(name: Any) -> Any:
    """The name of a node, or None."""
    return None if name is None else encode_id(name)


def encode_amounts(amounts: Mapping[str, Any]) -> str:
    """Resource → amount, as JSON."""
    return json.dumps({name: n if type(n) is int else float(n) for name, n in amounts.items()})


def encode_devices(devices: Mapping[str, Sequence[int]]) -> str | None:
    """Resource → indices, as JSON."""
    return json.dumps({name: list(indices) for name, indices in devices.items()}) if devices else None


def decode_devices(text: str | None) -> dict[str, tuple[int, ...]]:
    """Resource → indices."""
    return {name: tuple(indices) for name, indices in json.loads(text).items()} if text else {}


def encode_text(text: str | None) -> str | None:
    """Text that a database takes: what is not Unicode is escaped."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()

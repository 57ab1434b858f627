r"""Finished results in files, to go on from after a failure: their form, and how they are written and read.

A file is::

    handoff checkpoint 1\n
    <length of the header, 8 hexadecimal digits> <SHA-256 of header and payload, 64 digits>\n
    <header: a JSON object>
    <payload: a pickle, then the buffers that it left outside>

and counts only when every byte of it is as it was written.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import pickle
import re
import time
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distributed.protocol import pickle as dask_pickle

from handoff_dask._adapter.messages import Blob, is_plain
from handoff_dask._model.function import LOADING
from handoff_dask.exceptions import CheckpointError

MAGIC = b"handoff checkpoint 1\n"
_LINE = 8 + 1 + 64 + 1
_SUFFIX = ".checkpoint"
_CHUNK = 2**20

#: Seconds after which a file under a temporary name is taken for that of a writer that died.
ABANDONED = 86400

#: Where a file appears when it is whole, and to move one is to copy it.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"})


@dataclass(frozen=True)
class Checkpoint:
    """Where results are kept: ``execute(dag, checkpoint=Checkpoint(url, storage_options=...))``.

    Attributes
    ----------
    url : str or path
        A directory that the client and every node see: a path, or a URL of any kind that fsspec knows, such
        as ``"s3://bucket/run"``. It is made when it is not there.
    storage_options : mapping, optional
        What fsspec needs to open it, such as credentials. They travel to the nodes with each function that
        writes or reads there.
    """

    url: str | os.PathLike[str]
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.url, (str, os.PathLike)):
            raise TypeError(f"the url of a Checkpoint must be a str or a path, not {self.url!r}")
        if not isinstance(self.storage_options, Mapping):
            raise TypeError("the storage_options of a Checkpoint must be a mapping")
        object.__setattr__(self, "url", os.fspath(self.url))
        object.__setattr__(self, "storage_options", dict(self.storage_options))
        if not self.url:
            raise ValueError("the url of a Checkpoint is empty")


class Entry(NamedTuple):
    """The checkpoint of one function.

    Attributes
    ----------
    directory : Blob
        The pickled :class:`Directory`, which a scheduler never opens.
    name : str
        Of the file.
    fingerprint : str
        What the file has to be of.
    """

    directory: Blob
    name: str
    fingerprint: str

    def __repr__(self) -> str:
        return f"<checkpoint {self.name}>"  # not the directory: credentials are in there


class Directory:
    """An opened :class:`Checkpoint`.

    Parameters
    ----------
    checkpoint : Checkpoint

    Raises
    ------
    CheckpointError
        fsspec cannot open such a URL.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.url = str(checkpoint.url)
        try:
            self.fs, root = url_to_fs(self.url, **checkpoint.storage_options)
        except Exception as error:
            raise CheckpointError(self.url, None, f"cannot be opened: {_text(error)}") from error
        self.root = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)
        if self.local:
            self.url = root  # a path that is not absolute would be another one on a node
        protocols = self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        self._moves = _OBJECT_STORES.isdisjoint(protocols)
        self._options = checkpoint.storage_options

    def sealed(self) -> Blob:
        """What a node opens again."""
        return Blob(dask_pickle.dumps(Checkpoint(self.url, self._options)))

    def prepare(self) -> set[str]:
        """Make the directory, see that it can be written, and remove what dead writers left.

        Returns
        -------
        set of str
            Names of the files that look like checkpoints.

        Raises
        ------
        CheckpointError
            It cannot be made, written or listed.
        """
        try:
            self.fs.makedirs(self.root, exist_ok=True)
            probe = self._temporary("probe")
            with self.fs.open(probe, "wb") as f:
                f.write(b"can this be written?")
            self.fs.rm_file(probe)
            self.fs.invalidate_cache(self.root)
            names = self._names()
        except Exception as error:
            raise CheckpointError(self.url, None, f"cannot be written: {_text(error)}") from error
        for name in names:
            if name.endswith(".tmp"):
                self._remove_abandoned(f"{self.root}/{name}")
        return {name for name in names if name.endswith(_SUFFIX)}

    def _names(self) -> set[str]:
        try:
            return {path.rpartition("/")[2] for path in self.fs.ls(self.root, detail=False)}
        except FileNotFoundError:  # an object store has no empty directories
            return set()

    def _remove_abandoned(self, path: str) -> None:
        with contextlib.suppress(Exception):  # another client was faster, or it cannot tell how old files are
            if time.time() - self.fs.modified(path).timestamp() > ABANDONED:
                self.fs.rm_file(path)

    def _temporary(self, name: str) -> str:
        return f"{self.root}/.{name}.{uuid.uuid4().hex}.tmp"

    # ------------------------------------------------------------------ writing

    def write(self, name: str, fingerprint: str, function_id: Hashable, value: Any) -> None:
        """Write a result. A reader sees the whole file or none.

        Raises
        ------
        Exception
            Whatever pickling and the file system raise.
        """
        buffers: list[pickle.PickleBuffer] = []
        data = dask_pickle.dumps(value, buffer_callback=buffers.append)
        parts = [memoryview(data), *(buffer.raw() for buffer in buffers)]
        facts = {
            "function": repr(function_id),
            "fingerprint": fingerprint,
            "lengths": [part.nbytes for part in parts],
        }
        header = json.dumps(facts).encode()
        digest = hashlib.sha256(header)
        for part in parts:
            digest.update(part)
        final = f"{self.root}/{name}"
        path = self._temporary(name) if self._moves else final
        try:
            with self.fs.open(path, "wb") as f:
                f.write(MAGIC + b"%08x %s\n" % (len(header), digest.hexdigest().encode()) + header)
                for part in parts:
                    f.write(part)
            if path != final:
                self._move(path, final)
        except BaseException:
            if path != final:
                with contextlib.suppress(Exception):
                    self.fs.rm_file(path)
            raise

    def _move(self, path: str, final: str) -> None:
        if self.local:
            os.replace(path, final)
            return
        try:
            self.fs.mv(path, final)
        except Exception:
            # Some refuse to move onto what is there: the file of another writer, or a damaged one.
            if not self.fs.exists(final):
                raise
            self.fs.rm_file(final)
            self.fs.mv(path, final)

    # ------------------------------------------------------------------ reading

    def problem(self, name: str, fingerprint: str) -> str | None:
        """What is wrong with a file; None when nothing is. Its payload is not unpickled."""
        try:
            with self._open(name) as f:
                lengths, digest, expected = _head(f, fingerprint)
                left = sum(lengths)
                while left:
                    chunk = f.read(min(left, _CHUNK))
                    if not chunk:
                        return "is too short"
                    digest.update(chunk)
                    left -= len(chunk)
        except _DamagedError as error:
            return str(error)
        except Exception as error:
            return f"cannot be read: {_text(error)}"
        return None if digest.hexdigest() == expected else "has a wrong checksum"

    def read(self, name: str, fingerprint: str) -> Any:
        """A result, unpickled once its checksum is right.

        Raises
        ------
        CheckpointError
        """
        url = f"{self.url}/{name}"
        try:
            with self._open(name) as f:
                lengths, digest, expected = _head(f, fingerprint)
                parts = [_read_exactly(f, length, digest.update) for length in lengths]
            if digest.hexdigest() != expected:
                raise _DamagedError("has a wrong checksum")
            return pickle.loads(parts[0], buffers=parts[1:])
        except Exception as error:
            remedy = "; run the same call again: what cannot be read is computed again"
            raise CheckpointError(url, None, f"cannot be read: {_text(error)}{remedy}") from error

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        with self.fs.open(f"{self.root}/{name}", "rb") as f:
            # A file in memory is one object with one position, whoever opens it.
            yield io.BytesIO(f.getvalue()) if isinstance(f, io.BytesIO) else f


class _DamagedError(Exception):
    """A file is not what was written."""


def _head(f: Any, fingerprint: str) -> tuple[list[int], Any, str]:
    """Lengths of the parts, a digest that has seen the header, and what it has to be in the end."""
    size = f.seek(0, io.SEEK_END)
    f.seek(0)
    start = f.read(len(MAGIC) + _LINE)
    line = re.fullmatch(rb"([0-9a-f]{8}) ([0-9a-f]{64})\n", start[len(MAGIC) :])
    if not start.startswith(MAGIC) or line is None:
        raise _DamagedError("is not a checkpoint")
    length = int(line[1], 16)
    if length > size - len(start):
        raise _DamagedError("is too short")
    header = f.read(length)
    try:
        facts = json.loads(header)
        lengths = facts["lengths"]
        of = facts["fingerprint"]
        whole = sum(lengths) == size - len(start) - length
    except (ValueError, TypeError, KeyError) as error:
        raise _DamagedError("has a damaged header") from error
    if of != fingerprint:
        raise _DamagedError("is the checkpoint of something else")
    if not whole or not lengths or not all(type(n) is int and n >= 0 for n in lengths):
        raise _DamagedError("has a wrong length")
    return lengths, hashlib.sha256(header), line[2].decode()


def _read_exactly(f: Any, length: int, see: Callable[[Any], None]) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    position = 0
    while position < length:
        n = f.readinto(view[position : position + _CHUNK])
        if not n:
            raise _DamagedError("is too short")
        see(view[position : position + n])
        position += n
    return data


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, _DamagedError) else f"{type(error).__name__}: {error}"


def file_name(function_id: Hashable, fingerprint: str) -> str:
    """Name of a checkpoint: something for people, and what tells it apart. Safe on any file system."""
    # The text of other ids may differ from one process to the next.
    shown = str(function_id) if is_plain(function_id) else "function"
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", shown)[:60].strip("_-") or "function"
    return f"{readable}-{fingerprint[:40]}{_SUFFIX}"


# ---------------------------------------------------------------------- on a node


@functools.lru_cache(maxsize=32)
def opened(directory: bytes) -> Directory:
    """The directory that :meth:`Directory.sealed` has packed, opened once in a process."""
    return Directory(pickle.loads(directory))


def store(entry: Entry, id: Hashable, value: Any) -> None:
    """Write the result of an attempt.

    Raises
    ------
    CheckpointError
        Which fails the attempt: a run that cannot be resumed is not what was asked for.
    """
    directory = opened(entry.directory.data)
    try:
        directory.write(entry.name, entry.fingerprint, id, value)
    except Exception as error:
        raise CheckpointError(directory.url, id, f"cannot be written: {_text(error)}") from error


def recall(entry: Entry) -> tuple[Any, ...]:
    """The result that an earlier attempt has written, if one has: a tuple of it, or an empty one."""
    try:
        return (opened(entry.directory.data).read(entry.name, entry.fingerprint),)
    except CheckpointError:
        return ()


class _Load:
    """Reads a result: what runs in place of a function that need not run again."""

    def __init__(self) -> None:
        self.__qualname__ = LOADING

    def __call__(self, directory: Blob, name: str, fingerprint: str) -> Any:
        return opened(directory.data).read(name, fingerprint)

    def __reduce__(self) -> str:
        return "load"


load = _Load()


def loads_only(code: str) -> bool:
    """Whether functions of this code load a result that was computed before."""
    return code.startswith(LOADING)


def loading_code(code: str) -> str:
    """Return the name of the code that loads results of functions of this code."""
    return code if loads_only(code) else f"{LOADING} {code.partition(' ')[2]}"

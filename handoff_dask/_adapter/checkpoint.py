r"""Checkpoint files: the results of finished functions, from which a later run resumes.

Format of a file::

    handoff checkpoint 1\n
    <length of the header, 8 hexadecimal digits> <SHA-256 of header and payload, 64 digits>\n
    <header: a JSON object>
    <payload: a pickle, followed by its out-of-band buffers>

A file is valid only if every byte is intact.
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

#: Seconds after which a temporary file counts as abandoned: its writer has died.
ABANDONED_AFTER = 86400

#: Protocols of object stores. There a file becomes visible only when it is complete, and a rename is a copy.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"})


@dataclass(frozen=True)
class Checkpoint:
    """A directory for checkpoints: ``execute(dag, checkpoint=Checkpoint(url, storage_options=...))``.

    Attributes
    ----------
    url : str or path
        A directory that the client and every node can access: a path, or a URL of any protocol that fsspec
        supports, such as ``"s3://bucket/run"``. A missing directory is created.
    storage_options : mapping, optional
        Options that fsspec needs to open the directory, such as credentials. They travel to the nodes with
        every function that reads or writes a checkpoint.
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


class CheckpointFile(NamedTuple):
    """The checkpoint of one function.

    Attributes
    ----------
    directory : Blob
        The pickled :class:`Checkpoint`. The scheduler never unpickles it.
    name : str
        File name within the directory.
    fingerprint : str
        Fingerprint of the function and everything upstream of it. A file with another fingerprint is invalid.
    """

    directory: Blob
    name: str
    fingerprint: str

    def __repr__(self) -> str:
        return f"<checkpoint {self.name}>"  # leaves out the directory, which contains credentials


class Directory:
    """An opened :class:`Checkpoint`.

    Parameters
    ----------
    checkpoint : Checkpoint

    Raises
    ------
    CheckpointError
        fsspec cannot open the URL.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.url = str(checkpoint.url)
        try:
            self.fs, root = url_to_fs(self.url, **checkpoint.storage_options)
        except Exception as error:
            raise CheckpointError(self.url, None, f"cannot be opened: {_describe(error)}") from error
        self.root = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)
        if self.local:
            self.url = root  # absolute: nodes resolve a relative path against their own working directory
        protocols = self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        self._renames = _OBJECT_STORES.isdisjoint(protocols)
        self._options = checkpoint.storage_options

    def pickled(self) -> Blob:
        """Return the pickled :class:`Checkpoint`, from which a node opens this directory again."""
        return Blob(dask_pickle.dumps(Checkpoint(self.url, self._options)))

    def prepare(self) -> set[str]:
        """Create the directory, check that it is writable, and remove abandoned temporary files.

        Returns
        -------
        set of str
            Names of the checkpoint files, which are not validated.

        Raises
        ------
        CheckpointError
            The directory cannot be created, written or listed.
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
            raise CheckpointError(self.url, None, f"cannot be written: {_describe(error)}") from error
        for name in names:
            if name.endswith(".tmp"):
                self._remove_abandoned(f"{self.root}/{name}")
        return {name for name in names if name.endswith(_SUFFIX)}

    def _names(self) -> set[str]:
        try:
            return {path.rpartition("/")[2] for path in self.fs.ls(self.root, detail=False)}
        except FileNotFoundError:  # object stores have no empty directories
            return set()

    def _remove_abandoned(self, path: str) -> None:
        # Another client may remove the file first, and some file systems have no modification times.
        with contextlib.suppress(Exception):
            if time.time() - self.fs.modified(path).timestamp() > ABANDONED_AFTER:
                self.fs.rm_file(path)

    def _temporary(self, name: str) -> str:
        return f"{self.root}/.{name}.{uuid.uuid4().hex}.tmp"

    # ------------------------------------------------------------------ writing

    def write(self, name: str, fingerprint: str, function_id: Hashable, value: Any) -> None:
        """Write a result atomically: a reader sees the whole file or none.

        Raises
        ------
        Exception
            Any error of pickling or of the file system.
        """
        buffers: list[pickle.PickleBuffer] = []
        data = dask_pickle.dumps(value, buffer_callback=buffers.append)
        parts = [memoryview(data), *(buffer.raw() for buffer in buffers)]
        fields = {
            "function": repr(function_id),
            "fingerprint": fingerprint,
            "lengths": [part.nbytes for part in parts],
        }
        header = json.dumps(fields).encode()
        digest = hashlib.sha256(header)
        for part in parts:
            digest.update(part)
        final = f"{self.root}/{name}"
        path = self._temporary(name) if self._renames else final
        try:
            with self.fs.open(path, "wb") as f:
                f.write(MAGIC + b"%08x %s\n" % (len(header), digest.hexdigest().encode()) + header)
                for part in parts:
                    f.write(part)
            if path != final:
                self._rename(path, final)
        except BaseException:
            if path != final:
                with contextlib.suppress(Exception):
                    self.fs.rm_file(path)
            raise

    def _rename(self, path: str, final: str) -> None:
        if self.local:
            os.replace(path, final)
            return
        try:
            self.fs.mv(path, final)
        except Exception:
            # Some file systems refuse to replace an existing file: another writer's, or a damaged one.
            if not self.fs.exists(final):
                raise
            self.fs.rm_file(final)
            self.fs.mv(path, final)

    # ------------------------------------------------------------------ reading

    def problem(self, name: str, fingerprint: str) -> str | None:
        """Validate a file without unpickling its payload.

        Returns
        -------
        str or None
            Why the file is not usable; None for a valid file.
        """
        try:
            with self._open(name) as f:
                lengths, digest, expected = _read_header(f, fingerprint)
                left = sum(lengths)
                while left:
                    chunk = f.read(min(left, _CHUNK))
                    if not chunk:
                        return _TRUNCATED
                    digest.update(chunk)
                    left -= len(chunk)
        except _DamagedError as error:
            return str(error)
        except Exception as error:
            return f"cannot be read: {_describe(error)}"
        return None if digest.hexdigest() == expected else _MISMATCH

    def read(self, name: str, fingerprint: str) -> Any:
        """Return the result in a file. It is unpickled only after its checksum has been verified.

        Raises
        ------
        CheckpointError
            The file is missing, damaged or that of another function, or cannot be unpickled.
        """
        url = f"{self.url}/{name}"
        try:
            with self._open(name) as f:
                lengths, digest, expected = _read_header(f, fingerprint)
                parts = [_read_exactly(f, length, digest.update) for length in lengths]
            if digest.hexdigest() != expected:
                raise _DamagedError(_MISMATCH)
            return pickle.loads(parts[0], buffers=parts[1:])
        except Exception as error:
            remedy = "; run the same call again to compute the result anew"
            raise CheckpointError(url, None, f"cannot be read: {_describe(error)}{remedy}") from error

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        with self.fs.open(f"{self.root}/{name}", "rb") as f:
            # fsspec's in-memory file is one object, whose position all its readers share.
            yield io.BytesIO(f.getvalue()) if isinstance(f, io.BytesIO) else f


class _DamagedError(Exception):
    """A file is not a valid checkpoint of the function."""


_TRUNCATED = "the file is truncated"
_MISMATCH = "checksum mismatch"


def _read_header(f: Any, fingerprint: str) -> tuple[list[int], Any, str]:
    """Return the lengths of the payload's parts, the digest of the header, and the expected final digest."""
    size = f.seek(0, io.SEEK_END)
    f.seek(0)
    start = f.read(len(MAGIC) + _LINE)
    line = re.fullmatch(rb"([0-9a-f]{8}) ([0-9a-f]{64})\n", start[len(MAGIC) :])
    if not start.startswith(MAGIC) or line is None:
        raise _DamagedError("not a checkpoint file")
    length = int(line[1], 16)
    if length > size - len(start):
        raise _DamagedError(_TRUNCATED)
    header = f.read(length)
    try:
        fields = json.loads(header)
        lengths = fields["lengths"]
        written_for = fields["fingerprint"]
        complete = sum(lengths) == size - len(start) - length
    except (ValueError, TypeError, KeyError) as error:
        raise _DamagedError("damaged header") from error
    if written_for != fingerprint:
        raise _DamagedError("fingerprint mismatch (checkpoint of another function)")
    if not complete or not lengths or not all(type(n) is int and n >= 0 for n in lengths):
        raise _DamagedError("wrong file length")
    return lengths, hashlib.sha256(header), line[2].decode()


def _read_exactly(f: Any, length: int, update: Callable[[Any], None]) -> bytearray:
    """Read ``length`` bytes, and pass each chunk to ``update``."""
    data = bytearray(length)
    view = memoryview(data)
    position = 0
    while position < length:
        n = f.readinto(view[position : position + _CHUNK])
        if not n:
            raise _DamagedError(_TRUNCATED)
        update(view[position : position + n])
        position += n
    return data


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, _DamagedError) else f"{type(error).__name__}: {error}"


def file_name(function_id: Hashable, fingerprint: str) -> str:
    """Return the file name of a checkpoint: a readable part and a unique part, safe on any file system."""
    # The repr of an id that is not plain may differ between processes.
    label = str(function_id) if is_plain(function_id) else "function"
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", label)[:60].strip("_-") or "function"
    return f"{readable}-{fingerprint[:40]}{_SUFFIX}"


# ---------------------------------------------------------------------- on a node


@functools.lru_cache(maxsize=32)
def open_directory(data: bytes) -> Directory:
    """Open a directory from the bytes of :meth:`Directory.pickled`, once per process."""
    return Directory(pickle.loads(data))


def write_result(file: CheckpointFile, id: Hashable, value: Any) -> None:
    """Write the result of an attempt.

    Raises
    ------
    CheckpointError
        The result cannot be written. The attempt fails with this error: without its checkpoint the run could
        not be resumed.
    """
    directory = open_directory(file.directory.data)
    try:
        directory.write(file.name, file.fingerprint, id, value)
    except Exception as error:
        raise CheckpointError(directory.url, id, f"cannot be written: {_describe(error)}") from error


def find_result(file: CheckpointFile) -> tuple[Any, ...]:
    """Return the result that an earlier attempt wrote, in a tuple of one; () without a valid file."""
    try:
        return (open_directory(file.directory.data).read(file.name, file.fingerprint),)
    except CheckpointError:
        return ()


class _Load:
    """The code that replaces a function's own when its checkpoint is valid: read the result."""

    def __init__(self) -> None:
        self.__qualname__ = LOADING

    def __call__(self, directory: Blob, name: str, fingerprint: str) -> Any:
        return open_directory(directory.data).read(name, fingerprint)

    def __reduce__(self) -> str:
        return "load"


load = _Load()


def loads_only(code: str) -> bool:
    """Whether functions of this code load a result that was computed before."""
    return code.startswith(LOADING)


def loading_code(code: str) -> str:
    """Return the name of the code that loads results of functions of this code."""
    return code if loads_only(code) else f"{LOADING} {code.partition(' ')[2]}"

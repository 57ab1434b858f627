"""Checkpoint files: results survive a round trip, and damage is detected before anything is unpickled."""

from __future__ import annotations

import os
import pickle
import threading
import time
import tracemalloc
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

import handoff_dask as handoff
from handoff_dask import Checkpoint, CheckpointError
from handoff_dask._adapter.checkpoint import (
    ABANDONED_AFTER,
    MAGIC,
    CheckpointFile,
    Directory,
    file_name,
    write_result,
)

FINGERPRINT = "ab" * 32


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


@pytest.fixture
def directory(tmp_path):
    directory = Directory(Checkpoint(tmp_path / "kept"))
    directory.prepare()
    return directory


@pytest.mark.parametrize(
    "value",
    [None, b"", [1, {"a": (2,)}], np.arange(12.0).reshape(3, 4), np.zeros(0), [np.arange(3)[::2], "x"]],
    ids=["none", "empty", "nested", "array", "no elements", "strided"],
)
def test_results_survive_a_round_trip(directory, value):
    directory.write("x", FINGERPRINT, "f", value)
    assert directory.problem("x", FINGERPRINT) is None
    again = directory.read("x", FINGERPRINT)
    assert pickle.dumps(again) == pickle.dumps(value) or np.array_equal(again, value)
    if isinstance(again, np.ndarray):
        assert again.flags.writeable
    assert [n for n in os.listdir(directory.root) if n != "x"] == [], "no temporary file is left"


def test_a_change_of_any_byte_is_detected(directory):
    directory.write("x", FINGERPRINT, "f", Trap())
    path = Path(directory.root, "x")
    whole = path.read_bytes()
    assert directory.problem("x", FINGERPRINT) is None
    for position in range(len(whole)):
        for flip in (1, 0x20, 0x80):
            damaged = bytearray(whole)
            damaged[position] ^= flip
            path.write_bytes(damaged)
            assert directory.problem("x", FINGERPRINT), (position, flip)
            with pytest.raises(CheckpointError, match="run the same call again"):
                directory.read("x", FINGERPRINT)


def test_truncated_and_extended_files_are_detected(directory):
    directory.write("x", FINGERPRINT, "f", Trap())
    path = Path(directory.root, "x")
    whole = path.read_bytes()
    for damaged in [whole[:n] for n in range(len(whole))] + [whole + b"\0", whole + whole]:
        path.write_bytes(damaged)
        assert directory.problem("x", FINGERPRINT)
        with pytest.raises(CheckpointError):
            directory.read("x", FINGERPRINT)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a checkpoint file"),
        (pickle.dumps("a pickle"), "not a checkpoint file"),
        (MAGIC + b"ffffffff " + b"0" * 64 + b"\n", "the file is truncated"),
        (MAGIC + b"00000002 " + b"0" * 64 + b"\n[]", "damaged header"),
        (MAGIC + b"00000002 " + b"0" * 64 + b"\n{}", "damaged header"),
    ],
)
def test_foreign_files(directory, content, problem):
    with open(os.path.join(directory.root, "x"), "wb") as f:
        f.write(content)
    assert directory.problem("x", FINGERPRINT) == problem
    with pytest.raises(CheckpointError, match=problem):
        directory.read("x", FINGERPRINT)


def test_the_checkpoint_of_another_function(directory):
    directory.write("x", "cd" * 32, "f", Trap())
    assert directory.problem("x", FINGERPRINT) == "fingerprint mismatch (checkpoint of another function)"
    with pytest.raises(CheckpointError, match="fingerprint mismatch"):
        directory.read("x", FINGERPRINT)


def test_a_missing_file(directory):
    assert directory.problem("x", FINGERPRINT).startswith("cannot be read: FileNotFoundError")
    with pytest.raises(CheckpointError, match="FileNotFoundError") as caught:
        directory.read("x", FINGERPRINT)
    assert caught.value.url == f"{directory.root}/x"


def test_writing_does_not_copy_large_arrays(directory):
    value = np.ones(8_000_000 // 8)
    tracemalloc.start()
    directory.write("x", FINGERPRINT, "f", value)
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    assert directory.problem("x", FINGERPRINT) is None
    checked = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written < value.nbytes / 2
    assert checked < value.nbytes


def test_a_failed_write_leaves_the_former_file(directory):
    directory.write("x", FINGERPRINT, "f", "first")

    def broken(*arguments):
        raise OSError("disk full")

    directory._rename = broken
    file = CheckpointFile(directory.pickled(), "x", FINGERPRINT)
    with pytest.raises(OSError, match="disk full"):
        directory.write("x", FINGERPRINT, "f", "second")
    assert directory.read("x", FINGERPRINT) == "first"
    assert os.listdir(directory.root) == ["x"]
    os.remove(os.path.join(directory.root, "x"))
    os.rmdir(directory.root)
    with pytest.raises(
        CheckpointError, match=r"checkpoint of function \('f', 1\) in .*kept: cannot be"
    ) as caught:
        write_result(file, ("f", 1), "value")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert caught.value.function_id == ("f", 1)
    with pytest.raises(CheckpointError, match="pickle"):
        write_result(file, "f", threading.Lock())


def test_temporary_files_are_ignored_and_removed_when_abandoned(directory):
    names = [file_name("f", FINGERPRINT), ".f-1.checkpoint.0.tmp", ".f-2.checkpoint.0.tmp"]
    for name in names:
        with open(os.path.join(directory.root, name), "wb") as f:
            f.write(b"half")
    old = time.time() - ABANDONED_AFTER - 60
    os.utime(os.path.join(directory.root, names[1]), (old, old))
    assert directory.prepare() == {names[0]}
    assert sorted(os.listdir(directory.root)) == sorted([names[0], names[2]])


def test_concurrent_writers_and_readers_of_one_file(directory):
    values = [np.full(50_000, n) for n in range(2)]
    directory.write("x", FINGERPRINT, "f", values[0])
    stop = threading.Event()
    failed = []

    def write(value):
        while not stop.is_set():
            directory.write("x", FINGERPRINT, "f", value)

    writers = [threading.Thread(target=write, args=(value,)) for value in values]
    for writer in writers:
        writer.start()
    try:
        for _ in range(50):
            read = directory.read("x", FINGERPRINT)
            if read.min() != read.max():
                failed.append(read)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert not failed
    assert os.listdir(directory.root) == ["x"]


@pytest.mark.parametrize("url", ["memory://some/where", "memory://top"])
def test_an_in_memory_file_system(url):
    directory = Directory(Checkpoint(url))
    directory.prepare()
    name = file_name("f", FINGERPRINT)
    for value in ("first", "second"):
        directory.write(name, FINGERPRINT, "f", value)
        assert directory.read(name, FINGERPRINT) == value
    assert directory.prepare() == {name}
    directory.fs.pipe_file(f"{directory.root}/{name}", b"damaged")
    assert directory.problem(name, FINGERPRINT) == "not a checkpoint file"


def test_concurrent_readers_of_an_in_memory_file():
    directory = Directory(Checkpoint("memory://many/readers"))
    directory.prepare()
    directory.write("x", FINGERPRINT, "f", bytes(5_000_000))
    problems = []

    def check():
        problems.extend(directory.problem("x", FINGERPRINT) for _ in range(10))

    readers = [threading.Thread(target=check) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert problems == [None] * 40


def test_an_object_store_has_no_empty_directories():
    directory = Directory(Checkpoint("memory://bucket/empty"))
    directory.fs.ls = lambda *args, **kwargs: (_ for _ in ()).throw(FileNotFoundError("no such key"))
    try:
        assert directory.prepare() == set()
    finally:
        del directory.fs.ls  # fsspec caches its file systems


class ObjectStore(AbstractFileSystem):
    """An object store: keys without directories, renames that copy, objects that appear when they are closed.

    Each instance caches its listings, as those of s3fs and gcsfs do.
    """

    protocol: ClassVar = ("stored", "s3")
    objects: ClassVar[dict] = {}
    log: ClassVar[list] = []

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path).rstrip("/")
        if path not in self.dircache:
            found = [
                {"name": key, "size": len(data), "type": "file"}
                for key, data in list(self.objects.items())
                if key.rpartition("/")[0] == path
            ]
            if not found:
                raise FileNotFoundError(path)
            self.dircache[path] = found
        found = self.dircache[path]
        return found if detail else [entry["name"] for entry in found]

    def info(self, path, **kwargs):
        path = self._strip_protocol(path)
        if path in self.objects:
            return {"name": path, "size": len(self.objects[path]), "type": "file"}
        if any(key.startswith(path + "/") for key in list(self.objects)):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def invalidate_cache(self, path=None):
        self.dircache.clear()

    def cp_file(self, path1, path2, **kwargs):
        self.log.append(("copy", path2))
        self.objects[self._strip_protocol(path2)] = self.objects[self._strip_protocol(path1)]

    def _rm(self, path):
        try:
            del self.objects[self._strip_protocol(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    def _open(self, path, mode="rb", **kwargs):
        return StoredObject(self, path, mode, **kwargs)


class StoredObject(AbstractBufferedFile):
    def _initiate_upload(self):
        self.parts = []

    def _upload_chunk(self, final=False):
        self.parts.append(self.buffer.getvalue())
        if final:
            self.fs.log.append(("put", self.path))
            self.fs.objects[self.path] = b"".join(self.parts)

    def _fetch_range(self, start, end):
        return self.fs.objects[self.path][start:end]


class RenamingStore(ObjectStore):
    """An object store under a protocol that is not known as one."""

    protocol: ClassVar = "renaming"


@pytest.fixture(params=[ObjectStore, RenamingStore])
def object_store(request, monkeypatch):
    kind = request.param
    name = kind.protocol if isinstance(kind.protocol, str) else kind.protocol[0]
    monkeypatch.setattr(kind, "objects", {})
    monkeypatch.setattr(kind, "log", [])
    fsspec.register_implementation(name, kind, clobber=True)
    kind.clear_instance_cache()
    return kind, f"{name}://bucket/run"


def test_an_object_store(object_store):
    """Directories need not exist, and cached listings become stale when another client writes."""
    kind, url = object_store
    value = np.arange(1_000_000.0)  # more than one part of an upload
    first = Directory(Checkpoint(url))
    other = Directory(Checkpoint(url, {"skip_instance_cache": True}))
    assert first.fs is not other.fs
    assert first.prepare() == other.prepare() == set()
    for name in ("x.checkpoint", "y.checkpoint"):
        first.write(name, FINGERPRINT, "f", "former")
        first.write(name, FINGERPRINT, "f", value)
        assert name in other.prepare()
        assert other.problem(name, FINGERPRINT) is None
        assert np.array_equal(other.read(name, FINGERPRINT), value)
        assert sorted(kind.objects)[-1].endswith(name)
    assert first.prepare() == {"x.checkpoint", "y.checkpoint"}
    assert len(kind.objects) == 2, "no temporary file is left"
    copied = [path for what, path in kind.log if what == "copy"]
    assert bool(copied) is (kind is RenamingStore), "writes to a known object store need no rename"


def test_a_partially_uploaded_object(object_store):
    kind, url = object_store
    directory = Directory(Checkpoint(url))
    directory.prepare()
    directory.write("x", FINGERPRINT, "f", np.arange(1_000_000.0))
    (key,) = kind.objects
    kind.objects[key] = kind.objects[key][: 5 * 2**20]
    assert directory.problem("x", FINGERPRINT) == "wrong file length"
    with pytest.raises(CheckpointError, match="run the same call again"):
        directory.read("x", FINGERPRINT)
    directory.write("x", FINGERPRINT, "f", "whole")
    assert directory.read("x", FINGERPRINT) == "whole"


def test_runs_with_an_object_store(client, object_store):
    kind, url = object_store
    dag = handoff.DAG("stored")
    dag.add_function(handoff.Function("a", "builtins:int", extra_args=["3"]))
    dag.add_function(handoff.Function("b", "operator:mul", args=["a", "a"]))
    assert handoff.execute(dag, client, checkpoint=url).results == {"a": 3, "b": 9}
    assert len(kind.objects) == 2
    again = handoff.execute(dag, client, checkpoint=url)
    assert (again.results, again.restored) == ({"a": 3, "b": 9}, ("a", "b"))


def test_a_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = Directory(Checkpoint("below"))
    assert os.path.samefile(os.path.dirname(relative.url), tmp_path)
    assert pickle.loads(relative.pickled().data).url == relative.url


def test_reprs_hide_credentials(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"auto_mkdir": True, "secret": "hidden"})
    assert "hidden" not in repr(checkpoint)
    file = CheckpointFile(Directory(checkpoint).pickled(), "x", FINGERPRINT)
    assert "hidden" not in repr(file)


@pytest.mark.parametrize("given", [(1,), ("",), ("x", ["not", "a", "mapping"])])
def test_invalid_checkpoints(given):
    with pytest.raises((TypeError, ValueError), match="Checkpoint"):
        Checkpoint(*given)


IDS = [
    "a",
    "a/b",
    "../../etc/passwd",
    "x" * 500,
    "größe",
    "日本",
    "",
    ".",
    "con",
    ("a", ("b", 1)),
    None,
    2.5,
    "A",
    "-",
]


def test_file_names_are_safe():
    names = [file_name(id, f"{n:04x}".ljust(64, "0")) for n, id in enumerate(IDS)]
    assert len(set(names)) == len(names)
    for name in names:
        assert name.isascii()
        assert len(name) < 130
        assert not set(name) & set('/\\:*?"<>| ')
        assert not name.startswith((".", "-"))
    assert file_name(frozenset("ab"), FINGERPRINT).startswith("function-")

"""Files of checkpoints: what was written is read, and anything else is noticed before it is unpickled."""

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
from handoff_dask._adapter.checkpoint import ABANDONED, MAGIC, Directory, Entry, file_name, store

PRINT = "ab" * 32


class Trap:
    """Unpickling it would be noticed."""

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
def test_what_was_written_is_read(directory, value):
    directory.write("x", PRINT, "f", value)
    assert directory.problem("x", PRINT) is None
    again = directory.read("x", PRINT)
    assert pickle.dumps(again) == pickle.dumps(value) or np.array_equal(again, value)
    if isinstance(again, np.ndarray):
        assert again.flags.writeable
    assert [n for n in os.listdir(directory.root) if n != "x"] == [], "nothing temporary is left"


def test_every_single_changed_byte_is_noticed(directory):
    directory.write("x", PRINT, "f", Trap())
    path = Path(directory.root, "x")
    whole = path.read_bytes()
    assert directory.problem("x", PRINT) is None
    for position in range(len(whole)):
        for flip in (1, 0x20, 0x80):
            damaged = bytearray(whole)
            damaged[position] ^= flip
            path.write_bytes(damaged)
            assert directory.problem("x", PRINT), (position, flip)
            with pytest.raises(CheckpointError, match="run the same call again"):
                directory.read("x", PRINT)


def test_every_truncation_and_what_is_added_is_noticed(directory):
    directory.write("x", PRINT, "f", Trap())
    path = Path(directory.root, "x")
    whole = path.read_bytes()
    for damaged in [whole[:n] for n in range(len(whole))] + [whole + b"\0", whole + whole]:
        path.write_bytes(damaged)
        assert directory.problem("x", PRINT)
        with pytest.raises(CheckpointError):
            directory.read("x", PRINT)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not a checkpoint"),
        (pickle.dumps("a pickle"), "is not a checkpoint"),
        (MAGIC + b"ffffffff " + b"0" * 64 + b"\n", "is too short"),
        (MAGIC + b"00000002 " + b"0" * 64 + b"\n[]", "has a damaged header"),
        (MAGIC + b"00000002 " + b"0" * 64 + b"\n{}", "has a damaged header"),
    ],
)
def test_foreign_files(directory, content, problem):
    with open(os.path.join(directory.root, "x"), "wb") as f:
        f.write(content)
    assert directory.problem("x", PRINT) == problem
    with pytest.raises(CheckpointError, match=problem):
        directory.read("x", PRINT)


def test_the_checkpoint_of_something_else(directory):
    directory.write("x", "cd" * 32, "f", Trap())
    assert directory.problem("x", PRINT) == "is the checkpoint of something else"
    with pytest.raises(CheckpointError, match="of something else"):
        directory.read("x", PRINT)


def test_a_file_that_is_not_there(directory):
    assert directory.problem("x", PRINT).startswith("cannot be read: FileNotFoundError")
    with pytest.raises(CheckpointError, match="FileNotFoundError") as caught:
        directory.read("x", PRINT)
    assert caught.value.url == f"{directory.root}/x"


def test_large_arrays_are_not_copied_to_be_written(directory):
    value = np.ones(8_000_000 // 8)
    tracemalloc.start()
    directory.write("x", PRINT, "f", value)
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    assert directory.problem("x", PRINT) is None
    looked = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written < value.nbytes / 2
    assert looked < value.nbytes


def test_a_writer_that_fails_leaves_what_was_there(directory):
    directory.write("x", PRINT, "f", "first")

    def broken(*arguments):
        raise OSError("disk full")

    directory._move = broken
    entry = Entry(directory.sealed(), "x", PRINT)
    with pytest.raises(OSError, match="disk full"):
        directory.write("x", PRINT, "f", "second")
    assert directory.read("x", PRINT) == "first"
    assert os.listdir(directory.root) == ["x"]
    os.remove(os.path.join(directory.root, "x"))
    os.rmdir(directory.root)
    with pytest.raises(
        CheckpointError, match=r"checkpoint of function \('f', 1\) in .*kept: cannot be"
    ) as caught:
        store(entry, ("f", 1), "value")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert caught.value.function_id == ("f", 1)
    with pytest.raises(CheckpointError, match="pickle"):
        store(entry, "f", threading.Lock())


def test_temporary_files_are_no_checkpoints_and_go_when_they_are_old(directory):
    names = [file_name("f", PRINT), ".f-1.checkpoint.0.tmp", ".f-2.checkpoint.0.tmp"]
    for name in names:
        with open(os.path.join(directory.root, name), "wb") as f:
            f.write(b"half")
    old = time.time() - ABANDONED - 60
    os.utime(os.path.join(directory.root, names[1]), (old, old))
    assert directory.prepare() == {names[0]}
    assert sorted(os.listdir(directory.root)) == sorted([names[0], names[2]])


def test_two_writers_of_one_file_and_its_readers(directory):
    values = [np.full(50_000, n) for n in range(2)]
    directory.write("x", PRINT, "f", values[0])
    stop = threading.Event()
    failed = []

    def write(value):
        while not stop.is_set():
            directory.write("x", PRINT, "f", value)

    writers = [threading.Thread(target=write, args=(value,)) for value in values]
    for writer in writers:
        writer.start()
    try:
        for _ in range(50):
            read = directory.read("x", PRINT)
            if read.min() != read.max():
                failed.append(read)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert not failed
    assert os.listdir(directory.root) == ["x"]


@pytest.mark.parametrize("url", ["memory://some/where", "memory://top"])
def test_in_memory(url):
    directory = Directory(Checkpoint(url))
    directory.prepare()
    name = file_name("f", PRINT)
    for value in ("first", "second"):
        directory.write(name, PRINT, "f", value)
        assert directory.read(name, PRINT) == value
    assert directory.prepare() == {name}
    directory.fs.pipe_file(f"{directory.root}/{name}", b"damaged")
    assert directory.problem(name, PRINT) == "is not a checkpoint"


def test_many_readers_of_a_file_in_memory():
    directory = Directory(Checkpoint("memory://many/readers"))
    directory.prepare()
    directory.write("x", PRINT, "f", bytes(5_000_000))
    problems = []

    def look():
        problems.extend(directory.problem("x", PRINT) for _ in range(10))

    readers = [threading.Thread(target=look) for _ in range(4)]
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
        del directory.fs.ls  # fsspec hands out one object again and again


class ObjectStore(AbstractFileSystem):
    """As object stores are: keys and no directories, a move is a copy, objects appear when they are closed.

    Listings are cached by whoever made them, as those of s3fs and gcsfs are.
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
    """One of a kind that is not known to be an object store."""

    protocol: ClassVar = "renaming"


@pytest.fixture(params=[ObjectStore, RenamingStore])
def store_of_objects(request, monkeypatch):
    kind = request.param
    name = kind.protocol if isinstance(kind.protocol, str) else kind.protocol[0]
    monkeypatch.setattr(kind, "objects", {})
    monkeypatch.setattr(kind, "log", [])
    fsspec.register_implementation(name, kind, clobber=True)
    kind.clear_instance_cache()
    return kind, f"{name}://bucket/run"


def test_an_object_store(store_of_objects):
    """A directory that nobody makes, and a listing that another has made meanwhile out of date."""
    kind, url = store_of_objects
    value = np.arange(1_000_000.0)  # more than one part of an upload
    first = Directory(Checkpoint(url))
    other = Directory(Checkpoint(url, {"skip_instance_cache": True}))
    assert first.fs is not other.fs
    assert first.prepare() == other.prepare() == set()
    for name in ("x.checkpoint", "y.checkpoint"):
        first.write(name, PRINT, "f", "former")
        first.write(name, PRINT, "f", value)
        assert name in other.prepare()
        assert other.problem(name, PRINT) is None
        assert np.array_equal(other.read(name, PRINT), value)
        assert sorted(kind.objects)[-1].endswith(name)
    assert first.prepare() == {"x.checkpoint", "y.checkpoint"}
    assert len(kind.objects) == 2, "nothing temporary is left"
    copied = [path for what, path in kind.log if what == "copy"]
    assert bool(copied) is (kind is RenamingStore), "what appears when it is whole need not be moved"


def test_an_object_that_was_uploaded_in_part(store_of_objects):
    kind, url = store_of_objects
    directory = Directory(Checkpoint(url))
    directory.prepare()
    directory.write("x", PRINT, "f", np.arange(1_000_000.0))
    (key,) = kind.objects
    kind.objects[key] = kind.objects[key][: 5 * 2**20]
    assert directory.problem("x", PRINT) == "has a wrong length"
    with pytest.raises(CheckpointError, match="run the same call again"):
        directory.read("x", PRINT)
    directory.write("x", PRINT, "f", "whole")
    assert directory.read("x", PRINT) == "whole"


def test_runs_with_an_object_store(client, store_of_objects):
    kind, url = store_of_objects
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
    assert pickle.loads(relative.sealed().data).url == relative.url


def test_credentials_are_not_shown(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"auto_mkdir": True, "secret": "hidden"})
    assert "hidden" not in repr(checkpoint)
    entry = Entry(Directory(checkpoint).sealed(), "x", PRINT)
    assert "hidden" not in repr(entry)


@pytest.mark.parametrize("given", [(1,), ("",), ("x", ["not", "a", "mapping"])])
def test_a_checkpoint_has_to_be_one(given):
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


def test_file_names_are_safe_and_apart():
    names = [
        file_name(id, handoff.__name__.encode().hex().ljust(60, "0") + f"{n:04x}") for n, id in enumerate(IDS)
    ]
    for name in names:
        assert name.isascii()
        assert len(name) < 130
        assert not set(name) & set('/\\:*?"<>| ')
        assert not name.startswith((".", "-"))
    assert file_name(frozenset("ab"), PRINT).startswith("function-")

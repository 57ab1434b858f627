"""Memory bounds that the kernel keeps. A fake replaces cgroup v2: folders that come with files."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import dask
import psutil
import pytest
from helpers import dag_of, until

import handoff_dask as handoff
from handoff_dask import Function, FunctionFailedError, FunctionMemoryError
from handoff_dask._adapter import cgroup, memory_guard, process_pool
from handoff_dask._adapter.cgroup import CgroupGuard

MB = 2**20


class FakeKernel:
    """A folder that behaves like one of cgroup v2, and the module ``os`` for those who use it.

    Attributes
    ----------
    refused : dict of str to int
        Names of files and folders → number of the error of writing to or removing them.
    written : list of (str, str, str)
        Groups, files and values, in order.
    """

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.refused = {}
        self.written = []
        (folder / "cgroup.subtree_control").write_text("cpu memory\n")
        self._original = cgroup._write
        monkeypatch.setattr(cgroup, "os", self)
        monkeypatch.setattr(cgroup, "_write", self._write)

    def __getattr__(self, name):
        return getattr(os, name)

    def mkdir(self, path):
        os.mkdir(path)
        for name in ("cgroup.procs", "memory.oom.group", "memory.swap.max", "memory.max"):
            open(os.path.join(path, name), "w").close()
        self.set(path, events=(0, 0), current=10, stat={"anon": 10})

    def rmdir(self, path):
        if os.path.basename(path) in self.refused:
            raise OSError(errno.EBUSY, "Device or resource busy", path)
        shutil.rmtree(path)

    def _write(self, folder, name, value):
        if name in self.refused:
            raise OSError(self.refused[name], os.strerror(self.refused[name]), os.path.join(folder, name))
        self._original(folder, name, value)
        self.written.append((os.path.basename(folder), name, value))

    @property
    def groups(self):
        return sorted(self.folder.glob("handoff-*"))

    def set(self, group, events=None, current=None, stat=None):
        """Say what the kernel counts in a group: (oom, oom_kill), MB, and MB by kind."""
        path = self.folder / group
        if events is not None:
            (path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom {}\noom_kill {}\n".format(*events))
        if current is not None:
            (path / "memory.current").write_text(f"{current * MB}\n")
        if stat is not None:
            (path / "memory.stat").write_text("".join(f"{k} {v * MB}\n" for k, v in stat.items()))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    with dask.config.set({"handoff.cgroup": str(tmp_path)}):
        yield FakeKernel(tmp_path, monkeypatch)


@pytest.fixture
def exceeded():
    return []


def test_a_process_is_bounded_in_a_group_of_its_own(kernel, exceeded):
    guard = CgroupGuard()
    with guard.watch(17, 1000.0, 50.0, exceeded.append), guard.watch(18, 0.0, 60.5, exceeded.append):
        first, second = kernel.groups
        assert (first / "cgroup.procs").read_text() == "17"
        assert (first / "memory.oom.group").read_text() == "1"
        assert (first / "memory.swap.max").read_text() == "0"
        assert (first / "memory.max").read_text() == str(60 * MB), "the kernel's count replaces the base"
        assert (second / "memory.max").read_text() == str(int(70.5 * MB))
        files = [name for group, name, _ in kernel.written if group == first.name]
        assert files[-2:] == ["cgroup.procs", "memory.max"], (
            "its memory is counted in the group, then bounded"
        )
    assert (first / "memory.max").read_text() == "max", "an attempt without a bound may follow"
    assert not exceeded
    assert guard._thread is None, "nothing is sampled"


def test_the_next_attempt_of_the_process_is_bounded_from_what_is_left(kernel, exceeded):
    guard = CgroupGuard()
    with guard.watch(17, 0.0, 50.0, exceeded.append):
        (group,) = kernel.groups
    stat = {"anon": 25, "active_file": 30, "inactive_file": 20, "slab_reclaimable": 5, "file": 60}
    kernel.set(group, current=85, stat=stat)
    with guard.watch(17, 0.0, 50.0, exceeded.append):
        assert kernel.groups == [group]
        assert (group / "memory.max").read_text() == str(80 * MB), "the kernel reclaims the page cache"
    assert [name for _, name, _ in kernel.written].count("cgroup.procs") == 1


@pytest.mark.parametrize(
    ("events", "times"),
    [((1, 1), 1), ((3, 2), 1), ((0, 1), 0), ((1, 0), 0), ((0, 0), 0)],
    ids=["killed", "killed with others", "the machine is full", "no kill", "nothing"],
)
def test_a_kill_by_the_bound_is_told_from_others(kernel, exceeded, events, times):
    guard = CgroupGuard()
    with guard.watch(17, 0.0, 50.0, exceeded.append):
        (group,) = kernel.groups
        kernel.set(group, events=events)
        assert not exceeded
    assert len(exceeded) == times
    assert all(50 < used < 50.1 for used in exceeded)
    with guard.watch(17, 0.0, 50.0, exceeded.append):
        pass
    assert len(exceeded) == times, "only what happens during an attempt counts"


def test_a_group_is_removed_with_its_process(kernel, exceeded):
    guard = CgroupGuard()
    for pid in (17, 18):
        with guard.watch(pid, 0.0, 50.0, exceeded.append):
            pass
    first, second = kernel.groups
    kernel.refused[first.name] = errno.EBUSY  # a process that the function started has not ended yet
    guard.release(17)
    guard.release(999)
    assert kernel.groups == [first, second]
    kernel.refused.clear()
    with guard.watch(17, 0.0, 50.0, exceeded.append):  # another process with the same id
        assert len(kernel.groups) == 3
    guard.release(18)
    (last,) = kernel.groups
    assert last not in (first, second)
    guard.release(17)
    assert not kernel.groups


def test_groups_of_dead_nodes_are_removed(kernel, exceeded):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    left = [kernel.folder / name for name in (f"handoff-{process.pid}-1", f"handoff-{os.getppid()}-1", "x-1")]
    for path in left:
        path.mkdir()
    with CgroupGuard().watch(17, 0.0, 50.0, exceeded.append):
        assert [path.exists() for path in left] == [False, True, True]


def test_the_controller_is_enabled_if_it_is_not(kernel, exceeded):
    (kernel.folder / "cgroup.subtree_control").write_text("cpu\n")
    with CgroupGuard().watch(17, 0.0, 50.0, exceeded.append):
        assert kernel.written[0] == (kernel.folder.name, "cgroup.subtree_control", "+memory")


def test_a_kernel_without_swap(kernel, exceeded):
    kernel.refused["memory.swap.max"] = errno.ENOENT
    with CgroupGuard().watch(17, 0.0, 50.0, exceeded.append):
        (group,) = kernel.groups
        assert (group / "memory.max").read_text() == str(60 * MB)


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "handoff_dask"]


@pytest.mark.parametrize(
    ("controllers", "refused", "reason"),
    [
        (None, {}, "No such file or directory: '{}/cgroup.subtree_control'"),
        (
            "cpu",
            {"cgroup.subtree_control": errno.EBUSY},
            "Device or resource busy: '{}/cgroup.subtree_control'",
        ),
        ("memory", {"cgroup.procs": errno.EACCES}, "Permission denied: '{}/handoff-"),
        ("memory", {"memory.max": errno.EINVAL}, "Invalid argument: '{}/handoff-"),
    ],
)
def test_an_unusable_folder_is_reported_once_and_memory_sampled(
    kernel, exceeded, caplog, monkeypatch, controllers, refused, reason
):
    if controllers is None:
        (kernel.folder / "cgroup.subtree_control").unlink()
    else:
        (kernel.folder / "cgroup.subtree_control").write_text(controllers)
    kernel.refused = refused
    monkeypatch.setattr(memory_guard, "memory_of", lambda pid, enough: 80.0)
    guard = CgroupGuard()
    with caplog.at_level("WARNING", "handoff_dask"):
        for pid in (17, 18):
            with guard.watch(pid, 10.0, 50.0, exceeded.append):
                until(lambda pid=pid: len(exceeded) == pid - 16)
            guard.release(pid)
    assert exceeded == [70.0, 70.0]
    (warning,) = warnings_in(caplog)
    assert f"handoff.cgroup {kernel.folder} cannot be used" in warning
    assert reason.format(kernel.folder) in warning
    assert "this node must run in a folder below it" in warning
    assert not kernel.groups


def test_a_process_that_has_just_ended_does_not_condemn_the_folder(kernel, exceeded, caplog):
    guard = CgroupGuard()
    kernel.refused["cgroup.procs"] = errno.ESRCH
    with caplog.at_level("WARNING", "handoff_dask"), guard.watch(17, 0.0, 50.0, exceeded.append):
        pass
    guard.release(17)
    assert not warnings_in(caplog)
    kernel.refused.clear()
    with guard.watch(18, 0.0, 50.0, exceeded.append):
        assert len(kernel.groups) == 1


@pytest.mark.parametrize("folder", [None, ""])
def test_without_a_folder_memory_is_sampled(kernel, exceeded, caplog, folder):
    guard = CgroupGuard()
    with dask.config.set({"handoff.cgroup": folder}), guard.watch(os.getpid(), 0.0, 1.0, exceeded.append):
        until(lambda: exceeded)
    assert not kernel.groups
    assert not warnings_in(caplog)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_error_names_the_file(tmp_path):
    with pytest.raises(OSError, match="'/dev/full'"):
        cgroup._write("/dev", "full", "1")
    with pytest.raises(FileNotFoundError):
        cgroup._write(str(tmp_path), "memory.swap.max", "0")
    assert not list(tmp_path.iterdir()), "in cgroup v2, no file can be created"


# ---------------------------------------------------------------------- with processes


def process_id(*args):
    return os.getpid()


def sleep_long():
    time.sleep(3600)


@pytest.fixture
def guard(kernel, monkeypatch):
    """Give processes a new guard, and end those with groups afterwards."""
    guard = CgroupGuard()
    monkeypatch.setattr(process_pool, "_guard", guard)
    yield guard
    for child in list(process_pool._idle):
        if child.process.pid in guard._groups:
            process_pool._idle.remove(child)
            child.close()
    assert not kernel.groups


def test_an_attempt_that_the_kernel_kills_ran_out_of_memory(kernel, guard):
    def kill():
        until(lambda: "memory.max" in [name for _, name, _ in kernel.written])
        (group,) = kernel.groups
        kernel.set(group, events=(1, 1))
        os.kill(int((group / "cgroup.procs").read_text()), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    f = Function("f", sleep_long, isolation="process", cost={"memory": 100}, timeout=60, max_retries=0)
    with pytest.raises(FunctionFailedError) as caught:
        handoff.execute_local(dag_of(f))
    thread.join()
    error = caught.value.__cause__
    assert isinstance(error, FunctionMemoryError)
    assert error.asked == 100
    assert 100 < error.seen < 101
    assert caught.value.attempts[0].peak_memory == error.seen
    assert not kernel.groups


def test_processes_are_reused_in_their_groups(kernel, guard):
    cost = {"memory": 100}
    dag = dag_of(
        Function("first", process_id, isolation="process", cost=cost),
        Function("second", process_id, args=["first"], isolation="process", cost={"memory": 200}),
        Function("unbounded", process_id, args=["second"], isolation="process"),
    )
    results = handoff.execute_local(dag).results
    (pid,) = set(results.values())
    assert len(kernel.groups) == 1
    limits = [value for _, name, value in kernel.written if name == "memory.max"]
    assert limits == [str(110 * MB), "max", str(210 * MB), "max"]
    os.kill(pid, signal.SIGKILL)  # while it is idle
    until(lambda: not psutil.pid_exists(pid))
    until(lambda: not kernel.groups)

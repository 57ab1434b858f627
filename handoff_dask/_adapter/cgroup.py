"""Memory bounds that the kernel keeps: each process of bounded attempts has a control group (cgroup v2).

Used where ``handoff.cgroup`` names a folder for them. Elsewhere, and if the folder cannot be used, memory is
sampled by :class:`MemoryGuard`. The rules for the files are in the kernel's
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator

import psutil

from handoff_dask._adapter.config import read_cgroup
from handoff_dask._adapter.memory_guard import MemoryGuard
from handoff_dask._adapter.process_memory import PAGE
from handoff_dask._model.resources import MB

logger = logging.getLogger("handoff_dask")

#: What the kernel frees before it kills. What an earlier attempt has left of it gives the next one no room.
_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")


class CgroupGuard(MemoryGuard):
    """Bounds attempts by the control groups of their processes if possible, and by sampling if not."""

    def __init__(self) -> None:
        super().__init__()
        self._opened = False
        self._folder: str | None = None
        self._groups: dict[int, str] = {}
        self._ended: list[str] = []
        self._numbers = itertools.count(1)
        self._groups_lock = threading.Lock()

    @contextlib.contextmanager
    def watch(self, pid: int, base: float, bound: float, exceed: Callable[[float], None]) -> Iterator[None]:
        """Watch an attempt: see :meth:`MemoryGuard.watch`.

        In a control group, the kernel kills the process, and ``exceed`` is called when the context is left.
        The kernel's own count replaces ``base``.
        """
        begun = self._begin(pid, bound)
        if begun is None:
            with super().watch(pid, base, bound, exceed):
                yield
            return
        group, before = begun
        try:
            yield
        finally:
            if all(now > then for now, then in zip(_kills(group), before, strict=True)):
                exceed(bound + PAGE)  # it had all of its bound, and needed more
            with contextlib.suppress(OSError):
                _write(group, "memory.max", "max")  # attempts without a bound may follow

    def release(self, pid: int) -> None:
        """Remove the control group of a process that has ended, if it has one."""
        with self._groups_lock:
            group = self._groups.pop(pid, None)
            if group is not None:  # processes that the function started may take a little longer to end
                self._ended = [ended for ended in [*self._ended, group] if not _remove(ended)]

    def _begin(self, pid: int, bound: float) -> tuple[str, tuple[int, int]] | None:
        """Let a process use this much more than now.

        Returns
        -------
        tuple or None
            Its group, and what :func:`_kills` says of it. None if the process has to be sampled.
        """
        try:
            with self._groups_lock:
                group = self._group_of(pid)
            if group is None:
                return None
            before = _kills(group)
            _write(group, "memory.max", str(_used(group) + int(bound * MB)))
        except ProcessLookupError:  # it has just ended, as its caller is about to notice
            return None
        except OSError as error:
            self._give_up(error)
            return None
        return group, before

    def _group_of(self, pid: int) -> str | None:
        if not self._opened:
            self._opened = True
            self._folder = read_cgroup()
            if self._folder is not None:
                _open(self._folder)
        if self._folder is None:
            return None
        if pid in self._groups:
            return self._groups[pid]
        group = os.path.join(self._folder, f"handoff-{os.getpid()}-{next(self._numbers)}")
        os.mkdir(group)
        self._groups[pid] = group  # removed with the process, even if the rest fails
        _write(group, "memory.oom.group", "1")
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap
            _write(group, "memory.swap.max", "0")
        _write(group, "cgroup.procs", str(pid))
        return group

    def _give_up(self, error: OSError) -> None:
        with self._groups_lock:
            folder, self._folder = self._folder, None
        if folder is not None:
            logger.warning(
                "Memory bounds are sampled, because handoff.cgroup %s cannot be used: %s. It must be a folder"
                " of cgroup v2 that this user may write to, with 'memory' in cgroup.controllers and without"
                " processes of its own, and this node must run in a folder below it.",
                folder,
                error,
            )


def _open(folder: str) -> None:
    """Enable memory bounds in a folder, and remove what nodes that have ended have left there."""
    if "memory" not in _read(folder, "cgroup.subtree_control").split():
        _write(folder, "cgroup.subtree_control", "+memory")
    for name in os.listdir(folder):
        node = re.fullmatch(r"handoff-(\d+)-\d+", name)
        if node and not psutil.pid_exists(int(node[1])):
            _remove(os.path.join(folder, name))


def _remove(group: str) -> bool:
    """Remove a group unless there are processes in it; return whether it is gone."""
    with contextlib.suppress(OSError):
        os.rmdir(group)
    return not os.path.exists(group)


def _kills(group: str) -> tuple[int, int]:
    """Return how often the bound was reached, and how many processes were killed.

    The second alone also counts processes that were killed because the whole machine ran out of memory.
    """
    with contextlib.suppress(OSError):
        events = dict(line.split() for line in _read(group, "memory.events").splitlines())
        return int(events["oom"]), int(events["oom_kill"])
    return 0, 0


def _used(group: str) -> int:
    """Return the bytes in use that the kernel cannot reclaim."""
    stat = dict(line.split() for line in _read(group, "memory.stat").splitlines())
    return max(0, int(_read(group, "memory.current")) - sum(int(stat.get(key, 0)) for key in _RECLAIMABLE))


def _read(folder: str, name: str) -> str:
    with open(os.path.join(folder, name)) as file:
        return file.read()


def _write(folder: str, name: str, value: str) -> None:
    """Write a value at once, without creating the file."""
    path = os.path.join(folder, name)
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:  # which does not name the file
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)

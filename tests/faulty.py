"""Functions for tests in which nodes are lost. They record their attempts in a folder that outlives them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import handoff_dask as handoff


def mark(folder, *more):
    """Record the current function, attempt and node."""
    here = handoff.current()
    with open(Path(folder) / "marks", "a") as marks:  # short appends are atomic
        marks.write(f"{here.function_id} {here.attempt} {here.node} {' '.join(map(str, more))}\n")


def marks(folder):
    """Return all records in order, as tuples (function id, attempt, node, ...)."""
    path = Path(folder) / "marks"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


def entered(folder, *names):
    """Return how many attempts have entered the given functions."""
    return sum(name in names for name, *_ in marks(folder))


def attempt(folder, value=None, *inputs):
    """Record the attempt and return ``value``."""
    mark(folder)
    return value


def wait_for(folder, name, value=None, *inputs):
    """Record the attempt and wait until a file of this name exists."""
    mark(folder)
    deadline = time.monotonic() + 60
    while not (Path(folder) / name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def wait_first(folder, name, value):
    """Wait in the first attempt; later attempts return at once."""
    return wait_for(folder, name, value) if handoff.current().attempt == 1 else attempt(folder, value)


def take_down(folder):
    """Kill the node's process."""
    mark(folder)
    os._exit(1)


def finish_once(folder):
    """Return the process id in the first attempt, and kill the node in every other one."""
    mark(folder, os.getpid())
    if handoff.current().attempt > 1:
        os._exit(1)
    return os.getpid()


class Sealed:
    """A value that records the process in which it is unpickled."""

    def __init__(self, folder, value):
        self.folder = folder
        self.value = value

    def __reduce__(self):
        return unseal, (self.folder, self.value)


def unseal(folder, value):
    with open(Path(folder) / "unsealed", "a") as pids:
        pids.write(f"{os.getpid()}\n")
    return value


def unsealed(folder):
    """Return the ids of the processes that unpickled a :class:`Sealed` value."""
    return {int(pid) for pid in (Path(folder) / "unsealed").read_text().split()}

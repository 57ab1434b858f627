"""Functions for nodes that get lost. They leave marks in a folder, which outlives the processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import handoff_dask as handoff


def mark(folder, *more):
    """Write down which attempt of which function has come here."""
    here = handoff.current()
    with open(Path(folder) / "marks", "a") as marks:  # a short line goes to the file at once and whole
        marks.write(f"{here.function_id} {here.attempt} {here.node} {' '.join(map(str, more))}\n")


def marks(folder):
    """(function id, attempt, node, ...) of all that came here, in order."""
    path = Path(folder) / "marks"
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


def entered(folder, *names):
    """How many attempts have entered these functions."""
    return sum(name in names for name, *_ in marks(folder))


def attempt(folder, value=None, *inputs):
    """Leave a mark."""
    mark(folder)
    return value


def wait_for(folder, name, value=None, *inputs):
    """Leave a mark, and wait until there is a file of this name."""
    mark(folder)
    deadline = time.monotonic() + 60
    while not (Path(folder) / name).exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def wait_first(folder, name, value):
    """Wait in the first attempt only."""
    return wait_for(folder, name, value) if handoff.current().attempt == 1 else attempt(folder, value)


def take_down(folder):
    """Take the whole node down."""
    mark(folder)
    os._exit(1)


def finish_once(folder):
    """Finish in the first attempt, and take the node down in all others; the process."""
    mark(folder, os.getpid())
    if handoff.current().attempt > 1:
        os._exit(1)
    return os.getpid()


class Sealed:
    """A value that writes down the process in which it is unpickled."""

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
    """The processes in which such values were unpickled."""
    return {int(pid) for pid in (Path(folder) / "unsealed").read_text().split()}

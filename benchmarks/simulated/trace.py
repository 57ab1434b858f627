"""The trace of a seed: a line per event, with its virtual time."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from simulated.clock import CLOCK

#: The machine on which the current code runs. Tasks and callbacks inherit it from the code that started them.
MACHINE: ContextVar[str] = ContextVar("machine", default="nowhere")


@contextmanager
def on_machine(machine: str) -> Iterator[None]:
    """Run code on a machine, and everything that the code starts."""
    token = MACHINE.set(machine)
    try:
        yield
    finally:
        with suppress(ValueError):  # the coroutine is being discarded in another context
            MACHINE.reset(token)


class Trace:
    """The lines of a trace, their digest, and the violations found.

    Parameters
    ----------
    keep : int or None
        Number of latest lines to keep; None keeps all.
    """

    def __init__(self, keep: int | None = 400) -> None:
        self.lines: deque[str] = deque(maxlen=keep)
        self.violations: list[str] = []
        self.ended = False  # later events belong to the teardown, whose order is arbitrary
        self._digest = hashlib.sha256()

    def note(self, *words: Any) -> None:
        """Record an event on the machine of the caller."""
        if self.ended:
            return
        line = f"{CLOCK.now:12.6f} {MACHINE.get():<9} {' '.join(map(str, words))}"
        self.lines.append(line)
        self._digest.update(line.encode())

    def report(self, text: str) -> None:
        """Record a violation."""
        if text not in self.violations:
            self.violations.append(text)
            self.note("VIOLATION:", text)

    @property
    def digest(self) -> str:
        """Digest of all lines so far, equal in all replays of a seed."""
        return self._digest.hexdigest()[:16]

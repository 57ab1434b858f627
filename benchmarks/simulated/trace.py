"""What happened in a seed, line by line, with virtual times."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from simulated.clock import CLOCK

#: The machine on which the code that asks runs. Tasks and callbacks inherit it from what started them.
MACHINE: ContextVar[str] = ContextVar("machine", default="nowhere")


@contextmanager
def on(machine: str) -> Iterator[None]:
    """Start things on a machine."""
    token = MACHINE.set(machine)
    try:
        yield
    finally:
        with suppress(ValueError):  # what was started is being thrown away, in another context
            MACHINE.reset(token)


class Trace:
    """Lines, their digest, and what was found to be wrong.

    Parameters
    ----------
    keep : int or None
        Lines to remember, the latest; None: all of them.
    """

    def __init__(self, keep: int | None = 400) -> None:
        self.lines: deque[str] = deque(maxlen=keep)
        self.complaints: list[str] = []
        self.ended = False  # what follows is thrown away, in any order
        self._digest = hashlib.sha256()

    def note(self, *words: Any) -> None:
        """Something happened on the machine where the caller runs."""
        if self.ended:
            return
        line = f"{CLOCK.now:12.6f} {MACHINE.get():<9} {' '.join(map(str, words))}"
        self.lines.append(line)
        self._digest.update(line.encode())

    def complain(self, text: str) -> None:
        """Something is wrong."""
        if text not in self.complaints:
            self.complaints.append(text)
            self.note("WRONG:", text)

    @property
    def digest(self) -> str:
        """Of all lines so far: two runs of a seed have the same."""
        return self._digest.hexdigest()[:16]

"""How far a run is, in a line of text."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

#: Seconds between two looks at a run.
INTERVAL = 0.25


class ProgressLine:
    """One line that is overwritten, on a terminal; elsewhere a line whenever another tenth is done.

    Parameters
    ----------
    total : int
        Functions of the run.
    stream : TextIO, optional
        Where to write; standard error by default.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self.total = total
        self.stream = sys.stderr if stream is None else stream
        self._overwrite = self.stream.isatty()
        self._tenth = -1

    def update(self, counts: Mapping[str, int], elapsed: float) -> None:
        """Show the number of functions in each state, after ``elapsed`` seconds."""
        finished = counts.get("finished", 0)
        others = (
            f"{n:,d} {state}" for state, n in counts.items() if n and state not in ("finished", "waiting")
        )
        text = ", ".join((f"{finished:,d} of {self.total:,d} finished", *others, f"{elapsed:.1f} s"))
        if self._overwrite:
            self.stream.write(f"\r\x1b[K{text}")
        elif (tenth := 10 * finished // max(1, self.total)) > self._tenth:
            self._tenth = tenth
            self.stream.write(f"{text}\n")
        self.stream.flush()

    def close(self) -> None:
        """Leave the last line as it is."""
        if self._overwrite:
            self.stream.write("\n")
            self.stream.flush()

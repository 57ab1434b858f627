"""What the benchmark scripts share: tables, the line about the machine, what else it does, checkouts."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dask
import distributed

import handoff_dask as handoff

#: The root of the checkout that this script is in.
CHECKOUT = Path(__file__).resolve().parents[1]


def quiet() -> None:
    """Leave the log of Dask to errors: clusters that come and go say much about closed connections."""
    logging.getLogger("distributed").setLevel(logging.ERROR)


def machine_line() -> str:
    """Versions and machine: without them a figure means nothing."""
    return (
        f"Python {platform.python_version()}, dask {dask.__version__}, distributed {distributed.__version__},"
        f" handoff_dask {handoff.__version__}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )


def in_checkout(checkout: Path, script: Path, arguments: Sequence[str], timeout: float) -> Any:
    """Run a script in a process of its own with the package of a checkout.

    Returns
    -------
    The JSON that it prints; None when it takes more than ``timeout`` seconds.
    """
    package = checkout / "handoff_dask"
    if not package.is_dir():
        raise FileNotFoundError(f"{checkout} is no checkout: it has no handoff_dask")
    # Neither where it is started nor an installed package decides which one is imported.
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "PYTHONHASHSEED": "0"}
    command = [sys.executable, str(script), *arguments]
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=timeout, check=True
        )
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout.splitlines()[-1])


class Table:
    """A table that is printed row by row, so that a long benchmark can be watched.

    Parameters
    ----------
    headings : sequence of str
    widths : sequence of int
        Of the columns; a negative width aligns to the left.
    markdown : bool
        For the documentation, instead of plain columns.
    """

    def __init__(self, headings: Sequence[str], widths: Sequence[int], markdown: bool = False) -> None:
        self._widths = [
            max(width, len(heading)) if width > 0 else min(width, -len(heading))
            for width, heading in zip(widths, headings, strict=True)
        ]
        self._markdown = markdown
        self.row(*headings)
        if markdown:
            print("|" + "|".join("---" if w < 0 else "---:" for w in self._widths) + "|", flush=True)

    def row(self, *cells: str) -> None:
        """Print one row."""
        if self._markdown:
            print("| " + " | ".join(cell.strip() for cell in cells) + " |", flush=True)
            return
        padded = (
            cell.ljust(-width) if width < 0 else cell.rjust(width)
            for cell, width in zip(cells, self._widths, strict=True)
        )
        print("  ".join(padded).rstrip(), flush=True)


class Others:
    """How many cores other processes used meanwhile: ``with Others() as others: ...; others.cores``.

    It is known on Linux only; elsewhere ``cores`` is None.
    """

    cores: float | None = None

    def __enter__(self) -> Others:
        self._start = time.perf_counter(), self._busy()
        return self

    def __exit__(self, *exception: object) -> None:
        start, busy = self._start
        now = self._busy()
        if busy is not None and now is not None:
            self.cores = max(0.0, now - busy) / max(1e-9, time.perf_counter() - start)

    @staticmethod
    def _busy() -> float | None:
        """CPU seconds that the machine has spent on anything but this process."""
        try:
            with open("/proc/stat") as lines:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(
                    int, lines.readline().split()[1:9]
                )
        except (OSError, ValueError):
            return None
        ticks = user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))

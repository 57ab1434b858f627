"""Helpers shared by the benchmark scripts: tables, machine description, background load, checkouts."""

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

#: Root of the checkout that contains this script.
CHECKOUT = Path(__file__).resolve().parents[1]


def silence_dask_logs() -> None:
    """Log only errors of Dask: clusters that start and stop log many closed connections."""
    logging.getLogger("distributed").setLevel(logging.ERROR)


def machine_line() -> str:
    """Return the versions and the machine, without which a figure is meaningless."""
    return (
        f"Python {platform.python_version()}, dask {dask.__version__}, distributed {distributed.__version__},"
        f" handoff_dask {handoff.__version__}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )


def run_in_checkout(checkout: Path, script: Path, arguments: Sequence[str], timeout: float) -> Any:
    """Run a script in a separate process that imports the package of a checkout.

    Returns
    -------
    The JSON in the last line that the script prints; None if it takes more than ``timeout`` seconds.

    Raises
    ------
    FileNotFoundError
        The folder is not a checkout.
    subprocess.CalledProcessError
        The script failed.
    """
    package = checkout / "handoff_dask"
    if not package.is_dir():
        raise FileNotFoundError(f"{checkout} is not a checkout: it has no folder handoff_dask")
    # PYTHONPATH takes precedence over an installed package and the working directory.
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
    """A table printed row by row, which shows the progress of a long benchmark.

    Parameters
    ----------
    headings : sequence of str
    widths : sequence of int
        Minimum width of each column in characters. Negative widths align left.
    markdown : bool
        Print Markdown for the documentation instead of plain columns.
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


class BackgroundLoad:
    """Mean number of cores that other processes used: ``with BackgroundLoad() as load: ...; load.cores``.

    Known only on Linux; elsewhere ``cores`` is None.
    """

    cores: float | None = None

    def __enter__(self) -> BackgroundLoad:
        self._start = time.perf_counter(), self._busy()
        return self

    def __exit__(self, *exception: object) -> None:
        start, busy = self._start
        now = self._busy()
        if busy is not None and now is not None:
            self.cores = max(0.0, now - busy) / max(1e-9, time.perf_counter() - start)

    @staticmethod
    def _busy() -> float | None:
        """Return the CPU seconds that the machine has spent on other processes, or None if unknown."""
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

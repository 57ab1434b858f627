"""What functions asked for and what they used, over the runs of a history."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from json import loads
from typing import Any, overload

from handoff_dask._model.hooks import module_for
from handoff_dask._model.resources import CPU
from handoff_dask._model.used import quantile, sufficient_cores, sufficient_memory

#: Finished attempts, and those that failed while they ran: what they used counts, too.
_ATTEMPTS = """
    SELECT f.code, coalesce(a.cost, f.cost), a.started, a.stopped, a.cpu_seconds, a.peak_memory, a.peak_exact
    FROM attempts AS a JOIN functions AS f ON f.run_id = a.run_id AND f.number = a.function
    WHERE a.outcome IN ('finished', 'failed') AND NOT a.loaded
    ORDER BY f.code
"""


@dataclass(frozen=True, slots=True)
class CodeUsage:
    """What the attempts of one code asked for and used of one resource.

    Attributes
    ----------
    code : str
        Name of the code.
    resource : str
        ``"memory"`` (MB) or ``"cpu"`` (cores).
    count : int
        Number of measured attempts.
    asked : float or None
        Median of what they asked for; None if none asked for the resource.
    used_median, used_p95, used_max : float
        Median, 95th percentile and maximum of what they used: peak memory in MB, or mean number of cores.
    exact : bool
        Whether all of these measurements are exact.
    wasted : float or None
        Fraction of what they asked for that they did not use, weighted by their durations.
    exceeded : int
        Number of attempts that used more than they asked for.
    suggested : float
        The cost that would have sufficed for all of them: a tenth more memory than the most that was used, or
        enough whole cores for 95 % of them.
    """

    code: str
    resource: str
    count: int
    asked: float | None
    used_median: float
    used_p95: float
    used_max: float
    exact: bool
    wasted: float | None
    exceeded: int
    suggested: float


class Usage(Sequence[CodeUsage]):
    """What functions asked for and used, by code: a sequence of :class:`CodeUsage`, ordered by code."""

    def __init__(self, rows: Iterable[CodeUsage]) -> None:
        self._rows = tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> CodeUsage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[CodeUsage]: ...
    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __iter__(self) -> Iterator[CodeUsage]:
        return iter(self._rows)

    def __repr__(self) -> str:
        text: str = module_for("usage_table").text(self)
        return text

    def _repr_html_(self) -> str:
        text: str = module_for("usage_table").html(self)
        return text

    def to_pandas(self) -> Any:
        """Return a table with a row per code, and a column for each field of :class:`CodeUsage`.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("usage.to_pandas() needs pandas: pip install pandas") from error
        return pd.DataFrame([asdict(row) for row in self._rows], columns=list(CodeUsage.__dataclass_fields__))

    def plot(self) -> Any:
        """Draw a bar per code: what was used, from the median to the most, and what was asked.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            Matplotlib is not installed.
        """
        return module_for("usage_plot").draw(self)


def read_usage(connection: sqlite3.Connection, resource: str) -> Usage:
    """Return the use of a resource by code, from the attempts in a history."""
    by_code: dict[str, list[_Attempt]] = {}
    for code, cost, started, stopped, cpu_seconds, peak, exact in connection.execute(_ATTEMPTS):
        seconds = 0.0 if started is None or stopped is None else stopped - started
        used = peak
        if resource == CPU:
            used, exact = None if cpu_seconds is None or seconds <= 0 else cpu_seconds / seconds, True
        if used is not None:
            asked = loads(cost).get(resource)
            asked = None if isinstance(asked, str) else asked  # it was to be estimated, in a local run
            by_code.setdefault(code, []).append(_Attempt(asked, used, seconds, bool(exact)))
    return Usage(_row(code, resource, attempts) for code, attempts in by_code.items())


@dataclass(frozen=True, slots=True)
class _Attempt:
    asked: float | None
    used: float
    seconds: float
    exact: bool


def _row(code: str, resource: str, attempts: Sequence[_Attempt]) -> CodeUsage:
    used = sorted(a.used for a in attempts)
    p95 = quantile(used, 0.95)
    asked = [a for a in attempts if a.asked]
    total = math.fsum((a.asked or 0.0) * a.seconds for a in asked)
    unused = math.fsum(max(0.0, (a.asked or 0.0) - a.used) * a.seconds for a in asked)
    return CodeUsage(
        code=code,
        resource=resource,
        count=len(used),
        asked=quantile(sorted(a.asked or 0.0 for a in asked), 0.5) if asked else None,
        used_median=quantile(used, 0.5),
        used_p95=p95,
        used_max=used[-1],
        exact=all(a.exact for a in attempts),
        wasted=unused / total if total else None,
        exceeded=sum(a.used > (a.asked or 0.0) for a in asked),
        suggested=sufficient_cores(used) or 1.0 if resource == CPU else sufficient_memory(used[-1]),
    )

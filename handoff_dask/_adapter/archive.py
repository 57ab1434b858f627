"""Runs that the scheduler has forgotten, as far back as an administrator lets it remember."""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple

from handoff_dask._model.records import Summary
from handoff_dask._model.runinfo import RunInfo
from handoff_dask._scheduling.functions import NAMES
from handoff_dask._scheduling.runs import Run, RunStatus

#: Shortfalls of a run that are put into words: there may be as many as it has functions.
SHORTFALLS = 50

#: Attempts that came to nothing whose functions are remembered: those of which a page shows every attempt.
TROUBLES = 100


class KeptFunctions:
    """What is kept of the functions of a run, column by column: an object for each would take long to make.

    Parameters
    ----------
    run : Run
        None of its functions is running.

    Attributes
    ----------
    ids : sequence
        As the scheduler sees them.
    asked : list of dict
        The costs there are, as given.
    kind_of : sequence of int
        Function number → index into ``asked``.
    troubled : tuple of int
        As :func:`troubled`.
    """

    __slots__ = ("_attempts", "_nbytes", "_states", "asked", "ids", "kind_of", "troubled")

    def __init__(self, run: Run) -> None:
        self.ids = run.spec.ids
        self.asked = asked_of(run)
        self.kind_of = run.spec.kind_of
        self.troubled = troubled(run)
        self._states = [f.state for f in run.functions]
        self._attempts = [f.attempts for f in run.functions]
        self._nbytes = [f.nbytes for f in run.functions]

    def __len__(self) -> int:
        return len(self.ids)

    def summaries(self, start: int, end: int) -> list[Summary]:
        """What is known of the functions with these numbers."""
        columns = (self._states[start:end], self._attempts[start:end], self._nbytes[start:end])
        return [Summary(NAMES[state], attempts, size) for state, attempts, size in zip(*columns, strict=True)]


def troubled(run: Run) -> tuple[int, ...]:
    """Numbers of the functions of which an attempt failed or was lost, the last few of them."""
    return tuple({f.number for f, _ in run.failed_attempts[-TROUBLES:]})


def asked_of(run: Run) -> list[dict[str, float]]:
    """The cost of each kind of function of a run, as given."""
    return [dict(kind.asked) for kind in run.spec.kinds]


class ArchivedRun(NamedTuple):
    """A run that has ended and that no client has a handle of.

    Attributes
    ----------
    ended : float
        Seconds since the epoch.
    sequence : int
        Number of the run: later ones were submitted later.
    info : RunInfo
    functions : KeptFunctions or None
        None when there are more of them than the archive may hold.
    """

    ended: float
    sequence: int
    info: RunInfo
    functions: KeptFunctions | None


class Archive:
    """The runs that ended last.

    Parameters
    ----------
    most_runs : int
        How many to keep.
    most_functions : int
        How many functions they may have altogether. A run that alone has more is kept without them, so that
        it does not drive out all others.
    """

    def __init__(self, most_runs: int, most_functions: int) -> None:
        self.most_runs = most_runs
        self.most_functions = most_functions
        self._runs: list[ArchivedRun] = []  # the one that ended first comes first
        self._kept = 0  # functions

    def add(self, info: RunInfo, run: Run) -> None:
        """Keep a run of which nothing is running any more; those that ended first go until all fit."""
        assert info.ended is not None
        if self.most_runs <= 0:
            return
        functions = KeptFunctions(run) if len(run.functions) <= self.most_functions else None
        insort(self._runs, ArchivedRun(info.ended, run.sequence, info, functions), key=lambda kept: kept[:2])
        self._kept += len(functions or ())
        while self._runs and (len(self._runs) > self.most_runs or self._kept > self.most_functions):
            self._kept -= len(self._runs.pop(0).functions or ())

    def find(self, run_id: str) -> ArchivedRun | None:
        """The run of this id, None when there is none any more."""
        return next((run for run in self._runs if run.info.id == run_id), None)

    @property
    def runs(self) -> list[ArchivedRun]:
        """All there are; the one that ended first comes first."""
        return list(self._runs)


def error_of(run: Run, broken: str | None) -> str | None:
    """Why a run did not finish, in words; None if it did, or was cancelled by somebody."""
    if broken is not None:
        return f"handoff_dask failed on the scheduler: {broken}"
    if run.fault is not None:
        return f"its allocator failed: {run.fault}"
    if run.status is not RunStatus.FAILED:
        return None
    if run.shortfalls:
        texts = list(dict.fromkeys(map(str, run.shortfalls[:SHORTFALLS])))
        if len(run.shortfalls) > SHORTFALLS:
            texts.append(f"and {len(run.shortfalls) - SHORTFALLS:,d} more")
        return "it cannot be placed: " + "; ".join(texts)
    if run.failed:
        f = run.failed[0]
        return f"function {f.id!r} failed: {f.attempts[-1].error if f.attempts else 'it fits on no node'}"
    return None

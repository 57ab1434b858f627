"""Archive of ended runs: kept after the scheduler has forgotten them, and bounded by the configuration."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from typing import NamedTuple

from handoff_dask._adapter.usage_by_code import UsageByCode
from handoff_dask._model.records import Attempt, Summary
from handoff_dask._model.runinfo import FUTURES_RELEASED, RunInfo
from handoff_dask._scheduling.functions import NAMES, State
from handoff_dask._scheduling.runs import Changes, Run, RunStatus

#: Maximum number of shortfalls in a run's error text: a run may have one for each of its functions.
SHORTFALLS = 50

#: Number of the last failed or lost attempts whose functions the dashboard's timeline always shows.
FAILED_ATTEMPTS = 100


class ArchivedFunctions:
    """The functions of an archived run, stored in columns: building an object for each would take too long.

    Parameters
    ----------
    run : Run
        A run of which no function is running.

    Attributes
    ----------
    ids : sequence
        Function ids, as the scheduler sees them.
    costs : list of dict
        The cost of each kind of function, as declared.
    kind_of : sequence of int
        Function number → index into ``costs``.
    codes : list of str
        The code of each kind of function.
    with_failures : tuple of int
        The result of :func:`functions_with_failures`.
    code_counts : dict or None
        Code → state → number of functions, once it has been counted.
    usage : UsageByCode or None
        What the attempts asked for and used, as far as anybody has asked.
    """

    __slots__ = (
        "_attempts",
        "_nbytes",
        "_states",
        "code_counts",
        "codes",
        "costs",
        "ids",
        "kind_of",
        "usage",
        "with_failures",
    )

    def __init__(self, run: Run) -> None:
        self.ids = run.spec.ids
        self.costs = declared_costs(run)
        self.kind_of = run.spec.kind_of
        self.codes = [kind.code for kind in run.spec.kinds]
        self.code_counts: dict[str, Counter[State]] | None = None
        self.usage: UsageByCode | None = None
        self.with_failures = functions_with_failures(run)
        self._states = [f.state for f in run.functions]
        self._attempts = [f.attempts for f in run.functions]
        self._nbytes = [f.nbytes for f in run.functions]

    def __len__(self) -> int:
        return len(self.ids)

    def states(self, step: int) -> list[State]:
        """Return the states of the functions numbered 0, ``step``, 2 ``step``, ..."""
        return self._states[::step]

    def changes(self, cursor: tuple[int, int] | None, most: int) -> Changes:
        """Return the functions that have changed, like :meth:`Run.changes`: each function once."""
        start = 0 if cursor is None else cursor[0]
        end = min(start + most, len(self))
        return Changes(list(range(start, end)), (end, 0), end < len(self))

    def attempts_of(self, number: int) -> tuple[Attempt, ...]:
        """Return the attempts of a function."""
        return self._attempts[number]

    def summaries(self, start: int, end: int) -> list[Summary]:
        """Return the summaries of the functions numbered from ``start`` up to, but not including, ``end``."""
        columns = (self._states[start:end], self._attempts[start:end], self._nbytes[start:end])
        return [Summary(NAMES[state], attempts, size) for state, attempts, size in zip(*columns, strict=True)]


def functions_with_failures(run: Run) -> tuple[int, ...]:
    """Return the numbers of the functions behind the last few failed or lost attempts of a run."""
    return tuple({f.number for f, _ in run.failed_attempts[-FAILED_ATTEMPTS:]})


def declared_costs(run: Run) -> list[dict[str, float]]:
    """Return the cost of each kind of function in a run, as declared."""
    return [dict(kind.asked) for kind in run.spec.kinds]


class ArchivedRun(NamedTuple):
    """An ended run to which no client holds a handle.

    Attributes
    ----------
    ended : float
        Seconds since the epoch.
    sequence : int
        Number of the run, in order of submission.
    info : RunInfo
    functions : ArchivedFunctions or None
        None if the run has more functions than the archive may hold.
    """

    ended: float
    sequence: int
    info: RunInfo
    functions: ArchivedFunctions | None


class Archive:
    """The most recently ended runs.

    Parameters
    ----------
    max_runs : int
        Number of runs to keep.
    max_functions : int
        Number of functions to keep for all runs together. A run that alone exceeds this number is kept
        without its functions, so that it does not evict all other runs.
    """

    def __init__(self, max_runs: int, max_functions: int) -> None:
        self.max_runs = max_runs
        self.max_functions = max_functions
        self._runs: list[ArchivedRun] = []  # in the order in which they ended
        self._function_count = 0

    def add(self, info: RunInfo, run: Run) -> None:
        """Add a run of which no function is running, and evict the runs that ended first until all fit."""
        assert info.ended is not None
        if self.max_runs <= 0:
            return
        functions = ArchivedFunctions(run) if len(run.functions) <= self.max_functions else None
        insort(self._runs, ArchivedRun(info.ended, run.sequence, info, functions), key=lambda kept: kept[:2])
        self._function_count += len(functions or ())
        while self._runs and (len(self._runs) > self.max_runs or self._function_count > self.max_functions):
            self._function_count -= len(self._runs.pop(0).functions or ())

    def find(self, run_id: str) -> ArchivedRun | None:
        """Return the run with this id, or None if it is not in the archive."""
        return next((run for run in self._runs if run.info.id == run_id), None)

    @property
    def runs(self) -> list[ArchivedRun]:
        """All archived runs, in the order in which they ended."""
        return list(self._runs)


def error_of(run: Run, broken: str | None, cancelled: str | None = None) -> str | None:
    """Describe why a run failed or was cancelled; None if it finished or is still running.

    Parameters
    ----------
    run : Run
    broken : str or None
        The plugin's own error that ended the run, if any.
    cancelled : str, optional
        Why the run was cancelled. If not given, it was cancelled because functions that it needs were
        released.
    """
    if broken is not None:
        return f"handoff_dask failed on the scheduler: {broken}"
    if run.fault is not None:
        return f"its allocator failed: {run.fault}"
    if run.status is RunStatus.CANCELLED:
        return cancelled or FUTURES_RELEASED
    if run.status is not RunStatus.FAILED:
        return None
    if run.shortfalls:
        texts = list(dict.fromkeys(map(str, run.shortfalls[:SHORTFALLS])))
        if len(run.shortfalls) > SHORTFALLS:
            texts.append(f"and {len(run.shortfalls) - SHORTFALLS:,d} more")
        started = any(s.waited is not None for s in run.shortfalls)
        return f"it cannot {'go on' if started else 'be placed'}: " + "; ".join(texts)
    if run.failed:
        f = run.failed[0]
        return f"function {f.id!r} failed: {f.attempts[-1].error if f.attempts else 'it fits on no node'}"
    return None

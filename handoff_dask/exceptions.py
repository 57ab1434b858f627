"""Every error that handoff_dask raises.

Two families: :class:`InvalidDAGError` for what a person wrote (found before anything runs) and
:class:`RunError` for what happened while running. All carry their facts as fields and survive pickling
with them, since errors cross processes on a Dask cluster.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handoff_dask._model.records import Attempt, Shortfall

__all__ = [
    "AllocationError",
    "AllocatorError",
    "CheckpointError",
    "ClusterNotReadyError",
    "CyclicDependencyError",
    "DuplicateFunctionError",
    "FunctionCrashedError",
    "FunctionFailedError",
    "FunctionTimeoutError",
    "HandoffError",
    "HistoryError",
    "InvalidCollocationError",
    "InvalidCostError",
    "InvalidDAGError",
    "InvalidFunctionError",
    "MissingFunctionError",
    "NodeNotFoundError",
    "RunCancelledError",
    "RunEndedError",
    "RunError",
    "RunNotFoundError",
    "RunTimeoutError",
    "SerializationError",
]

_SHOWN = 10  # problems, attempts or shortfalls written out before "and N more"


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls(*args)
    for name, value in state.items():
        setattr(error, name, value)
    return error


def _survives_pickling(error: BaseException) -> bool:
    # Many exceptions pickle but cannot be rebuilt, which would take the receiving process by surprise.
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _listed(lines: Iterable[str], total: int) -> str:
    shown = list(lines)
    if total > len(shown):
        shown.append(f"... and {total - len(shown)} more")
    return "\n".join(f"  - {line}" for line in shown)


class HandoffError(Exception):
    """Base of every error of this package."""

    def __reduce__(self) -> Any:
        # The default drops __cause__, which is where the original exception of a failed function is.
        state: dict[str, Any] = {}
        if self.__cause__ is not None and _survives_pickling(self.__cause__):
            state["__cause__"] = self.__cause__
        if notes := getattr(self, "__notes__", None):
            state["__notes__"] = list(notes)
        return _rebuild, (type(self), self.args, state)


class InvalidDAGError(HandoffError, ValueError):
    """A DAG that cannot run as written. Nothing of it has been run.

    Attributes
    ----------
    dag_id : hashable
        The DAG's id.
    problems : tuple of str
        Every problem found, in the order of the checks. The exception's type is that of the first.
    """

    def __init__(self, dag_id: Any, problems: Sequence[str]) -> None:
        super().__init__(dag_id, tuple(problems))
        self.dag_id = dag_id
        self.problems: tuple[str, ...] = tuple(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"DAG {self.dag_id!r}: {self.problems[0]}"
        listed = _listed(self.problems[:_SHOWN], len(self.problems))
        return f"DAG {self.dag_id!r} has {len(self.problems)} problems:\n{listed}"


class _DetailedDAGError(InvalidDAGError):
    """An invalid DAG with one more field, ``detail``, named by the subclass."""

    def __init__(self, dag_id: Any, problems: Sequence[str], detail: Sequence[Any] = ()) -> None:
        super().__init__(dag_id, problems)
        self.args = (dag_id, tuple(problems), tuple(detail))
        self._detail = tuple(detail)


class MissingFunctionError(_DetailedDAGError):
    """Functions depend on functions that are not in the DAG."""

    @property
    def missing(self) -> tuple[tuple[Any, Any], ...]:
        """All pairs ``(dependent id, missing id)``."""
        return self._detail


class CyclicDependencyError(_DetailedDAGError):
    """Functions depend on each other in a circle."""

    @property
    def cycle(self) -> tuple[Any, ...]:
        """The ids of one whole cycle, each once, every function before the one that needs its result."""
        return self._detail


class InvalidFunctionError(_DetailedDAGError):
    """A function's definition cannot be run."""

    @property
    def function_ids(self) -> tuple[Any, ...]:
        """Ids of the functions that have problems of this kind."""
        return self._detail


class InvalidCostError(InvalidFunctionError):
    """A cost is not a mapping from resource names to non-negative finite numbers."""


class InvalidCollocationError(InvalidFunctionError):
    """A function is to be collocated with one that is unknown, is itself, or has no node."""


class SerializationError(InvalidFunctionError):
    """A function's code or arguments cannot be pickled, so they cannot reach a node."""


class DuplicateFunctionError(_DetailedDAGError):
    """A function was added under an id that the DAG already has."""

    @property
    def function_ids(self) -> tuple[Any, ...]:
        """The id that was there already."""
        return self._detail


class ClusterNotReadyError(HandoffError, RuntimeError):
    """The cluster cannot run handoff DAGs as it is set up; the message says what to change."""


class NodeNotFoundError(HandoffError, LookupError):
    """No node of the cluster has this name.

    Attributes
    ----------
    name : hashable
        The name that was asked for.
    known : tuple
        The names of the nodes there are.
    """

    def __init__(self, name: Any, known: Sequence[Any]) -> None:
        super().__init__(name, tuple(known))
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        known = ", ".join(repr(n) for n in self.known) or "none"
        return f"no node is named {self.name!r}; the nodes are: {known}"


class CheckpointError(HandoffError):
    """Checkpoints cannot be written or read.

    Before anything runs it is raised as it is; from a node it is the failure of a function, so the
    ``__cause__`` of a :class:`FunctionFailedError`.

    Attributes
    ----------
    url : str
        The directory, or the file.
    function_id : hashable
        The function whose result could not be written; None when it is not about a certain one.
    reason : str
        What happened.
    """

    def __init__(self, url: str, function_id: Any, reason: str) -> None:
        super().__init__(url, function_id, reason)
        self.url = url
        self.function_id = function_id
        self.reason = reason

    def __str__(self) -> str:
        of = "" if self.function_id is None else f" of function {self.function_id!r}"
        return f"checkpoint{of} in {self.url}: {self.reason}"


class FunctionTimeoutError(HandoffError, TimeoutError):
    """An attempt took longer than its function's ``timeout`` and was ended. Retried as any exception is.

    Attributes
    ----------
    timeout : float
        Seconds that were allowed.
    """

    def __init__(self, timeout: float) -> None:
        Exception.__init__(self, timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return f"it ran longer than its timeout of {self.timeout:g} s and was ended"

    def __repr__(self) -> str:
        return f"FunctionTimeoutError({str(self)!r})"  # what attempts show


class FunctionCrashedError(HandoffError, RuntimeError):
    """The process in which a function with a ``timeout`` ran ended by itself. Retried as any exception is.

    Attributes
    ----------
    status : int
        Its exit status; negative: the number of the signal that ended it.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        how = f"with exit status {self.status}"
        if self.status < 0:
            try:
                how = f"on signal {-self.status} ({signal.Signals(-self.status).name})"
            except ValueError:
                how = f"on signal {-self.status}"
            if self.status == -9:
                how += ": out of memory, perhaps"
        return f"the process it ran in ended {how}"

    def __repr__(self) -> str:
        return f"FunctionCrashedError({str(self)!r})"  # what attempts show


class RunNotFoundError(HandoffError, LookupError):
    """No run of this id is known: on the scheduler, or in a history.

    Attributes
    ----------
    run_id : str
        The id that was asked for.
    known : tuple of str
        The ids of the runs there are, the newest first.
    """

    def __init__(self, run_id: Any, known: Sequence[Any]) -> None:
        super().__init__(run_id, tuple(known))
        self.run_id = run_id
        self.known = tuple(known)

    def __str__(self) -> str:
        shown = [repr(id) for id in self.known[:_SHOWN]]
        if len(self.known) > _SHOWN:
            shown.append(f"and {len(self.known) - _SHOWN} more")
        return f"no run {self.run_id!r} is known; the runs are: {', '.join(shown) or 'none'}"


class HistoryError(HandoffError):
    """A file cannot be used as a :class:`History`.

    Attributes
    ----------
    path : str
        The file.
    reason : str
        Why not.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"history {self.path!r}: {self.reason}"


class RunError(HandoffError):
    """A run ended without a result.

    Attributes
    ----------
    dag_id : hashable
        Id of the DAG.
    run_id : str
        Id of the run.
    run : Run or None
        The run itself: its finished results, records and allocations. None after unpickling elsewhere.
    """

    def __init__(self, dag_id: Any, run_id: str, *facts: Any) -> None:
        # Not super(): a TimeoutError is an OSError, which takes such arguments for errno and file names.
        Exception.__init__(self, dag_id, run_id, *facts)
        self.dag_id = dag_id
        self.run_id = run_id
        self.run: Any = None


class FunctionFailedError(RunError):
    """A function failed for good. The original exception is ``__cause__``.

    With ``fail_fast=False`` several may fail: this is the first, and tells of the others.

    Attributes
    ----------
    function_id : hashable
        Id of the function.
    attempts : tuple of Attempt
        Every attempt: number, node, times, outcome, error and traceback text.
    others : tuple of FunctionFailedError
        The same of all others that failed for good, in the order in which they did.
    reason : str or None
        Why its result could not be fetched, where it has one: none of its attempts failed then.
    """

    def __init__(
        self,
        dag_id: Any,
        run_id: str,
        function_id: Any,
        attempts: Sequence[Attempt],
        others: Sequence[FunctionFailedError] = (),
        reason: str | None = None,
    ) -> None:
        super().__init__(dag_id, run_id, function_id, tuple(attempts), tuple(others), reason)
        self.function_id = function_id
        self.reason = reason
        self.attempts: tuple[Attempt, ...] = tuple(attempts)
        self.others: tuple[FunctionFailedError, ...] = tuple(others)

    @property
    def failures(self) -> tuple[FunctionFailedError, ...]:
        """All functions that failed for good, which are those of this error and of ``others``."""
        return (self, *self.others)

    def __str__(self) -> str:
        if self.others:
            some = (failure._line() for failure in self.failures[:_SHOWN])
            count = 1 + len(self.others)
            return f"{count} functions of DAG {self.dag_id!r} failed:\n{_listed(some, count)}"
        n = len(self.attempts)
        head = (
            f"function {self.function_id!r} of DAG {self.dag_id!r} failed"
            f" after {n} attempt{'s' if n != 1 else ''}"
        )
        if self.reason is not None:
            head = (
                f"the result of function {self.function_id!r} of DAG {self.dag_id!r} could not be fetched:"
                f" {self.reason}. Its attempts"
            )
        lines = (f"attempt {a.number} on {a.node!r}: {a.error or a.outcome}" for a in self.attempts[-_SHOWN:])
        return f"{head}:\n{_listed(lines, n)}" if n else head

    def _line(self) -> str:
        if not self.attempts:
            return f"function {self.function_id!r}: {self.__cause__!r}"
        n, last = len(self.attempts), self.attempts[-1]
        times = f"{n} attempts, the last" if n > 1 else "1 attempt,"
        return f"function {self.function_id!r} after {times} on {last.node!r}: {last.error or last.outcome}"


class AllocationError(RunError):
    """Functions ask for what no node can ever give them.

    Attributes
    ----------
    shortfalls : tuple of Shortfall
        One for each kind of cost that fits nowhere: function ids, what is asked, the nearest node and
        what it has.
    """

    def __init__(self, dag_id: Any, run_id: str, shortfalls: Sequence[Shortfall]) -> None:
        super().__init__(dag_id, run_id, tuple(shortfalls))
        self.shortfalls: tuple[Shortfall, ...] = tuple(shortfalls)

    def __str__(self) -> str:
        lines = (str(s) for s in self.shortfalls[:_SHOWN])
        return (
            f"DAG {self.dag_id!r} cannot be placed:\n{_listed(lines, len(self.shortfalls))}\n"
            "Lower the cost, add a node that has it (`dask worker --resources ...`), or pass"
            " wait_for_nodes=SECONDS when such a node is about to join."
        )


class AllocatorError(RunError):
    """The run's own allocator raised an exception, or proposed what cannot be done.

    Attributes
    ----------
    reason : str
        What it did.
    """

    def __init__(self, dag_id: Any, run_id: str, reason: str) -> None:
        super().__init__(dag_id, run_id, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the allocator of run {self.run_id} of DAG {self.dag_id!r} failed: {self.reason}"


class RunCancelledError(RunError):
    """The run was cancelled before it finished.

    Attributes
    ----------
    reason : str
        Who or what cancelled it.
    """

    def __init__(self, dag_id: Any, run_id: str, reason: str) -> None:
        super().__init__(dag_id, run_id, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"run {self.run_id} of DAG {self.dag_id!r} was cancelled: {self.reason}"


class RunEndedError(RunError):
    """A function will not run, since its run has ended: what a future says that somebody still waits for.

    Attributes
    ----------
    function_id : hashable
        Id of the function.
    status : str
        Status of the run.
    """

    def __init__(self, dag_id: Any, run_id: str, function_id: Any, status: str) -> None:
        super().__init__(dag_id, run_id, function_id, status)
        self.function_id = function_id
        self.status = status

    def __str__(self) -> str:
        ended = "was cancelled" if self.status == "cancelled" else f"has {self.status}"
        return (
            f"function {self.function_id!r} does not run any more: run {self.run_id} of DAG {self.dag_id!r}"
            f" {ended}. Submit the DAG again; with checkpoint= only what is missing runs."
        )


class RunTimeoutError(RunError, TimeoutError):
    """The run took longer than ``execute(timeout=...)`` allows and was ended.

    Attributes
    ----------
    timeout : float
        Seconds that were allowed.
    finished, total : int
        Functions that had finished, and how many there are.
    """

    def __init__(self, dag_id: Any, run_id: str, timeout: float, finished: int, total: int) -> None:
        super().__init__(dag_id, run_id, timeout, finished, total)
        self.timeout = timeout
        self.finished = finished
        self.total = total

    def __str__(self) -> str:
        return (
            f"run {self.run_id} of DAG {self.dag_id!r} was ended after {self.timeout:g} s with"
            f" {self.finished} of {self.total} functions finished"
        )

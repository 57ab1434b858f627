"""Every exception that handoff_dask raises.

There are two main families: :class:`InvalidDAGError` for mistakes in a DAG, found before anything runs, and
:class:`RunError` for failures of a run. Exceptions cross processes on a Dask cluster, so each keeps its facts
in fields that survive pickling.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from handoff_dask._error_texts import (
    MAX_LISTED,
    advise_modules,
    bullet_list,
    count,
    list_attempts,
    plural,
    same_error,
)
from handoff_dask._suggest import suggestion

if TYPE_CHECKING:
    from handoff_dask._model.records import Attempt, Shortfall

__all__ = [
    "AllocationError",
    "AllocatorError",
    "CheckpointError",
    "ClusterNotReadyError",
    "CostError",
    "CyclicDependencyError",
    "DuplicateFunctionError",
    "FunctionCrashedError",
    "FunctionFailedError",
    "FunctionMemoryError",
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


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls(*args)
    for name, value in state.items():
        setattr(error, name, value)
    return error


def _survives_pickling(error: BaseException) -> bool:
    # Many exceptions can be pickled but not unpickled, which would fail in the receiving process.
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


class HandoffError(Exception):
    """Base class of every exception of this package."""

    def __reduce__(self) -> Any:
        # The default drops __cause__, which holds the original exception of a failed function.
        state: dict[str, Any] = {}
        if self.__cause__ is not None and _survives_pickling(self.__cause__):
            state["__cause__"] = self.__cause__
        if notes := getattr(self, "__notes__", None):
            state["__notes__"] = list(notes)
        return _rebuild, (type(self), self.args, state)


class InvalidDAGError(HandoffError, ValueError):
    """A DAG is invalid. None of its functions has run.

    Attributes
    ----------
    dag_id : hashable
        Id of the DAG.
    problems : tuple of str
        Every problem found, in the order of the checks. The first one determines the exception's type.
    """

    def __init__(self, dag_id: Any, problems: Sequence[str]) -> None:
        super().__init__(dag_id, tuple(problems))
        self.dag_id = dag_id
        self.problems: tuple[str, ...] = tuple(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"DAG {self.dag_id!r}: {self.problems[0]}"
        listed = bullet_list(self.problems[:MAX_LISTED], len(self.problems))
        return f"DAG {self.dag_id!r} has {len(self.problems)} problems:\n{listed}"


class _DetailedDAGError(InvalidDAGError):
    """An invalid DAG with one additional field, ``detail``, which the subclass exposes under its own name."""

    def __init__(self, dag_id: Any, problems: Sequence[str], detail: Sequence[Any] = ()) -> None:
        super().__init__(dag_id, problems)
        self.args = (dag_id, tuple(problems), tuple(detail))
        self._detail = tuple(detail)


class MissingFunctionError(_DetailedDAGError):
    """A function depends on a function that is not in the DAG."""

    @property
    def missing(self) -> tuple[tuple[Any, Any], ...]:
        """Every missing dependency as a pair ``(dependent id, missing id)``."""
        return self._detail


class CyclicDependencyError(_DetailedDAGError):
    """Functions depend on each other in a cycle."""

    @property
    def cycle(self) -> tuple[Any, ...]:
        """Ids of one complete cycle, each id once, in the order of execution."""
        return self._detail


class InvalidFunctionError(_DetailedDAGError):
    """The definition of a function is invalid."""

    @property
    def function_ids(self) -> tuple[Any, ...]:
        """Ids of the functions with this kind of problem."""
        return self._detail


class InvalidCostError(InvalidFunctionError):
    """A cost is not a mapping of resource names to non-negative, finite numbers."""


class CostError(HandoffError, ValueError):
    """A cost that is computed when its function is ready could not be computed, or is no cost.

    The cause of a :class:`FunctionFailedError`.

    Attributes
    ----------
    function_id : hashable
        Id of the function.
    attempt : int
        Number of the attempt whose cost was computed, from 1.
    reason : str
        What is wrong.
    """

    def __init__(self, function_id: Any, attempt: int, reason: str) -> None:
        super().__init__(function_id, attempt, reason)
        self.function_id = function_id
        self.attempt = attempt
        self.reason = reason

    def __str__(self) -> str:
        return f"the cost of attempt {self.attempt} of function {self.function_id!r}: {self.reason}"


class InvalidCollocationError(InvalidFunctionError):
    """A function is collocated with itself, an unknown function, or a function that is never placed."""


class SerializationError(InvalidFunctionError):
    """Code, arguments, ids or options cannot be pickled for the cluster, or fingerprinted for checkpoints."""


class DuplicateFunctionError(_DetailedDAGError):
    """A function was added under an id that the DAG already contains."""

    @property
    def function_ids(self) -> tuple[Any, ...]:
        """The duplicate id."""
        return self._detail


class ClusterNotReadyError(HandoffError, RuntimeError):
    """The cluster is not set up to run handoff DAGs. The message says what to change."""


class NodeNotFoundError(HandoffError, LookupError):
    """The cluster has no node of this name.

    Attributes
    ----------
    name : hashable
        The requested name.
    known : tuple
        Names of the cluster's nodes.
    """

    def __init__(self, name: Any, known: Sequence[Any]) -> None:
        super().__init__(name, tuple(known))
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        known = (", ".join(repr(n) for n in self.known) or "none") + suggestion(self.name, self.known)
        return f"no node is named {self.name!r}; known nodes: {known}"


class CheckpointError(HandoffError):
    """A checkpoint cannot be written or read.

    Raised directly if the problem is found before anything runs. If it occurs on a node, the function fails
    and this exception is the ``__cause__`` of the :class:`FunctionFailedError`.

    Attributes
    ----------
    url : str
        The checkpoint directory or file.
    function_id : hashable
        Id of the function whose result could not be written; None if no single function is concerned.
    reason : str
        Why the checkpoint cannot be written or read.
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
    """An attempt exceeded its function's ``timeout`` and was terminated. Retried like any other exception.

    Attributes
    ----------
    timeout : float
        The timeout in seconds.
    """

    def __init__(self, timeout: float) -> None:
        Exception.__init__(self, timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return f"the attempt exceeded its timeout of {self.timeout:g} s and was terminated"

    def __repr__(self) -> str:
        return f"FunctionTimeoutError({str(self)!r})"  # attempts display the repr


class FunctionMemoryError(MemoryError, HandoffError):  # this order, because MemoryError has its own __new__
    """An isolated attempt used more memory than it had booked and was terminated.

    Retried like any other exception.

    Attributes
    ----------
    function_id : hashable
        Id of the function.
    asked : float
        The memory cost in MB.
    seen : float
        The memory that it used when it was terminated, in MB.
    node : str
        Name of the node.
    """

    def __init__(self, function_id: Any, asked: float, seen: float, node: Any) -> None:
        super().__init__(function_id, asked, seen, node)
        self.function_id = function_id
        self.asked = asked
        self.seen = seen
        self.node = node

    def __str__(self) -> str:
        return (
            f"the attempt used {self.seen:.0f} MB on node {self.node!r}, more than its cost of memory"
            f" {self.asked:g} MB, and was terminated"
        )

    def __repr__(self) -> str:
        return f"FunctionMemoryError({str(self)!r})"  # attempts display the repr


class FunctionCrashedError(HandoffError, RuntimeError):
    """The process of an isolated function died. Retried like any other exception.

    Attributes
    ----------
    status : int
        Exit status of the process, or minus the number of the signal that killed it.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        how = f"exited with status {self.status}"
        if self.status < 0:
            how = f"was killed by signal {-self.status}"
            with contextlib.suppress(ValueError):
                how += f" ({signal.Signals(-self.status).name})"
            if self.status == -9:
                how += ", possibly because it ran out of memory"
        return f"the function's process {how}"

    def __repr__(self) -> str:
        return f"FunctionCrashedError({str(self)!r})"  # attempts display the repr


class RunNotFoundError(HandoffError, LookupError):
    """No run of this id exists on the scheduler or in the history.

    Attributes
    ----------
    run_id : str
        The requested id.
    known : tuple of str
        Ids of the known runs, newest first.
    """

    def __init__(self, run_id: Any, known: Sequence[Any]) -> None:
        super().__init__(run_id, tuple(known))
        self.run_id = run_id
        self.known = tuple(known)

    def __str__(self) -> str:
        known = [repr(id) for id in self.known[:MAX_LISTED]]
        if len(self.known) > MAX_LISTED:
            known.append(f"and {len(self.known) - MAX_LISTED} more")
        listed = (", ".join(known) or "none") + suggestion(self.run_id, self.known)
        return f"no run has the id {self.run_id!r}; known runs: {listed}"


class HistoryError(HandoffError):
    """A file cannot be used as a :class:`History`.

    Attributes
    ----------
    path : str
        Path of the file.
    reason : str
        Why the file cannot be used.
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
        The run, with its partial results, records and allocations. None if the exception was unpickled in
        another process.
    """

    def __init__(self, dag_id: Any, run_id: str, *facts: Any) -> None:
        # Not super(): TimeoutError is an OSError, which interprets its arguments as errno and file names.
        Exception.__init__(self, dag_id, run_id, *facts)
        self.dag_id = dag_id
        self.run_id = run_id
        self.run: Any = None


class FunctionFailedError(RunError):
    """A function failed permanently. The original exception is ``__cause__``.

    With ``fail_fast=False`` several functions can fail. The exception then describes the first failure and
    lists the rest in ``others``.

    Attributes
    ----------
    function_id : hashable
        Id of the function.
    attempts : tuple of Attempt
        Every attempt: number, node, times, outcome, error and traceback text.
    others : tuple of FunctionFailedError
        One exception for each further function that failed permanently, in the order of failure.
    reason : str or None
        Why the result of a function without a failed attempt could not be fetched; None if the function
        itself failed.
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
        """The exception itself followed by ``others``: one for each permanently failed function."""
        return (self, *self.others)

    def __str__(self) -> str:
        if self.others:
            lines = (failure._summary_line() for failure in self.failures[:MAX_LISTED])
            n = 1 + len(self.others)
            head = f"{n} functions of DAG {self.dag_id!r} failed"
            return "\n".join([f"{head}:\n{bullet_list(lines, n)}", *advise_modules(self.failures)])
        n = len(self.attempts)
        head = f"function {self.function_id!r} of DAG {self.dag_id!r} failed after {count(n, 'attempt')}"
        if self.reason is not None:
            head = (
                f"the result of function {self.function_id!r} of DAG {self.dag_id!r} could not be fetched:"
                f" {self.reason}. Its attempts"
            )
        elif same := same_error(self.attempts):
            head += f" ({same})"
        return "\n".join(
            [f"{head}:\n{list_attempts(self.attempts)}" if n else head, *advise_modules(self.failures)]
        )

    def _summary_line(self) -> str:
        if not self.attempts:
            return f"function {self.function_id!r}: {self.__cause__!r}"
        n, last = len(self.attempts), self.attempts[-1]
        times = f"{n} attempts, the last on {last.node!r}" if n > 1 else f"1 attempt, on {last.node!r}"
        if same := same_error(self.attempts):
            times = f"{n} attempts ({same})"
        return f"function {self.function_id!r} after {times}: {last.error or last.outcome}"


class AllocationError(RunError):
    """Functions ask for more than any node offers: before the run starts, or since nodes have left it.

    Attributes
    ----------
    shortfalls : tuple of Shortfall
        One for each kind of cost that fits on no node: function ids, amounts asked, the nearest node and the
        amounts it offers.
    """

    def __init__(self, dag_id: Any, run_id: str, shortfalls: Sequence[Shortfall]) -> None:
        super().__init__(dag_id, run_id, tuple(shortfalls))
        self.shortfalls: tuple[Shortfall, ...] = tuple(shortfalls)

    def __str__(self) -> str:
        lines = bullet_list(map(str, self.shortfalls[:MAX_LISTED]), len(self.shortfalls))
        remedies = dict.fromkeys(s.remedy for s in self.shortfalls[:MAX_LISTED] if s.remedy)
        started = any(s.waited is not None for s in self.shortfalls)
        head = f"DAG {self.dag_id!r} cannot {'go on' if started else 'be placed'}:"
        return "\n".join([head, lines, *remedies])


class AllocatorError(RunError):
    """The run's allocator raised an exception or returned an invalid proposal.

    Attributes
    ----------
    reason : str
        What the allocator did wrong.
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
    """A function will never run because its run has ended.

    A future of the run that is still awaited when the run ends raises this exception.

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
            f"function {self.function_id!r} will not run: run {self.run_id} of DAG {self.dag_id!r} {ended}."
            " Submit the DAG again; with checkpoint= it resumes from the results that were saved."
        )


class RunTimeoutError(RunError, TimeoutError):
    """The run exceeded ``execute(timeout=...)`` and was ended.

    Attributes
    ----------
    timeout : float
        The timeout in seconds.
    finished, total : int
        Number of finished functions, and number of all functions.
    """

    def __init__(self, dag_id: Any, run_id: str, timeout: float, finished: int, total: int) -> None:
        super().__init__(dag_id, run_id, timeout, finished, total)
        self.timeout = timeout
        self.finished = finished
        self.total = total

    def __str__(self) -> str:
        return (
            f"run {self.run_id} of DAG {self.dag_id!r} exceeded its timeout of {self.timeout:g} s with"
            f" {self.finished} of {self.total} {plural(self.total, 'function')} finished"
        )

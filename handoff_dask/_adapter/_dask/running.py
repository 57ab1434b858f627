"""On a worker, in the thread of a task: the task, and the data that its outcome carries to the scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from distributed.core import clean_exception, error_message
from distributed.worker import thread_state


class Running(NamedTuple):
    """The task that the calling thread runs, and its worker.

    Attributes
    ----------
    worker : distributed.Worker
    task : distributed.worker_state_machine.TaskState
    """

    worker: Any
    task: Any


def in_task() -> bool:
    """Return whether the calling thread runs a Dask task.

    Reaches: ``distributed.worker.thread_state``, whose ``key`` is set while a task runs.
    Why: ``get_worker`` raises outside of tasks, and does not distinguish a task from a plugin.
    From: Dask 2025.7.
    """
    return hasattr(thread_state, "key")


def find_running() -> Running | None:
    """Return the task that the calling thread runs, with its worker; None if the thread runs no task.

    Reaches: ``thread_state.key`` and ``thread_state.execution_state["worker"]``, and ``Worker.state.tasks``.
    Why: ``get_worker`` returns the worker, but the task is not public.
    From: Dask 2025.7.
    """
    key = getattr(thread_state, "key", None)
    if key is None:
        return None
    worker = thread_state.execution_state["worker"]
    task = worker.state.tasks.get(key)
    return None if task is None else Running(worker, task)


def first_argument(task: Any) -> Any:
    """Return the first argument of a task's function; None if it takes none.

    Reaches: ``TaskState.run_spec`` of a worker's task, a ``Task`` with ``args``.
    Why: a function cannot access its own task.
    From: Dask 2025.7.
    """
    args = getattr(task.run_spec, "args", ())
    return args[0] if args else None


def annotation(task: Any, name: str) -> Mapping[str, Any]:
    """Return the mapping that :func:`tasks.annotate` attached to a task; {} if there is none.

    Reaches: ``TaskState.annotations`` of a worker's task.
    Why: the public ``get_annotations`` returns the annotations in force while a graph is built.
    From: Dask 2025.7.
    """
    value = task.annotations.get(name)
    return value if isinstance(value, Mapping) else {}


def attempt_id(task: Any) -> int:
    """Return the id by which the scheduler recognises this attempt of a task.

    Reaches: ``TaskState.run_id`` of a worker's task: the id in the last ``compute-task`` message for it.
    Why: nothing public distinguishes the attempts of a task.
    From: Dask 2025.7.
    """
    run_id: int = task.run_id
    return run_id


def attach(running: Running, name: str, value: Any, at: float) -> None:
    """Attach a value to Dask's message about the outcome of a task, whether success or failure.

    On the scheduler, :func:`tasks.attached` finds it.

    Reaches: ``TaskState.startstops`` of a worker's task: the intervals that both ``task-finished`` and
    ``task-erred`` carry. The function adds an interval of length 0, with the value as an extra field, and
    with an ``action`` that Dask's diagnostics know. And ``Worker.scheduler_delay``, by which Dask shifts its
    times.
    Why: ``TaskState.metadata``, which is meant for such values, is sent only on success.
    From: Dask 2025.7.

    Parameters
    ----------
    running : Running
    name : str
    value : object
        A plain value: Dask does not pickle it.
    at : float
        A time within the attempt, in seconds since the epoch, by the node's clock.
    """
    worker, task = running
    at += worker.scheduler_delay
    task.startstops.append({"action": "deserialize", "start": at, "stop": at, name: value})


def pickle_error(error: BaseException) -> tuple[bytes, bytes | None]:
    """Return the pickles of an exception that is being handled, and of its traceback.

    An exception that does not pickle is replaced by an ``Exception`` with its repr. The traceback is None if
    its pickle exceeds ``distributed.admin.max-error-length``.

    Reaches: ``distributed.core.error_message``.
    Why: Dask has no public function that serializes an exception as its workers do.
    From: Dask 2025.7.
    """
    message = error_message(error)
    trace = message["traceback"]
    return message["exception"].data, None if trace is None else trace.data


def unpickle_error(exception: Any, trace: Any = None) -> BaseException:
    """Return the exception that Dask or :func:`pickle_error` has pickled, with its traceback.

    Without ``trace``, the traceback is that in the pickle of the exception itself, if it has one.

    Reaches: ``distributed.core.clean_exception``.
    Why: Dask has no public function that deserializes an exception from the scheduler.
    From: Dask 2025.7.
    """
    _, error, traceback = clean_exception(exception, trace)
    assert error is not None
    return error if traceback is None else error.with_traceback(traceback)

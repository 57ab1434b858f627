"""On a worker, in the thread of a task: the task itself, and what is said of it to the scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from distributed.core import clean_exception, error_message
from distributed.worker import thread_state


class Running(NamedTuple):
    """A worker, and the task of it that the thread which asks is running.

    Attributes
    ----------
    worker : distributed.Worker
    task : distributed.worker_state_machine.TaskState
    """

    worker: Any
    task: Any


def in_task() -> bool:
    """Whether the thread that asks runs a task of Dask's.

    Reaches: ``distributed.worker.thread_state``, whose ``key`` is set while a task runs.
    Why: ``get_worker`` raises an error otherwise, and makes no difference between a task and a plugin.
    From: Dask 2025.7.
    """
    return hasattr(thread_state, "key")


def find_running() -> Running | None:
    """The worker and the task that the thread which asks is running; None when it runs none.

    Reaches: ``thread_state.key`` and ``thread_state.execution_state["worker"]``, and ``Worker.state.tasks``.
    Why: ``get_worker`` gives the worker; the task is not public.
    From: Dask 2025.7.
    """
    key = getattr(thread_state, "key", None)
    if key is None:
        return None
    worker = thread_state.execution_state["worker"]
    task = worker.state.tasks.get(key)
    return None if task is None else Running(worker, task)


def first_argument(task: Any) -> Any:
    """What the function of a task is called with first; None if with nothing.

    Reaches: ``TaskState.run_spec`` of a worker's task, a ``Task`` with ``args``.
    Why: a function is told nothing about its task.
    From: Dask 2025.7.
    """
    args = getattr(task.run_spec, "args", ())
    return args[0] if args else None


def annotation(task: Any, name: str) -> Mapping[str, Any]:
    """What :func:`tasks.annotate` has said of a task, {} if nothing.

    Reaches: ``TaskState.annotations`` of a worker's task.
    Why: ``get_annotations`` has those in force where a graph is made.
    From: Dask 2025.7.
    """
    facts = task.annotations.get(name)
    return facts if isinstance(facts, Mapping) else {}


def attempt_id(task: Any) -> int:
    """What :func:`tasks.is_attempt` knows this attempt of a task by.

    Reaches: ``TaskState.run_id`` of a worker's task: that of the last ``compute-task`` message about it.
    Why: nothing that is documented tells attempts of a task apart.
    From: Dask 2025.7.
    """
    run_id: int = task.run_id
    return run_id


def enclose(running: Running, name: str, value: Any, at: float) -> None:
    """Have what Dask says of the outcome of a task, whether success or failure, carry a value along.

    :func:`tasks.enclosed` finds it on the scheduler. ``at`` is when the task ran, by the clock of the node.

    Reaches: ``TaskState.startstops`` of a worker's task: the intervals that go to the scheduler with
    ``task-finished`` and ``task-erred`` alike. One more, of no length, of an action that Dask's diagnostics
    know, has the value as another field; and ``Worker.scheduler_delay``, by which Dask shifts its times.
    Why: ``TaskState.metadata``, which is meant for such values, goes along with success only.
    From: Dask 2025.7.
    """
    worker, task = running
    at += worker.scheduler_delay
    task.startstops.append({"action": "deserialize", "start": at, "stop": at, name: value})


def packed_error(error: BaseException) -> tuple[bytes, bytes | None]:
    """An exception that is being handled and its traceback, pickled; something like it if it does not pickle.

    Reaches: ``distributed.core.error_message``.
    Why: there is no public way to get what Dask makes of an exception.
    From: Dask 2025.7.
    """
    message = error_message(error)
    trace = message["traceback"]
    return message["exception"].data, None if trace is None else trace.data


def unpacked_error(exception: Any, trace: Any = None) -> BaseException:
    """The exception that Dask, or :func:`packed_error`, has pickled, with its traceback.

    Reaches: ``distributed.core.clean_exception``.
    Why: there is no public way to get at an exception as the scheduler has it.
    From: Dask 2025.7.
    """
    _, error, traceback = clean_exception(exception, trace)
    assert error is not None
    return error.with_traceback(traceback)

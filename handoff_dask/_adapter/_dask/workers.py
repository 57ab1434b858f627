"""Dask's workers: from the scheduler, and on the worker itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed.protocol import Serialize, Serialized, deserialize, pickle

if TYPE_CHECKING:
    from distributed import Scheduler, Worker
    from distributed.scheduler import WorkerState


class Answer(NamedTuple):
    """What became of a function that was called on a worker.

    Attributes
    ----------
    value : object
        What it returned; None if it failed.
    problem : str or None
        What it raised, as text; None if nothing.
    """

    value: Any
    problem: str | None


async def call_on(
    scheduler: Scheduler, address: str, function: Callable[..., Any], **arguments: Any
) -> Answer:
    """Call a function on a worker, in its event loop; with the worker, if it takes ``dask_worker``.

    Reaches: ``Scheduler.rpc`` and the request ``run`` of workers, with a pickled ``function`` and ``kwargs``;
    the answer has ``status``, and ``result`` or ``exception_text``. The scheduler leaves the result packed.
    Why: ``Client.run`` is public on clients only.
    From: Dask 2025.7.

    Raises
    ------
    OSError
        The worker is not there, or cannot be reached.
    """
    answer = await scheduler.rpc(address).run(
        function=pickle.dumps(function), kwargs=pickle.dumps(arguments) if arguments else None
    )
    if answer["status"] != "OK":
        return Answer(None, answer.get("exception_text") or str(answer))
    value = answer.get("result")
    if isinstance(value, Serialize):
        value = value.data
    elif isinstance(value, Serialized):
        value = deserialize(value.header, value.frames)
    return Answer(value, None)


def stream_to(scheduler: Scheduler, address: str) -> Any:
    """The stream of messages to a worker; None if there is none.

    Reaches: ``Scheduler.stream_comms``: address → ``BatchedSend``.
    Why: the pause of a stream is no public setting, see :func:`pause_of`.
    From: Dask 2025.7.
    """
    return scheduler.stream_comms.get(address)


def stream_from(worker: Worker) -> Any:
    """The stream of messages from a worker to the scheduler.

    Reaches: ``Worker.batched_stream``, a ``BatchedSend``.
    Why: the pause of a stream is no public setting, see :func:`pause_of`.
    From: Dask 2025.7.
    """
    return worker.batched_stream


def pause_of(stream: Any) -> Any:
    """Seconds between batches of messages in a stream.

    Reaches: ``BatchedSend.interval``, in seconds.
    Why: it is fixed in Dask's code, to 5 ms from the scheduler and 2 ms from a worker.
    From: Dask 2025.7.
    """
    return stream.interval


def set_pause(stream: Any, seconds: float) -> None:
    """Set the seconds between batches of messages in a stream.

    Reaches: ``BatchedSend.interval``, written. Dask adds it to a time whenever it has sent a batch, and does
    nothing else with it.
    Why: as :func:`pause_of`.
    From: Dask 2025.7.
    """
    stream.interval = seconds


def count_waiting(worker: Worker) -> int:
    """On a worker: tasks that could start, if there were a thread or resources.

    Reaches: ``Worker.state`` and its ``ready`` and ``constrained``.
    Why: a worker tells only in its metrics, once in a while.
    From: Dask 2025.7.
    """
    return len(worker.state.ready) + len(worker.state.constrained)


def running_keys(worker: Worker) -> list[Hashable]:
    """On a worker: keys of the tasks in its threads, those that Dask has given up included.

    Reaches: ``Worker.active_threads`` (thread → key) and ``active_threads_lock``.
    Why: ``Client.processing`` and ``call_stack`` leave out what was given up.
    From: Dask 2025.7.
    """
    with worker.active_threads_lock:
        return list(worker.active_threads.values())


def declared_resources(worker: Worker) -> dict[str, float]:
    """On a worker: the resources that it declares.

    Reaches: ``WorkerState.total_resources`` of a worker's own state.
    Why: ``Worker.set_resources`` has no counterpart.
    From: Dask 2025.7.
    """
    declared: dict[str, float] = worker.state.total_resources
    return declared


def memory_limit(worker: Worker) -> int | None:
    """On a worker: bytes that it may take; None or 0 without a limit.

    Reaches: ``Worker.memory_manager.memory_limit``.
    Why: ``Worker.memory_limit`` is deprecated.
    From: Dask 2025.7.
    """
    limit: int | None = worker.memory_manager.memory_limit
    return limit


def recount_resources(ws: WorkerState) -> None:
    """Let the scheduler's count of what is in use on a worker be what its tasks hold.

    It forgets the count when a worker's resources change, and does not move it along with a stolen task.

    Reaches: ``WorkerState.used_resources``, written.
    Why: it is a fault of Dask's.
    From: Dask 2025.7.
    """
    used = dict.fromkeys(ws.resources, 0.0)
    for ts in ws.processing:
        for name, amount in (ts.resource_restrictions or {}).items():
            used[name] = used.get(name, 0.0) + amount
    ws.used_resources = used

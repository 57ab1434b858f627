"""Dask's workers: on the scheduler, and on the worker itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed.protocol import Serialize, Serialized, deserialize, pickle

if TYPE_CHECKING:
    from distributed import Scheduler, Worker
    from distributed.scheduler import WorkerState


class Answer(NamedTuple):
    """The outcome of a function call on a worker.

    Attributes
    ----------
    value : object
        The return value; None if the call failed.
    problem : str or None
        The text of the exception; None if the call succeeded.
    """

    value: Any
    problem: str | None


async def call_on(
    scheduler: Scheduler, address: str, function: Callable[..., Any], **arguments: Any
) -> Answer:
    """Call a function in a worker's event loop. A parameter ``dask_worker`` receives the worker.

    Reaches: ``Scheduler.rpc`` and the request ``run`` of workers, with a pickled ``function`` and ``kwargs``;
    the answer has ``status``, and ``result`` or ``exception_text``. The result arrives serialized.
    Why: the public ``Client.run`` exists on clients only.
    From: Dask 2025.7.

    Raises
    ------
    OSError
        The worker has gone, or cannot be reached.
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
    """Return the stream of messages from the scheduler to a worker; None if there is none.

    Reaches: ``Scheduler.stream_comms``: address → ``BatchedSend``.
    Why: the interval of a stream is not public, see :func:`send_interval`.
    From: Dask 2025.7.
    """
    return scheduler.stream_comms.get(address)


def stream_from(worker: Worker) -> Any:
    """Return the stream of messages from a worker to the scheduler.

    Reaches: ``Worker.batched_stream``, a ``BatchedSend``.
    Why: the interval of a stream is not public, see :func:`send_interval`.
    From: Dask 2025.7.
    """
    return worker.batched_stream


def send_interval(stream: Any) -> Any:
    """Return the seconds between batches of messages in a stream.

    Reaches: ``BatchedSend.interval``, in seconds.
    Why: Dask hard-codes it: 5 ms on the scheduler and 2 ms on a worker.
    From: Dask 2025.7.
    """
    return stream.interval


def set_send_interval(stream: Any, seconds: float) -> None:
    """Set the seconds between batches of messages in a stream.

    Reaches: ``BatchedSend.interval``, written. Dask uses it only to compute the time of the next batch, when
    it has sent one.
    Why: as :func:`send_interval`.
    From: Dask 2025.7.
    """
    stream.interval = seconds


def count_waiting(worker: Worker) -> int:
    """Return, on a worker, how many tasks wait only for a thread or for resources.

    Reaches: ``Worker.state`` and its ``ready`` and ``constrained``.
    Why: a worker publishes the number only in its periodic metrics.
    From: Dask 2025.7.
    """
    return len(worker.state.ready) + len(worker.state.constrained)


def running_keys(worker: Worker) -> list[Hashable]:
    """Return, on a worker, the keys of the tasks in its threads, including tasks that Dask has released.

    Reaches: ``Worker.active_threads`` (thread → key) and ``active_threads_lock``.
    Why: ``Client.processing`` and ``call_stack`` leave out released tasks.
    From: Dask 2025.7.
    """
    with worker.active_threads_lock:
        return list(worker.active_threads.values())


def declared_resources(worker: Worker) -> dict[str, float]:
    """Return, on a worker, the resources that it declares.

    Reaches: ``WorkerState.total_resources`` of a worker's own state.
    Why: Dask has a public method to set them, ``Worker.set_resources``, but none to read them.
    From: Dask 2025.7.
    """
    declared: dict[str, float] = worker.state.total_resources
    return declared


def memory_limit(worker: Worker) -> int | None:
    """Return, on a worker, its memory limit in bytes; None or 0 without a limit.

    Reaches: ``Worker.memory_manager.memory_limit``.
    Why: ``Worker.memory_limit`` is deprecated.
    From: Dask 2025.7.
    """
    limit: int | None = worker.memory_manager.memory_limit
    return limit


def reported_metrics(ws: WorkerState) -> dict[str, Any]:
    """Return, on the scheduler, the metrics of a worker's last heartbeat.

    Reaches: ``WorkerState.metrics``: ``cpu`` in percent of a core and ``memory`` in bytes, of the process;
    with NVIDIA's library ``gpu_utilization`` in percent, ``gpu_memory_used`` and ``gpu-memory-total`` in
    bytes, of one device.
    Why: the attribute is public, the names of the metrics are not documented.
    From: Dask 2025.7.
    """
    return ws.metrics


def recount_resources(ws: WorkerState) -> None:
    """Recompute, on the scheduler, the resources in use on a worker from the tasks that it processes.

    Dask resets the amounts when a worker's resources change, and leaves them on the old worker when a task is
    stolen.

    Reaches: ``WorkerState.used_resources``, written.
    Why: it works around a bug in Dask.
    From: Dask 2025.7.
    """
    used = dict.fromkeys(ws.resources, 0.0)
    for ts in ws.processing:
        for name, amount in (ts.resource_restrictions or {}).items():
            used[name] = used.get(name, 0.0) + amount
    ws.used_resources = used

"""Tasks on Dask's scheduler: restrictions on where they run, and transitions between their states."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distributed import KilledWorker

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState

#: An address that no worker has. Dask parks a task that is restricted to it.
NOWHERE = frozenset({"handoff://parked"})


def park(ts: TaskState) -> None:
    """Keep Dask from placing a task: when its inputs are ready, it becomes ``no-worker``.

    Reaches: the restrictions of a ``TaskState``, written after submission; and that the scheduler checks them
    whenever it could place the task.
    Why: restrictions can publicly be set only when a graph is submitted.
    From: Dask 2025.7.
    """
    ts.worker_restrictions = NOWHERE
    ts.host_restrictions = None
    ts.resource_restrictions = None
    ts.loose_restrictions = False


def pin(ts: TaskState, address: str, resources: Mapping[str, float] | None) -> None:
    """Restrict a task to one worker, where it takes these resources.

    Reaches: ``TaskState.worker_restrictions`` and ``resource_restrictions``, written after submission.
    Why: restrictions can publicly be set only when a graph is submitted.
    From: Dask 2025.7.
    """
    ts.worker_restrictions = {address}
    ts.resource_restrictions = dict(resources) if resources else None


def unpin(ts: TaskState) -> None:
    """Let a task run on any worker.

    Reaches: ``TaskState.worker_restrictions``, written after submission.
    Why: restrictions can publicly be set only when a graph is submitted.
    From: Dask 2025.7.
    """
    ts.worker_restrictions = None


def annotate(ts: TaskState, name: str, value: Mapping[str, Any]) -> None:
    """Annotate a task with a mapping for the worker on which it is placed next.

    On the worker, :func:`running.annotation` finds it.

    Reaches: ``TaskState.annotations``, the task's own dict, which the scheduler sends along with the task.
    Why: annotations can publicly be set only when a graph is submitted.
    From: Dask 2025.7.
    """
    ts.annotations[name] = value


def move(scheduler: Scheduler, states: Mapping[Hashable, str], stimulus_id: str) -> None:
    """Move tasks to other states, the last task first, with all consequent transitions.

    Reaches: ``SchedulerState.transitions(recommendations, stimulus_id)``. A task that moves from
    ``no-worker`` to ``processing`` goes to the worker it is pinned to, or stays ``no-worker`` if that worker
    cannot take it.
    Why: there is no public way to place a task again.
    From: Dask 2025.7.
    """
    scheduler.transitions(dict(states), stimulus_id)


def fail_parked(scheduler: Scheduler, key: Hashable, exception: Any, stimulus_id: str) -> None:
    """Fail a task that is ``no-worker``, and its transitive dependents, with a pickled exception.

    Reaches: ``SchedulerState.transition(key, "erred", exception=, cause=, stimulus_id=)`` from ``no-worker``.
    Why: there is no public way to fail a task.
    From: Dask 2025.7.
    """
    recommendations = scheduler.transition(
        key, "erred", exception=exception, cause=key, stimulus_id=stimulus_id
    )
    scheduler.transitions(recommendations, stimulus_id)


def fail_waiting(scheduler: Scheduler, ts: TaskState, exception: Any, stimulus_id: str) -> None:
    """Fail a task that waits for its inputs, and its transitive dependents, with a pickled exception.

    Reaches: the transition from ``waiting`` through ``released`` to ``erred``, which reads
    ``TaskState.exception_blame`` and ``exception``.
    Why: there is no public way to fail a task.
    From: Dask 2025.7.
    """
    ts.exception_blame, ts.exception = ts, exception
    scheduler.transitions({ts.key: "erred"}, stimulus_id)


def set_retry(ts: TaskState, retry: bool) -> None:
    """Set whether Dask retries a task whose attempt is about to be recorded as failed.

    Reaches: ``TaskState.retries``, written; Dask reads it after :func:`hooks.before_task_erred`.
    Why: the number of retries can publicly be set only when a graph is submitted.
    From: Dask 2025.7.
    """
    ts.retries = 1 if retry else 0


def is_current_attempt(ts: TaskState | None, run_id: int) -> bool:
    """Return whether a worker's message refers to the attempt of a task that is being processed now.

    Reaches: ``TaskState.run_id``, which is new each time that a task is sent to a worker, and which the
    worker's messages about the task repeat.
    Why: nothing public distinguishes the attempts of a task.
    From: Dask 2025.7.
    """
    return ts is not None and ts.state == "processing" and ts.run_id == run_id


def attempt_id(ts: TaskState) -> int:
    """Return the id of a task's last attempt, as used by :func:`is_current_attempt`.

    Reaches: ``TaskState.run_id``.
    Why: nothing public distinguishes the attempts of a task.
    From: Dask 2025.7.
    """
    run_id: int = ts.run_id
    return run_id


def attached(startstops: Sequence[Mapping[str, Any]] | None, name: str) -> Any:
    """Return the last value that :func:`running.attach` attached to the outcome of a task; None without one.

    Reaches: ``startstops``, which Dask forwards unchanged from the worker: with ``task-erred``, and to
    ``SchedulerPlugin.transition`` when a task has finished.
    Why: as :func:`running.attach`.
    From: Dask 2025.7.
    """
    return next((each[name] for each in reversed(startstops or ()) if name in each), None)


def postpone_timeout(scheduler: Scheduler, ours: Callable[[Hashable], bool], now: float) -> None:
    """Keep Dask from failing tasks that have been ``no-worker`` for too long, by restarting their timeout.

    ``ours`` selects the tasks by key; ``now`` is a monotonic time in seconds.

    Reaches: ``SchedulerState.unrunnable``: task → monotonic time when it became ``no-worker``, in this order.
    Why: ``distributed.scheduler.no-workers-timeout`` applies to all tasks.
    From: Dask 2025.7.
    """
    unrunnable = scheduler.unrunnable
    for ts in [ts for ts in unrunnable if ours(ts.key)]:
        del unrunnable[ts]  # to insert it at the end: the dict is ordered by time
        unrunnable[ts] = now


def forget_stealing(scheduler: Scheduler, ts: TaskState) -> None:
    """Make work stealing forget a task, with its code and its arguments.

    Work stealing keeps all tasks of a name until one of them has finished and their duration is known. If
    they always fail, it keeps them forever.

    Reaches: ``WorkStealing.unknown_durations``: name → set of tasks.
    Why: this is a memory leak in Dask.
    From: Dask 2025.7.
    """
    unknown = getattr(scheduler.extensions.get("stealing"), "unknown_durations", {})
    waiting = unknown.get(ts.prefix.name)
    if waiting is not None:
        waiting.discard(ts)
        if not waiting:
            del unknown[ts.prefix.name]


def recall(scheduler: Scheduler, address: str, key: Hashable, stimulus_id: str) -> None:
    """Ask a worker to give back a task that it has not started.

    :func:`hooks.after_steal_response` reports the worker's reply.

    Reaches: the message ``steal-request`` of work stealing, in the stream to the worker.
    Why: there is no public way to take back a task that has not started.
    From: Dask 2025.7.
    """
    stream = scheduler.stream_comms.get(address)
    if stream is not None:
        stream.send({"op": "steal-request", "key": key, "stimulus_id": stimulus_id})


def learnt_duration(scheduler: Scheduler, name: str) -> float | None:
    """Return the duration of tasks of a name in seconds, measured or configured; None if unknown.

    Reaches: ``SchedulerState.task_prefixes`` and ``TaskPrefix.duration_average``, negative if unknown.
    Why: there is no public way to read the durations that Dask has learnt.
    From: Dask 2025.7.
    """
    prefix = scheduler.task_prefixes.get(name)
    if prefix is None or prefix.duration_average < 0:
        return None
    duration: float = prefix.duration_average
    return duration


def allowed_failures(error: Any) -> int | None:
    """Return the number of workers that a task may take down, if ``error`` says it exceeded it; else None.

    Reaches: ``KilledWorker.allowed_failures``.
    Why: the exception is documented, but its attributes are not.
    From: Dask 2025.7.
    """
    return error.allowed_failures if isinstance(error, KilledWorker) else None

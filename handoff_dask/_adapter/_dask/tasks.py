"""Tasks on Dask's scheduler: where they may run, and how they are moved from state to state."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distributed import KilledWorker

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState

#: No worker has this address: a task restricted to it is parked.
NOWHERE = frozenset({"handoff://held"})


def park(ts: TaskState) -> None:
    """Keep a task from being placed by anyone but us: when its inputs are there, it becomes ``no-worker``.

    Reaches: the restrictions of a ``TaskState``, written after it was submitted; and that the scheduler looks
    at them whenever the task could be placed.
    Why: restrictions are public where a graph is submitted only.
    From: Dask 2025.7.
    """
    ts.worker_restrictions = NOWHERE
    ts.host_restrictions = None
    ts.resource_restrictions = None
    ts.loose_restrictions = False


def pin(ts: TaskState, address: str, resources: Mapping[str, float] | None) -> None:
    """Let a task run on one worker only, and take these of its resources.

    Reaches: ``TaskState.worker_restrictions`` and ``resource_restrictions``, written after it was submitted.
    Why: restrictions are public where a graph is submitted only.
    From: Dask 2025.7.
    """
    ts.worker_restrictions = {address}
    ts.resource_restrictions = dict(resources) if resources else None


def unpin(ts: TaskState) -> None:
    """Let a task run anywhere.

    Reaches: ``TaskState.worker_restrictions``, written after it was submitted.
    Why: restrictions are public where a graph is submitted only.
    From: Dask 2025.7.
    """
    ts.worker_restrictions = None


def annotate(ts: TaskState, name: str, facts: Mapping[str, Any]) -> None:
    """Tell the worker on which a task is placed next something about it.

    Reaches: ``TaskState.annotations``, a dict of the task's own, which goes to the worker with the task.
    Why: annotations are public where a graph is submitted only.
    From: Dask 2025.7.
    """
    ts.annotations[name] = facts


def move(scheduler: Scheduler, states: Mapping[Hashable, str], stimulus_id: str) -> None:
    """Move tasks to other states, the last first, with all that follows from it.

    Reaches: ``SchedulerState.transitions(recommendations, stimulus_id)``; from ``no-worker`` to
    ``processing`` a task goes to the worker it is pinned to, or back to ``no-worker`` if that may not take
    it.
    Why: there is no public way to have a task placed again.
    From: Dask 2025.7.
    """
    scheduler.transitions(dict(states), stimulus_id)


def fail_parked(scheduler: Scheduler, key: Hashable, exception: Any, stimulus_id: str) -> None:
    """Let a task that is ``no-worker``, and all that needs it, fail with a pickled exception.

    Reaches: ``SchedulerState.transition(key, "erred", exception=, cause=, stimulus_id=)`` from ``no-worker``.
    Why: there is no public way to fail a task.
    From: Dask 2025.7.
    """
    recommendations = scheduler.transition(
        key, "erred", exception=exception, cause=key, stimulus_id=stimulus_id
    )
    scheduler.transitions(recommendations, stimulus_id)


def fail_waiting(scheduler: Scheduler, ts: TaskState, exception: Any, stimulus_id: str) -> None:
    """Let a task that waits for its inputs, and all that needs it, fail with a pickled exception.

    Reaches: the transition from ``waiting`` to ``erred`` by way of ``released``, which needs
    ``TaskState.exception_blame`` and ``exception`` to be set before.
    Why: there is no public way to fail a task.
    From: Dask 2025.7.
    """
    ts.exception_blame, ts.exception = ts, exception
    scheduler.transitions({ts.key: "erred"}, stimulus_id)


def allow_retry(ts: TaskState, again: bool) -> None:
    """Say whether Dask shall try a task again when its attempt fails, as it is about to.

    Reaches: ``TaskState.retries``, written; Dask reads it after ``before_task_erred``.
    Why: the number of retries is public where a graph is submitted only.
    From: Dask 2025.7.
    """
    ts.retries = 1 if again else 0


def is_attempt(ts: TaskState | None, run_id: int) -> bool:
    """Whether a message of a worker is about the attempt of a task that is being processed now.

    Reaches: ``TaskState.run_id``, which is new each time that a task is sent to a worker, and comes back in
    the worker's messages about it.
    Why: nothing that is documented tells attempts of a task apart.
    From: Dask 2025.7.
    """
    return ts is not None and ts.state == "processing" and ts.run_id == run_id


def attempt_id(ts: TaskState) -> int:
    """What the attempt of a task is known by that was sent to a worker last, as :func:`is_attempt` has it.

    Reaches: ``TaskState.run_id``.
    Why: nothing that is documented tells attempts of a task apart.
    From: Dask 2025.7.
    """
    run_id: int = ts.run_id
    return run_id


def attached(startstops: Sequence[Mapping[str, Any]] | None, name: str) -> Any:
    """Return the last value that :func:`running.attach` attached to the outcome of a task; None without one.

    Reaches: ``startstops``, which Dask hands on as it comes from the worker: with ``task-erred``, and to
    ``SchedulerPlugin.transition`` when a task has finished.
    Why: see there.
    From: Dask 2025.7.
    """
    return next((each[name] for each in reversed(startstops or ()) if name in each), None)


def postpone_timeout(scheduler: Scheduler, ours: Callable[[Hashable], bool], now: float) -> None:
    """Keep Dask from failing tasks that have been ``no-worker`` for too long.

    Reaches: ``SchedulerState.unrunnable``, a dict of tasks in the order in which they became ``no-worker``,
    with the (monotonic) time of it.
    Why: ``distributed.scheduler.no-workers-timeout`` holds for all tasks.
    From: Dask 2025.7.
    """
    unrunnable = scheduler.unrunnable
    for ts in [ts for ts in unrunnable if ours(ts.key)]:
        del unrunnable[ts]  # the order is that of the times
        unrunnable[ts] = now


def forget_stealing(scheduler: Scheduler, ts: TaskState) -> None:
    """Have work stealing forget a task, with its code and its arguments.

    It keeps every task of a name of which it does not know how long they take until one has finished: for
    ever, where they always fail.

    Reaches: ``WorkStealing.unknown_durations``: name → set of tasks.
    Why: it is a leak of Dask's.
    From: Dask 2025.7.
    """
    unknown = getattr(scheduler.extensions.get("stealing"), "unknown_durations", {})
    waiting = unknown.get(ts.prefix.name)
    if waiting is not None:
        waiting.discard(ts)
        if not waiting:
            del unknown[ts.prefix.name]


def recall(scheduler: Scheduler, address: str, key: Hashable, stimulus_id: str) -> None:
    """Ask a worker for a task that it has not started; :func:`hooks.after_steal_response` has the answer.

    Reaches: the message ``steal-request`` of work stealing, in the stream to the worker.
    Why: there is no public way to take a task back that has not started.
    From: Dask 2025.7.
    """
    stream = scheduler.stream_comms.get(address)
    if stream is not None:
        stream.send({"op": "steal-request", "key": key, "stimulus_id": stimulus_id})


def learnt_duration(scheduler: Scheduler, name: str) -> float | None:
    """Seconds that tasks of a name have taken, or were said to take in the configuration; None if unknown.

    Reaches: ``SchedulerState.task_prefixes`` and ``TaskPrefix.duration_average``, negative if unknown.
    Why: there is no public way to ask what Dask has learnt.
    From: Dask 2025.7.
    """
    prefix = scheduler.task_prefixes.get(name)
    if prefix is None or prefix.duration_average < 0:
        return None
    duration: float = prefix.duration_average
    return duration


def allowed_failures(error: Any) -> int | None:
    """How many workers a task may take down, if this is the error of one that took down more; else None.

    Reaches: ``KilledWorker.allowed_failures``.
    Why: the exception is documented, its attributes are not.
    From: Dask 2025.7.
    """
    return error.allowed_failures if isinstance(error, KilledWorker) else None

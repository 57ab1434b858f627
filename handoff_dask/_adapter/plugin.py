"""The scheduler plugin: translates Dask's transitions into core events, and core decisions into transitions.

The plugin decides nothing itself. It takes over placement by *parking* the tasks of functions: each task is
restricted to an address that cannot exist, so Dask makes it ``no-worker`` when its inputs are ready. That is
the core's event ``ready``. To *place* a task, the plugin restricts it to the address that the core chose, and
moves it to ``processing``. Whenever Dask takes a task back (a retry, a lost worker, a lost result), the
plugin parks it again, so the core makes the next decision too.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin, Status
from distributed.metrics import monotonic, time
from distributed.protocol import pickle

from handoff_dask._adapter import checkpoint
from handoff_dask._adapter._dask import clients, hooks, tasks
from handoff_dask._adapter._dask.tasks import park
from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.archive import Archive
from handoff_dask._adapter.compile import run_id_in
from handoff_dask._adapter.config import (
    read_archive_bounds,
    read_client_grace,
    read_cost_timeout,
    read_settings,
    read_stream_interval,
)
from handoff_dask._adapter.costs import CostComputer
from handoff_dask._adapter.disconnects import DisconnectedClients
from handoff_dask._adapter.enact import Enactor
from handoff_dask._adapter.external import ExternalTasks
from handoff_dask._adapter.keep_alive import KEEP_ALIVE, KeepAlive
from handoff_dask._adapter.latency import StreamIntervals
from handoff_dask._adapter.membership import Membership
from handoff_dask._adapter.messages import NAME, PROTOCOL, RUN_RELEASED, Report
from handoff_dask._adapter.metrics import Metrics
from handoff_dask._adapter.orphans import Orphans
from handoff_dask._adapter.overrides import Overrides
from handoff_dask._adapter.page_source import PageSource
from handoff_dask._adapter.prometheus import Export
from handoff_dask._adapter.requests import Requests
from handoff_dask._adapter.snapshot import RecentFailures
from handoff_dask._adapter.stopping import AttemptStopper
from handoff_dask._adapter.webpage import Webpage
from handoff_dask._model.runinfo import CLIENT_CLOSED, CLIENT_LOST, FUTURES_RELEASED, RESTARTED
from handoff_dask._model.used import Used
from handoff_dask._scheduling.decisions import Stop
from handoff_dask._scheduling.explain import explain_loss
from handoff_dask._scheduling.functions import FINAL, FunctionState, State
from handoff_dask._scheduling.runs import RunStatus
from handoff_dask._scheduling.state import SchedulingState
from handoff_dask._version import __version__

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)


class HandoffPlugin(SchedulerPlugin):
    """Places the functions of handoff DAGs. All other tasks stay with Dask."""

    name = NAME
    idempotent = True

    scheduler: Scheduler
    state: SchedulingState

    async def start(self, scheduler: Scheduler) -> None:
        """Take over placement on a scheduler, including its present workers.

        This method must not await. Dask calls it before it registers the plugin, so the plugin would miss
        events in between, and a second one could be installed. If the plugin was installed by a preload, Dask
        calls this method again when the scheduler starts.
        """
        if getattr(self, "scheduler", None) is scheduler:
            return
        self.scheduler = scheduler
        self.loop = asyncio.get_running_loop()
        self.state = SchedulingState(read_settings(), random.random)
        self.closed = False
        self._tick_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._postpone_timer: asyncio.TimerHandle | None = None
        self.runs: dict[str, ActiveRun] = {}
        self.functions: dict[Hashable, FunctionState] = {}
        self.unknown_keys: dict[str, list[Hashable]] = {}  # client → keys of unknown runs
        self.archive = Archive(*read_archive_bounds())
        self.failures = RecentFailures()
        self.intervals = StreamIntervals(scheduler, read_stream_interval())
        self.keep_alive = KeepAlive(scheduler)
        self.disconnected = DisconnectedClients(scheduler, read_client_grace(), self._client_gone)
        self.orphans = Orphans(scheduler, self.state, self.wake)
        self.stopper = AttemptStopper(scheduler)
        self.costs = CostComputer(scheduler, self.state, read_cost_timeout(), self._cost_failed, self.wake)
        self.external = ExternalTasks(scheduler, self.state, self.wake)
        self.membership = Membership(scheduler, self.state, self.intervals, self.external, self.wake)
        self.enactor = Enactor(self)
        self.metrics = Metrics(self.state)
        self.patches = hooks.Patches()
        self._patch()
        for address in list(scheduler.workers):
            self.membership.joined(address)
        if scheduler.no_workers_timeout:
            self._postpone_timeout()
        self.restart(scheduler)

    def _patch(self) -> None:
        """Hook into events for which Dask has no plugin hooks, and register the handlers of requests."""
        scheduler, patches, overrides = self.scheduler, self.patches, Overrides(self)
        hooks.before_task_erred(patches, scheduler, self._task_erred)
        hooks.before_status_change(patches, scheduler, self.membership.status_changed)
        hooks.before_long_running(patches, scheduler, self._seceded)
        hooks.around_update_graph(patches, scheduler, self._wrap_update_graph)
        hooks.after_steal_response(patches, scheduler, self._steal_response)
        hooks.around_cancel(patches, scheduler, overrides.wrap_cancel)
        hooks.around_retry(patches, scheduler, overrides.wrap_retry)
        hooks.after_resources(patches, scheduler, self.membership.resources_changed)
        hooks.before_release(patches, scheduler, self._keys_released)
        hooks.before_connection_lost(patches, scheduler, self._connection_lost)
        hooks.around_restart(patches, scheduler, overrides.wrap_restart)
        hooks.add_stream_handler(patches, scheduler, RUN_RELEASED, self._run_released)
        for op, handler in Requests(self).handlers().items():
            hooks.add_handler(patches, scheduler, op, handler)
        hooks.replace_unregister(patches, scheduler, self._unregister)
        self.patches.on_undo(Webpage(scheduler, PageSource(self).read).close)
        self.export = Export(scheduler, self.metrics)
        self.patches.on_undo(self.export.close)

    async def _unregister(self, name: str) -> None:
        """Remove a plugin. If it is this one, undo its changes to the scheduler and the workers."""
        await self.scheduler.unregister_scheduler_plugin(name=name)
        if name == self.name and not self.closed:
            self._close()
            self.scheduler.set_metadata([NAME], None)
            await self.membership.settled()  # a running probe may still shorten intervals
            await self.intervals.restore()

    def _close(self) -> None:
        """End all runs, and undo all changes to the scheduler."""
        for active in list(self.runs.values()):
            self._fail_run(active, RuntimeError("the plugin was removed from the scheduler"))
            self.enactor.end(active)
            self.enactor.release_unstarted(active, len(active.to_release))
        stops = [d for d in self.state.decide(time()) if isinstance(d, Stop)]
        self.enactor.carry_out(stops, f"handoff-removed-{time()}")
        self.enactor.hand_over_to_dask()
        self.closed = True
        for timer in (self._timer, self._postpone_timer):
            if timer is not None:
                timer.cancel()
        self.patches.undo()
        self.orphans.close()
        self.costs.close()
        self.disconnected.close()
        self.keep_alive.close()

    async def close(self) -> None:
        """Stop exporting metrics, because the scheduler closes."""
        self.export.close()

    def restart(self, scheduler: Scheduler) -> None:
        """Cancel the runs whose graphs have not arrived: the restart discarded Dask's tasks and metadata."""
        for active in self.runs.values():
            if active.task_count is None and not active.run.ended:
                self.cancel(active, RESTARTED)
            elif active.ended is None:  # the restart has just released its tasks
                active.cancelled = RESTARTED
        self.wake()
        scheduler.set_metadata([NAME], {"version": __version__, "protocol": PROTOCOL})

    # ------------------------------------------------------------------ hooks: workers and clients

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Probe a worker that joins."""
        self.membership.joined(worker)

    def remove_worker(self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any) -> None:
        """Remove the node of a worker that leaves."""
        self.membership.left(worker)

    def _keys_released(self, keys: Any, client: str, *args: Any, **kwargs: Any) -> None:
        """Keep the released keys of running functions, so that their allocations last until they end."""
        if client == KEEP_ALIVE:
            return
        running = []
        for key in keys:
            f = self.functions.get(key)
            # A prefetched function, without an allocation, runs only briefly; in its own process, however, it
            # may run until its timeout.
            if f is not None and (f.allocated or (f.state is State.RUNNING and f.kind.isolated)):
                running.append(key)
        self.keep_alive.keep(running)

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        """Restore what a client wants if it registers again before Dask notices its broken connection."""
        state = scheduler.clients[client]
        for active in self.runs.values():
            if active.client == client:
                for key in active.keys:
                    ts = scheduler.tasks.get(key)
                    if ts is not None:
                        clients.restore_wants(ts, state)

    def _connection_lost(self, client: str, *args: Any, **kwargs: Any) -> None:
        """Keep the keys of a client whose connection broke: it may reconnect."""
        state = self.scheduler.clients.get(client)
        if state is not None and any(active.client == client for active in self.runs.values()):
            self.disconnected.expect(client, [ts.key for ts in state.wants_what if ts.key in self.functions])

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Cancel the runs of a client that has left, unless it may reconnect."""
        if client not in self.disconnected:
            self._client_gone(client, CLIENT_CLOSED)

    def _client_gone(self, client: str, reason: str = CLIENT_LOST) -> None:
        """Cancel the runs of a client that will send no more requests about them."""
        for active in list(self.runs.values()):
            if active.client == client:
                active.handle_released = True
                self.cancel(active, reason)
        self.wake()

    def cancel(self, active: ActiveRun, reason: str) -> None:
        """Cancel a run, unless it has ended."""
        if active.ended is None and active.cancelled is None:  # events of this tick may have the same cause
            active.cancelled = reason
        if not active.run.ended:
            self.state.run_cancelled(active.run.spec.run_id)

    # ------------------------------------------------------------------ hooks: tasks

    def update_graph(
        self, scheduler: Scheduler, *, client: str, annotations: dict[str, dict[Any, Any]], **kwargs: Any
    ) -> None:
        """Park the tasks of a run whose graph arrives."""
        for key, run_id in annotations.get(NAME, {}).items():
            if not isinstance(run_id, str) or key in self.functions:
                continue
            park(scheduler.tasks[key])
            active = self.runs.get(run_id)
            if active is None:
                # The run was forgotten meanwhile, or registered with a plugin that was removed. Release its
                # tasks: they must not run without placement.
                self.unknown_keys.setdefault(client, []).append(key)
                self.wake()
                continue
            number = key[1]
            active.keys[number] = key
            active.task_count = (active.task_count or 0) + 1
            self.functions[key] = active.run.functions[number]
            if active.run.ended:
                active.to_release.append(key)
                self.wake()

    def _wrap_update_graph(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the scheduler's ``update_graph``, which reports an unreadable graph to the client only."""

        async def update_graph(*args: Any, keys: Any, **message: Any) -> None:
            await original(*args, keys=keys, **message)
            active = self.runs.get(run_id_in(next(iter(keys), None)) or "")
            if active is not None and active.task_count is None and not active.run.ended:
                self._fail_run(active, RuntimeError("the scheduler could not read the graph of the run"))

        return update_graph

    def transition(
        self, key: Hashable, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Translate a function's transition into core events."""
        f = self.functions.get(key)
        if start == finish:
            return
        if f is None:
            if start == "processing" or finish == "processing":
                self.external.update(key)
            return
        try:
            self._translate(f, key, start, finish, kwargs)
        except Exception as error:
            logger.exception("handoff_dask failed on %r", f)
            self._fail_run(self.runs[f.run.spec.run_id], error)

    def _translate(
        self, f: FunctionState, key: Hashable, start: str, finish: str, kwargs: dict[str, Any]
    ) -> None:
        state = self.state
        if finish == "no-worker":
            state.ready(f, time())
            self.wake()
        elif finish == "memory":
            report = report_in(kwargs.get("startstops"), tasks.attempt_id(self.scheduler.tasks[key]))
            code = f.kind.code
            loaded = report.outcome == "loaded" or checkpoint.loads_only(code)
            state.finished(
                f,
                time(),
                started=report.started,
                stopped=report.stopped,
                nbytes=kwargs.get("nbytes"),
                code=checkpoint.loading_code(code) if loaded else None,
                loaded=loaded,
                usage=Used._make(report.usage),
            )
            self.runs[f.run.spec.run_id].errors.pop(f.number, None)  # of a transfer that failed before
            self._attempt_ended(f, key)
            self.wake()
        elif finish == "erred":
            self._erred(f, key, kwargs)
            self._attempt_ended(f, key)
            self.wake()
        elif finish == "forgotten":
            state.forgotten(f, time())
            self.keep_alive.ended(key)
            tasks.forget_stealing(self.scheduler, self.scheduler.tasks[key])
            del self.functions[key]
            active = self.runs[f.run.spec.run_id]
            assert active.task_count is not None
            active.task_count -= 1
            self.wake()
        else:
            if start == "no-worker" and finish != "processing":
                state.withdrawn(f)
            elif start == "processing":
                # ``_task_erred`` has closed failed attempts already. An open attempt ended without a failure.
                if f.node is not None and f.node.name in self.scheduler.aliases:
                    self.orphans.watch(f.node, key, state.taken_back(f, time()))
                else:
                    state.lost(f, time())
                self.keep_alive.ended(key)
                self.wake()
            if finish == "released":
                ts = self.scheduler.tasks[key]
                park(ts)
                if not (ts.who_wants or ts.waiters):
                    state.unneeded(f, time())
            elif finish == "waiting":
                state.result_lost(f)
                if state.retried(f):
                    self.runs[f.run.spec.run_id].errors.pop(f.number, None)

    def _cost_failed(self, f: FunctionState, error: bytes, text: str) -> None:
        """Keep the error for dependents and clients of a function whose cost could not be computed."""
        self.runs[f.run.spec.run_id].errors[f.number] = error
        self.failures.note(f, time(), text)

    def _erred(self, f: FunctionState, key: Hashable, kwargs: dict[str, Any]) -> None:
        if f.state in FINAL:
            return
        blame = self.scheduler.tasks[key].exception_blame
        if blame is not None and blame.key != key and blame.key in self.functions:
            self.state.skipped(f, time())
            return
        exception = kwargs.get("exception")
        self.runs[f.run.spec.run_id].errors[f.number] = exception
        self.state.abandoned(f, time(), describe_error(f, exception))
        self.failures.note(f, time())

    def _attempt_ended(self, f: FunctionState, key: Hashable) -> None:
        """Stop keeping a task alive, and release its result if the function or its run was cancelled."""
        self.keep_alive.ended(key)
        if f.run.status is RunStatus.CANCELLED or f.state is State.CANCELLED:
            active = self.runs[f.run.spec.run_id]
            active.to_release.append(key)

    def _task_erred(
        self,
        *,
        key: Hashable,
        worker: str,
        run_id: int,
        exception: Any = None,
        exception_text: str = "",
        traceback_text: str = "",
        startstops: Any = None,
        **kwargs: Any,
    ) -> None:
        """Let the core decide whether to retry a failed attempt, and Dask carry out the decision."""
        f = self.functions.get(key)
        ts = self.scheduler.tasks.get(key)
        if f is None or ts is None:
            return
        if ts.state == "memory" and all(ws.address != worker for ws in ts.who_has or ()):
            self._transfer_failed(f, key, exception, exception_text, traceback_text)
        if not tasks.is_current_attempt(ts, run_id):
            return
        report = report_in(startstops, run_id)
        usage = Used._make(report.usage)
        if report.outcome == "stopped":
            retry = self.state.stopped(f, time(), started=report.started, stopped=report.stopped, usage=usage)
        else:
            decision = self.state.failed(
                f,
                time(),
                started=report.started,
                stopped=report.stopped,
                error=exception_text,
                traceback=traceback_text,
                retryable=report.retryable,
                usage=usage,
                out_of_memory=report.out_of_memory,
            )
            retry = decision is not None
            self.failures.note(f, time())
            if not retry:
                self.runs[f.run.spec.run_id].errors[f.number] = exception
        tasks.set_retry(ts, retry)
        self.wake()

    def _transfer_failed(
        self, f: FunctionState, key: Hashable, exception: Any, exception_text: str, traceback_text: str
    ) -> None:
        """Recompute a result that a node failed to fetch. Dask would let its dependents wait forever."""
        error = f"its result could not be moved to another node: {exception_text}"
        if self.state.unmovable(f, time(), error, traceback_text):
            self.failures.note(f, time())
            self.runs[f.run.spec.run_id].errors[f.number] = exception
            tasks.move(self.scheduler, {key: "released"}, f"handoff-unmovable-{time()}")
            self.wake()

    def _run_released(self, *, released: str, **kwargs: Any) -> None:
        active = self.runs.get(released)
        if active is not None:
            self.release_handle(active)

    def release_handle(self, active: ActiveRun) -> None:
        """Note that a client has released its handle to a run.

        If the run's graph has not arrived yet, it was lost in transit, and the run is cancelled.
        """
        active.handle_released = True
        if active.task_count is None:
            self.cancel(active, FUTURES_RELEASED)
        self.wake()

    def _seceded(self, *, key: Hashable, run_id: int, **kwargs: Any) -> None:
        f, ts = self.functions.get(key), self.scheduler.tasks.get(key)
        if f is not None and tasks.is_current_attempt(ts, run_id):
            self.state.seceded(f)
            self.wake()

    def _steal_response(self, *, key: Hashable, state: str | None, worker: str, **message: Any) -> None:
        """Handle a worker's reply to a recall: it gives a task back, or keeps a task that it has started."""
        f, ts = self.functions.get(key), self.scheduler.tasks.get(key)
        if f is None:
            self.external.stolen(key)
            return
        assigned = ts is not None and ts.processing_on is not None and ts.processing_on.address == worker
        if assigned and state in GIVEN_BACK:
            self.state.returned(f)
            tasks.move(self.scheduler, {key: "released"}, f"handoff-returned-{time()}")
            self.wake()

    # ------------------------------------------------------------------ decisions

    def wake(self) -> None:
        """Schedule one decision for all events up to the next iteration of the event loop."""
        if not self._tick_due and not self.closed:
            self._tick_due = True
            self.loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._tick_due = False
        if self.closed or self.scheduler.status is not Status.running:
            return
        try:
            self.keep_alive.release()
            self.membership.refresh_accepting()
            decisions = self.metrics.timed(self.state.decide, time())
            self.enactor.carry_out(decisions, f"handoff-{time()}")
            self.enactor.collect()
            self._set_timer()
        except Exception as error:
            logger.exception("handoff_dask could not carry out its decisions; it ends all runs")
            for active in list(self.runs.values()):
                self._fail_run(active, error)
                self.enactor.end(active)

    def _postpone_timeout(self) -> None:
        """Keep Dask from failing parked tasks if an administrator has set ``no-workers-timeout``."""
        tasks.postpone_timeout(self.scheduler, self.functions.__contains__, monotonic())
        self._postpone_timer = self.loop.call_later(
            self.scheduler.no_workers_timeout / 4, self._postpone_timeout
        )

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.state.next_wake()
        if at is not None:
            self._timer = self.loop.call_later(max(0.0, at - time()), self.wake)

    def _fail_run(self, active: ActiveRun, error: Exception) -> None:
        """Fail a run with the plugin's own error, which Dask would only log."""
        if not active.run.ended:
            active.broken = f"{type(error).__name__}: {error}"
            self.state.run_cancelled(active.run.spec.run_id)
        self.wake()


#: Worker states of tasks that a worker gives back on request, because it has not started them.
GIVEN_BACK = frozenset({"ready", "constrained", "waiting"})


def report_in(startstops: Any, attempt: int) -> Report:
    """Return the node's report of an attempt; an empty report if ``startstops`` carries none for it."""
    report = Report(*(tasks.attached(startstops, NAME) or ()))
    return report if report.attempt == attempt else Report()


def describe_error(f: FunctionState, exception: Any) -> str | None:
    """Describe an exception that Dask pickled as the error of an attempt; None if it is unreadable."""
    if not isinstance(exception, bytes):
        return None
    try:
        error = pickle.loads(exception)
    except Exception:
        return None
    allowed = tasks.allowed_failures(error)
    return repr(error) if allowed is None else explain_loss(f, allowed)

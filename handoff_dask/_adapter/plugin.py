"""The scheduler plugin: Dask's transitions in, the core's decisions out. It decides nothing itself.

How it takes placement over: a task of ours is *held* by a restriction to an address that cannot exist, so
Dask parks it as ``no-worker`` when its inputs are there. That is the core's ``ready``. To *place* it, the
restriction becomes the address the core chose, and the task is sent on. Whenever Dask takes a task back
(a retry, a lost worker, a lost result), the hold is put back, so that the next decision is the core's again.
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
from handoff_dask._adapter.absence import AbsentClients
from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.archive import Archive
from handoff_dask._adapter.compile import run_id_in
from handoff_dask._adapter.config import (
    read_archive_bounds,
    read_client_grace,
    read_settings,
    read_stream_interval,
)
from handoff_dask._adapter.enact import Enactor
from handoff_dask._adapter.external import ExternalTasks
from handoff_dask._adapter.interventions import Interventions
from handoff_dask._adapter.keeper import KEEPER, Keeper
from handoff_dask._adapter.latency import StreamIntervals
from handoff_dask._adapter.membership import Membership
from handoff_dask._adapter.messages import NAME, PROTOCOL, RUN_DROPPED, Report
from handoff_dask._adapter.orphans import Orphans
from handoff_dask._adapter.requests import Requests
from handoff_dask._adapter.snapshot import RecentFailures, Snapshot, snapshot
from handoff_dask._adapter.stopping import Stopping
from handoff_dask._adapter.webpage import Webpage
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
    """Places functions of handoff DAGs, and leaves all other tasks to Dask."""

    name = NAME
    idempotent = True

    scheduler: Scheduler
    state: SchedulingState

    async def start(self, scheduler: Scheduler) -> None:
        """Take over on a scheduler, with the workers it has.

        Dask calls this before it notes that the plugin is there. Whatever happened between the two would be
        missed, and a second plugin could be installed: so nothing may be awaited here. It is called again
        when a scheduler that has loaded the plugin as a preload starts.
        """
        if getattr(self, "scheduler", None) is scheduler:
            return
        self.scheduler = scheduler
        self.loop = asyncio.get_running_loop()
        self.state = SchedulingState(read_settings(), random.random)
        self.closed = False
        self._tick_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._parked_timer: asyncio.TimerHandle | None = None
        self.runs: dict[str, ActiveRun] = {}
        self.functions: dict[Hashable, FunctionState] = {}
        self.strays: dict[str, list[Hashable]] = {}  # client → keys of runs that are not known
        self.archive = Archive(*read_archive_bounds())
        self.failures = RecentFailures()
        self.intervals = StreamIntervals(scheduler, read_stream_interval())
        self.keeper = Keeper(scheduler)
        self.absent = AbsentClients(scheduler, read_client_grace(), self._client_gone)
        self.orphans = Orphans(scheduler, self.state, self.wake)
        self.stopping = Stopping(scheduler)
        self.external = ExternalTasks(scheduler, self.state, self.wake)
        self.membership = Membership(scheduler, self.state, self.intervals, self.external, self.wake)
        self.enactor = Enactor(self)
        self.patches = hooks.Patches()
        self._patch()
        for address in list(scheduler.workers):
            self.membership.joined(address)
        if scheduler.no_workers_timeout:
            self._keep_parked()
        self.restart(scheduler)

    def _patch(self) -> None:
        """See what Dask shows to no plugin, and answer what clients ask."""
        scheduler, patches, interventions = self.scheduler, self.patches, Interventions(self)
        hooks.before_task_erred(patches, scheduler, self._task_erred)
        hooks.before_status_change(patches, scheduler, self.membership.status_changed)
        hooks.before_long_running(patches, scheduler, self._seceded)
        hooks.around_update_graph(patches, scheduler, self._noting_failure)
        hooks.after_steal_response(patches, scheduler, self._asked_back)
        hooks.around_cancel(patches, scheduler, interventions.cancelling)
        hooks.around_retry(patches, scheduler, interventions.retrying)
        hooks.after_resources(patches, scheduler, self.membership.resources_changed)
        hooks.before_release(patches, scheduler, self._unwanted)
        hooks.before_connection_lost(patches, scheduler, self._connection_lost)
        hooks.around_restart(patches, scheduler, interventions.restarting)
        hooks.hear(patches, scheduler, RUN_DROPPED, self._run_dropped)
        for op, handler in Requests(self).handlers().items():
            hooks.answer(patches, scheduler, op, handler)
        hooks.instead_of_unregister(patches, scheduler, self._unregister)
        self.patches.on_undo(Webpage(scheduler, self.snapshot).close)

    def snapshot(self) -> Snapshot:
        """What there is to see now."""
        return snapshot(self.state, self.runs, self.archive, self.failures, time())

    async def _unregister(self, name: str) -> None:
        """Dask removes a plugin: put back what this one has changed on the scheduler and its workers."""
        await self.scheduler.unregister_scheduler_plugin(name=name)
        if name == self.name and not self.closed:
            self._close()
            self.scheduler.set_metadata([NAME], None)
            await self.membership.settled()  # what is being changed cannot be put back yet
            await self.intervals.restore()

    def _close(self) -> None:
        """End all runs, and leave the scheduler as it was found."""
        for active in list(self.runs.values()):
            self._break(active, RuntimeError("the plugin was removed from the scheduler"))
            self.enactor.end(active)
            self.enactor.release_unstarted(active, len(active.release))
        stops = [d for d in self.state.decide(time()) if isinstance(d, Stop)]
        self.enactor.carry_out(stops, f"handoff-removed-{time()}")
        self.enactor.leave_to_dask()
        self.closed = True
        for timer in (self._timer, self._parked_timer):
            if timer is not None:
                timer.cancel()
        self.patches.undo()
        self.orphans.close()
        self.absent.close()
        self.keeper.close()

    def restart(self, scheduler: Scheduler) -> None:
        """Dask has restarted, and forgotten its tasks and metadata: what has not arrived is over, too."""
        for active in self.runs.values():
            if active.known is None and not active.run.ended:
                self.state.run_cancelled(active.run.spec.run_id)
        self.wake()
        scheduler.set_metadata([NAME], {"version": __version__, "protocol": PROTOCOL})

    # ------------------------------------------------------------------ hooks: workers and clients

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker joins."""
        self.membership.joined(worker)

    def remove_worker(self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any) -> None:
        """A worker leaves."""
        self.membership.left(worker)

    def _unwanted(self, keys: Any, client: str, *args: Any, **kwargs: Any) -> None:
        """Keys are about to be released: what runs is booked until it has ended, whoever wants it."""
        if client == KEEPER:
            return
        running = []
        for key in keys:
            f = self.functions.get(key)
            # One that was sent ahead goes on for a moment only, unless it may take up to its timeout.
            if f is not None and (f.allocated or (f.state is State.RUNNING and f.kind.isolated)):
                running.append(key)
        self.keeper.keep(running)

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        """A client registers, maybe again before its former connection was found to be broken."""
        state = scheduler.clients[client]
        for active in self.runs.values():
            if active.client == client:
                for key in active.keys:
                    ts = scheduler.tasks.get(key)
                    if ts is not None:
                        clients.restore_wish(ts, state)

    def _connection_lost(self, client: str, *args: Any, **kwargs: Any) -> None:
        """Dask is about to remove a client that did not say that it closes: it may come back."""
        state = self.scheduler.clients.get(client)
        if state is not None and any(active.client == client for active in self.runs.values()):
            self.absent.expect(client, [ts.key for ts in state.wants_what if ts.key in self.functions])

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """A client is gone; Dask has released what it alone wanted."""
        if client not in self.absent:
            self._client_gone(client)

    def _client_gone(self, client: str) -> None:
        """A client will not ask about its runs any more."""
        for active in list(self.runs.values()):
            if active.client == client:
                active.dropped = True
                if not active.run.ended:
                    self.state.run_cancelled(active.run.spec.run_id)
        self.wake()

    # ------------------------------------------------------------------ hooks: tasks

    def update_graph(
        self, scheduler: Scheduler, *, client: str, annotations: dict[str, dict[Any, Any]], **kwargs: Any
    ) -> None:
        """Hold the tasks of a run that arrives."""
        for key, run_id in annotations.get(NAME, {}).items():
            if not isinstance(run_id, str) or key in self.functions:
                continue
            park(scheduler.tasks[key])
            active = self.runs.get(run_id)
            if active is None:
                # Forgotten meanwhile, or announced to a plugin that was removed: it is not to run unplaced.
                self.strays.setdefault(client, []).append(key)
                self.wake()
                continue
            number = key[1]
            active.keys[number] = key
            active.known = (active.known or 0) + 1
            self.functions[key] = active.run.functions[number]
            if active.run.ended:
                active.release.append(key)
                self.wake()

    def _noting_failure(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The scheduler's ``update_graph``, which tells nobody but the client what it could not read."""

        async def update_graph(*args: Any, keys: Any, **message: Any) -> None:
            await original(*args, keys=keys, **message)
            active = self.runs.get(run_id_in(next(iter(keys), None)) or "")
            if active is not None and active.known is None and not active.run.ended:
                self._break(active, RuntimeError("the scheduler could not read the graph of the run"))

        return update_graph

    def transition(
        self, key: Hashable, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Translate a transition of one of our tasks."""
        f = self.functions.get(key)
        if start == finish:
            return
        if f is None:
            if start == "processing" or finish == "processing":
                self.external.moved(key)
            return
        try:
            self._translate(f, key, start, finish, kwargs)
        except Exception as error:
            logger.exception("handoff_dask failed on %r", f)
            self._break(self.runs[f.run.spec.run_id], error)

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
            )
            self._after_end(f, key)
            self.wake()
        elif finish == "erred":
            self._erred(f, key, kwargs)
            self._after_end(f, key)
            self.wake()
        elif finish == "forgotten":
            state.forgotten(f, time())
            self.keeper.ended(key)
            tasks.forget_stealing(self.scheduler, self.scheduler.tasks[key])
            del self.functions[key]
            active = self.runs[f.run.spec.run_id]
            assert active.known is not None
            active.known -= 1
            self.wake()
        else:
            if start == "no-worker" and finish != "processing":
                state.withdrawn(f)
            elif start == "processing":
                # A failed attempt was closed before; what is still open here ended without failing.
                if f.node is not None and f.node.name in self.scheduler.aliases:
                    self.orphans.watch(f.node, key, state.taken_back(f, time()))
                else:
                    state.lost(f, time())
                self.keeper.ended(key)
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

    def _erred(self, f: FunctionState, key: Hashable, kwargs: dict[str, Any]) -> None:
        if f.state in FINAL:
            return
        blame = self.scheduler.tasks[key].exception_blame
        if blame is not None and blame.key != key and blame.key in self.functions:
            self.state.skipped(f, time())
            return
        exception = kwargs.get("exception")
        self.runs[f.run.spec.run_id].errors[f.number] = exception
        self.state.abandoned(f, time(), describe(f, exception))
        self.failures.note(f, time())

    def _after_end(self, f: FunctionState, key: Hashable) -> None:
        """Give up the result of a function whose run was cancelled, or which nobody wanted, while it ran."""
        self.keeper.ended(key)
        if f.run.status is RunStatus.CANCELLED or f.state is State.CANCELLED:
            active = self.runs[f.run.spec.run_id]
            active.release.append(key)

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
        """An attempt failed: let the core decide, and Dask carry out what it decides."""
        f = self.functions.get(key)
        ts = self.scheduler.tasks.get(key)
        if f is None or ts is None:
            return
        if ts.state == "memory" and all(ws.address != worker for ws in ts.who_has or ()):
            self._did_not_travel(f, key, exception, exception_text, traceback_text)
        if not tasks.is_attempt(ts, run_id):
            return
        report = report_in(startstops, run_id)
        if report.outcome == "stopped":
            again = self.state.stopped(f, time(), started=report.started, stopped=report.stopped)
        else:
            retry = self.state.failed(
                f,
                time(),
                started=report.started,
                stopped=report.stopped,
                error=exception_text,
                traceback=traceback_text,
                retryable=report.retryable,
            )
            again = retry is not None
            self.failures.note(f, time())
            if not again:
                self.runs[f.run.spec.run_id].errors[f.number] = exception
        tasks.allow_retry(ts, again)
        self.wake()

    def _did_not_travel(
        self, f: FunctionState, key: Hashable, exception: Any, exception_text: str, traceback_text: str
    ) -> None:
        """A node could not get a result that is there, and Dask would let whoever needs it wait for ever."""
        error = f"its result could not be moved to another node: {exception_text}"
        if self.state.unmovable(f, time(), error, traceback_text):
            self.failures.note(f, time())
            self.runs[f.run.spec.run_id].errors[f.number] = exception
            tasks.move(self.scheduler, {key: "released"}, f"handoff-unmovable-{time()}")
            self.wake()

    def _run_dropped(self, *, dropped: str, **kwargs: Any) -> None:
        active = self.runs.get(dropped)
        if active is not None:
            self.drop(active)

    def drop(self, active: ActiveRun) -> None:
        """Nobody will ask about a run any more; a graph that has not arrived by now was lost on its way."""
        active.dropped = True
        if active.known is None and not active.run.ended:
            self.state.run_cancelled(active.run.spec.run_id)
        self.wake()

    def _seceded(self, *, key: Hashable, run_id: int, **kwargs: Any) -> None:
        f, ts = self.functions.get(key), self.scheduler.tasks.get(key)
        if f is not None and tasks.is_attempt(ts, run_id):
            self.state.seceded(f)
            self.wake()

    def _asked_back(self, *, key: Hashable, state: str | None, worker: str, **message: Any) -> None:
        """A worker has given a task back, or has said that it runs it."""
        f, ts = self.functions.get(key), self.scheduler.tasks.get(key)
        if f is None:
            self.external.stolen(key)
            return
        there = ts is not None and ts.processing_on is not None and ts.processing_on.address == worker
        if there and state in GIVEN_BACK:
            self.state.returned(f)
            tasks.move(self.scheduler, {key: "released"}, f"handoff-returned-{time()}")
            self.wake()

    # ------------------------------------------------------------------ decisions

    def wake(self) -> None:
        """Decide at the next turn of the event loop, once for all that happens until then."""
        if not self._tick_due and not self.closed:
            self._tick_due = True
            self.loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._tick_due = False
        if self.closed or self.scheduler.status is not Status.running:
            return
        try:
            self.keeper.release()
            self.membership.refresh_accepting()
            self.enactor.carry_out(self.state.decide(time()), f"handoff-{time()}")
            self.enactor.collect()
            self._set_timer()
        except Exception as error:
            logger.exception("handoff_dask could not carry out its decisions; all its runs end")
            for active in list(self.runs.values()):
                self._break(active, error)
                self.enactor.end(active)

    def _keep_parked(self) -> None:
        """Keep Dask from failing parked tasks where an administrator has set its no-workers-timeout."""
        tasks.postpone_timeout(self.scheduler, self.functions.__contains__, monotonic())
        self._parked_timer = self.loop.call_later(self.scheduler.no_workers_timeout / 4, self._keep_parked)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.state.next_wake()
        if at is not None:
            self._timer = self.loop.call_later(max(0.0, at - time()), self.wake)

    def _break(self, active: ActiveRun, error: Exception) -> None:
        """An error of ours is the failure of the run concerned, not something to be swallowed."""
        if not active.run.ended:
            active.broken = f"{type(error).__name__}: {error}"
            self.state.run_cancelled(active.run.spec.run_id)
        self.wake()


#: States on a worker of tasks that it gives back when it is asked to.
GIVEN_BACK = frozenset({"ready", "constrained", "waiting"})


def report_in(startstops: Any, attempt: int) -> Report:
    """What the node has said of an attempt, along with its outcome."""
    report = Report(*(tasks.enclosed(startstops, NAME) or ()))
    return report if report.attempt == attempt else Report()


def describe(f: FunctionState, exception: Any) -> str | None:
    """What a pickled exception of Dask's own says, in words for the attempt of a function that runs."""
    if not isinstance(exception, bytes):
        return None
    try:
        error = pickle.loads(exception)
    except Exception:
        return None
    allowed = tasks.allowed_failures(error)
    return repr(error) if allowed is None else explain_loss(f, allowed)

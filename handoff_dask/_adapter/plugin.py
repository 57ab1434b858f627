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
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed import SchedulerPlugin
from distributed.core import Status
from distributed.metrics import monotonic, time
from distributed.protocol import pickle
from distributed.scheduler import KilledWorker

from handoff_dask._adapter import stealing
from handoff_dask._adapter.archive import Archive
from handoff_dask._adapter.config import read_archive_bounds, read_settings, read_stream_interval
from handoff_dask._adapter.foreign import ForeignTasks
from handoff_dask._adapter.keeper import KEEPER, Keeper
from handoff_dask._adapter.latency import StreamIntervals
from handoff_dask._adapter.lingering import Lingering
from handoff_dask._adapter.membership import Membership
from handoff_dask._adapter.messages import ATTEMPT_FAILED, NAME, PROTOCOL, RUN_DROPPED, RUN_ENDED
from handoff_dask._adapter.requests import ActiveRun, Requests
from handoff_dask._adapter.snapshot import RecentFailures, Snapshot, snapshot
from handoff_dask._adapter.webpage import Webpage
from handoff_dask._model.resources import UNIT
from handoff_dask._scheduling.decisions import Decision, End, Fail, Place, Recall, TooLate
from handoff_dask._scheduling.explain import explain_loss
from handoff_dask._scheduling.functions import FINAL, FunctionState
from handoff_dask._scheduling.runs import RunStatus
from handoff_dask._scheduling.state import SchedulingState
from handoff_dask._version import __version__
from handoff_dask.exceptions import AllocationError, RunEndedError

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState

logger = logging.getLogger(__name__)

#: No worker has this address: a task restricted to it is parked.
HELD = frozenset({"handoff://held"})


class HandoffPlugin(SchedulerPlugin):
    """Places functions of handoff DAGs, and leaves all other tasks to Dask."""

    name = NAME
    idempotent = True

    scheduler: Scheduler
    state: SchedulingState

    async def start(self, scheduler: Scheduler) -> None:
        """Take over on a scheduler, with the workers it has."""
        self.scheduler = scheduler
        self.loop = asyncio.get_running_loop()
        self.state = SchedulingState(read_settings(), random.random)
        self.intervals = StreamIntervals(scheduler, read_stream_interval())
        self._tick_due = False
        self.keeper = Keeper(scheduler)
        self.lingering = Lingering(scheduler, self.state, self.wake)
        self.foreign = ForeignTasks(scheduler, self.state, self.wake)
        self.membership = Membership(scheduler, self.state, self.intervals, self.foreign, self.wake)
        self.runs: dict[str, ActiveRun] = {}
        self.archive = Archive(*read_archive_bounds())
        self.failures = RecentFailures()
        self.functions: dict[Hashable, FunctionState] = {}
        self._reports: dict[Hashable, tuple[int, dict[str, Any]]] = {}  # key → run id of the attempt, report
        self._timer: asyncio.TimerHandle | None = None
        self._undo: list[Callable[[], Any]] = []
        streams, handlers = scheduler.stream_handlers, scheduler.handlers
        self._replace(streams, "task-erred", self._before(streams["task-erred"], self._task_erred))
        change = streams["worker-status-change"]
        self._replace(streams, "worker-status-change", self._before(change, self.membership.status_changed))
        # An administrator may have turned stealing off; functions are recalled by the same messages. What
        # answers then stays, as below.
        confirm = streams.setdefault("steal-response", lambda **message: None)
        self._replace(streams, "steal-response", self._after(confirm, self._asked_back))
        self._replace(streams, "cancel-keys", self._cancelling(streams["cancel-keys"]))
        self._replace(handlers, "retry", self._retrying(handlers["retry"]))
        resources = self._after(handlers["set_resources"], self.membership.resources_changed)
        self._replace(handlers, "set_resources", resources)
        # Every way for a key to be released leads through this method, and one starts at the table.
        releases = self._before(scheduler.client_releases_keys, self._unwanted)
        self._replace(vars(scheduler), "client_releases_keys", releases)
        self._replace(streams, "client-releases-keys", releases)
        restart = self._restarting(scheduler.restart)
        self._replace(vars(scheduler), "restart", restart)
        self._replace(handlers, "restart", restart)
        # These stay, as they do no harm: a message that is on its way when the plugin is removed would
        # otherwise break the connection it arrives on.
        streams[ATTEMPT_FAILED] = self._attempt_reported
        streams[RUN_DROPPED] = self._run_dropped
        for op, handler in Requests(self).handlers().items():
            self._replace(handlers, op, handler)
        self._replace(handlers, "unregister_scheduler_plugin", self._unregister)
        self._undo.append(Webpage(scheduler, self.snapshot).close)
        for address in list(scheduler.workers):
            self.membership.joined(address)
        await self.membership.settled()
        if scheduler.no_workers_timeout:
            self._keep_parked()
        self.restart(scheduler)

    def snapshot(self) -> Snapshot:
        """What there is to see now."""
        return snapshot(self.state, self.runs, self.archive, self.failures, time())

    def _replace(self, table: dict[str, Any], name: str, value: Any) -> None:
        """Set an entry of one of the scheduler's tables, until the plugin is removed."""
        if name in table:
            self._undo.append(partial(table.__setitem__, name, table[name]))
        else:
            self._undo.append(partial(table.pop, name, None))
        table[name] = value

    def _before(self, original: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        """A handler that takes note of a message before the original handles it."""

        def handler(*args: Any, **message: Any) -> Any:
            self._take_note(note, *args, **message)
            return original(*args, **message)

        return handler

    def _after(self, original: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        """A handler that takes note of a message after the original, which does not wait, has handled it."""

        def handler(*args: Any, **message: Any) -> Any:
            answer = original(*args, **message)
            self._take_note(note, *args, **message)
            return answer

        return handler

    def _take_note(self, note: Callable[..., None], *args: Any, **message: Any) -> None:
        try:
            note(*args, **message)
        except Exception:
            logger.exception("handoff_dask could not take note of %r", message)

    def _cancelling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Dask's ``cancel-keys``, which fails over dependents that nobody wants: it is not told of ours."""

        def cancel(*, keys: Any, client: str, force: bool = False, **message: Any) -> Any:
            ours = [key for key in keys if key in self.functions]
            if ours:
                self._cancel(ours, client, force)
            others = [key for key in keys if key not in self.functions]
            return original(keys=others, client=client, force=force, **message)

        return cancel

    def _retrying(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Dask's ``retry``, which also starts again what runs, and gives up results that are there."""

        def retry(*, keys: Any, **message: Any) -> Any:
            tasks, ours = self.scheduler.tasks, self.functions
            failed = [key for key in keys if key not in ours or tasks[key].state == "erred"]
            return original(keys=failed, **message)

        return retry

    def _cancel(self, keys: list[Any], client: str, force: bool) -> None:
        """A client gives up these futures of functions; with ``force`` nobody is to have them."""
        wanting = {client}
        for key in keys:
            f = self.functions[key]
            if force or client == self.runs[f.run.spec.run_id].client:
                self.state.given_up(f)
            if force:
                wanting |= {cs.client_key for cs in self.scheduler.tasks[key].who_wants or ()} - {KEEPER}
        for name in wanting & set(self.scheduler.clients):
            self.scheduler.client_releases_keys(keys=keys, client=name)
            self._say_cancelled(name, keys)
        self.wake()

    def _restarting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The scheduler's ``restart``, which expects that every key can be released."""

        async def restart(*args: Any, **kwargs: Any) -> Any:
            self.keeper.paused = True
            try:
                return await original(*args, **kwargs)
            finally:
                self.keeper.paused = False

        return restart

    async def _unregister(self, name: str) -> None:
        """Dask removes a plugin: put back what this one has changed on the scheduler and its workers."""
        await self.scheduler.unregister_scheduler_plugin(name=name)
        if name == self.name:
            for active in list(self.runs.values()):
                self._break(active, RuntimeError("the plugin was removed from the scheduler"))
                self._end(active)
            self._leave_to_dask()
            for undo in reversed(self._undo):
                try:
                    undo()
                except Exception:
                    logger.exception("handoff_dask could not put back all that it had changed")
            self.keeper.close()
            self.scheduler.set_metadata([NAME], None)
            await self.membership.settled()  # what is being changed cannot be put back yet
            await self.intervals.restore()

    def _leave_to_dask(self) -> None:
        """What was submitted fails where somebody needs it, and Dask may compute again what is lost."""
        for key, f in self.functions.items():
            ts = self.scheduler.tasks.get(key)
            if ts is None:
                continue
            ts.worker_restrictions = None
            if ts.state == "waiting":  # it would become ready after this
                ts.exception_blame, ts.exception = ts, ended_before(f)
                self.scheduler.transitions({key: "erred"}, f"handoff-removed-{time()}")

    def restart(self, scheduler: Scheduler) -> None:
        """Dask has restarted, and forgotten its metadata: show clients that the plugin is there."""
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
            if f is not None and f.booked:
                running.append(key)
        self.keeper.keep(running)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """A client is gone; Dask has released what it alone wanted."""
        for run_id, active in list(self.runs.items()):
            if active.client == client:
                active.dropped = True
                if active.known is None:
                    self._forget(run_id)  # its graph will not come any more
                elif not active.run.ended:
                    self.state.run_cancelled(run_id)
        self.wake()

    # ------------------------------------------------------------------ hooks: tasks

    def update_graph(
        self, scheduler: Scheduler, *, annotations: dict[str, dict[Any, Any]], **kwargs: Any
    ) -> None:
        """Hold the tasks of a run that arrives."""
        for key, run_id in annotations.get(NAME, {}).items():
            active = self.runs.get(run_id) if isinstance(run_id, str) else None
            if active is None or key in self.functions:
                continue
            number = key[1]
            active.keys[number] = key
            active.known = (active.known or 0) + 1
            self.functions[key] = active.run.functions[number]
            hold(scheduler.tasks[key])

    def transition(
        self, key: Hashable, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Translate a transition of one of our tasks."""
        f = self.functions.get(key)
        if start == finish:
            return
        if f is None:
            if start == "processing" or finish == "processing":
                self.foreign.moved(key)
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
            started, stopped, *loaded = (kwargs.get("metadata") or {}).get(NAME, (None, None))
            nbytes = kwargs.get("nbytes")
            state.finished(f, time(), started=started, stopped=stopped, nbytes=nbytes, loaded=bool(loaded))
            self._after_end(f, key)
            self.wake()
        elif finish == "erred":
            self._erred(f, key, kwargs)
            self._after_end(f, key)
            self.wake()
        elif finish == "forgotten":
            state.dropped(f, time())
            self.keeper.ended(key)
            stealing.forget(self.scheduler, self.scheduler.tasks[key])
            self._reports.pop(key, None)  # its node may have been lost between the report and the failure
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
                    self.lingering.watch(f.node, key, state.taken_back(f, time()))
                else:
                    state.lost(f, time())
                self.keeper.ended(key)
                self.wake()
            if finish == "released":
                hold(self.scheduler.tasks[key])
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
        self.state.gave_up(f, time(), describe(f, exception))
        self.failures.note(f, time())

    def _after_end(self, f: FunctionState, key: Hashable) -> None:
        """Give up the result of a function whose run was cancelled, or which nobody wanted, while it ran."""
        self.keeper.ended(key)
        if f.run.status is RunStatus.CANCELLED:
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
        **kwargs: Any,
    ) -> None:
        """An attempt failed: let the core decide, and Dask carry out what it decides."""
        f = self.functions.get(key)
        ts = self.scheduler.tasks.get(key)
        reported, report = self._reports.pop(key, (run_id, {}))
        if reported != run_id:
            report = {}
        if f is None or ts is None:
            return
        if ts.state == "memory" and all(ws.address != worker for ws in ts.who_has or ()):
            self._did_not_travel(f, key, exception, exception_text, traceback_text)
        if ts.state != "processing" or ts.run_id != run_id:
            return
        started, stopped = report.get("times", (None, None))
        retry = self.state.failed(
            f,
            time(),
            started=started,
            stopped=stopped,
            error=exception_text,
            traceback=traceback_text,
            retryable=report.get("retryable", True),
        )
        ts.retries = 1 if retry else 0
        self.failures.note(f, time())
        if not retry:
            self.runs[f.run.spec.run_id].errors[f.number] = exception
        self.wake()

    def _did_not_travel(
        self, f: FunctionState, key: Hashable, exception: Any, exception_text: str, traceback_text: str
    ) -> None:
        """A node could not get a result that is there, and Dask would let whoever needs it wait for ever."""
        error = f"its result could not be moved to another node: {exception_text}"
        if self.state.unmovable(f, time(), error, traceback_text):
            self.failures.note(f, time())
            self.runs[f.run.spec.run_id].errors[f.number] = exception
            self.scheduler.transitions({key: "released"}, f"handoff-unmovable-{time()}")
            self.wake()

    def _run_dropped(self, *, dropped: str, **kwargs: Any) -> None:
        active = self.runs.get(dropped)
        if active is not None:
            active.dropped = True
            self.wake()

    def _attempt_reported(self, *, key: Hashable, run_id: int, **report: Any) -> None:
        if key in self.functions:
            self._reports[key] = run_id, report

    # ------------------------------------------------------------------ decisions

    def wake(self) -> None:
        """Decide at the next turn of the event loop, once for all that happens until then."""
        if not self._tick_due:
            self._tick_due = True
            self.loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._tick_due = False
        if self.scheduler.status is not Status.running:
            return
        try:
            self.keeper.release()
            self._carry_out(self.state.decide(time()), f"handoff-{time()}")
        except Exception as error:
            logger.exception("handoff_dask could not carry out its decisions; all its runs end")
            for active in list(self.runs.values()):
                self._break(active, error)
                self._end(active)

    def _carry_out(self, decisions: list[Decision], stimulus_id: str) -> None:
        self.membership.refresh_accepting()
        placed: dict[Any, FunctionState] = {}
        for decision in decisions:
            if isinstance(decision, Place):
                f = decision.function
                key = self.runs[f.run.spec.run_id].keys[f.number]
                self._place(key, decision)
                placed[key] = f
        if placed:
            # Dask takes recommendations from the end.
            self.scheduler.transitions(dict.fromkeys(reversed(placed), "processing"), stimulus_id)
            for key, f in placed.items():
                ts = self.scheduler.tasks.get(key)
                if ts is not None and ts.state == "no-worker":
                    hold(ts)
                    self.state.refused(f)
        for decision in decisions:
            if isinstance(decision, Fail):
                self._fail(decision, stimulus_id)
            elif isinstance(decision, TooLate):
                self._say_too_late(decision.function, stimulus_id)
            elif isinstance(decision, Recall):
                self._recall(decision, stimulus_id)
            elif isinstance(decision, End):
                self._end(self.runs[decision.run.spec.run_id])
        self._collect()
        self._set_timer()

    def _place(self, key: Any, decision: Place) -> None:
        f, node = decision.function, decision.node
        ts = self.scheduler.tasks[key]
        ts.worker_restrictions = {self.scheduler.aliases[node.name]}
        # Exact multiples of a power of two: the worker's floats do not drift.
        resources = {name: units / UNIT for name, units in f.cost.items() if name in node.enforced}
        ts.resource_restrictions = resources or None
        facts: dict[str, Any] = {}
        if f.attempts:
            facts["attempt"] = len(f.attempts) + 1
        if f.devices:
            facts["devices"] = {name: list(indices) for name, indices in f.device_indices().items()}
        if decision.peer is not None:
            facts["peer"] = decision.peer
        if facts:  # what is not there is an attempt's default: most messages stay small
            ts.annotations[NAME] = facts

    def _fail(self, decision: Fail, stimulus_id: str) -> None:
        """Let Dask know that a task will never run, so that its dependents and clients do."""
        f = decision.function
        spec = f.run.spec
        active = self.runs[spec.run_id]
        key = active.keys[f.number]
        if decision.shortfall is not None:
            error = AllocationError(spec.dag_id, spec.run_id, [decision.shortfall])
            active.errors[f.number] = pickle.dumps(error)
            self.failures.note(f, time(), str(error))
        self._err(key, active.errors[f.number], stimulus_id)

    def _say_too_late(self, f: FunctionState, stimulus_id: str) -> None:
        """Tell whoever waits for a function that its run has ended, rather than let it stay parked."""
        run = f.run
        key = self.runs[run.spec.run_id].keys[f.number]
        ts = self.scheduler.tasks.get(key)
        if ts is not None and ts.state == "no-worker":
            self._err(key, ended_before(f), stimulus_id)

    def _err(self, key: Any, exception: Any, stimulus_id: str) -> None:
        """Let a parked task, and all that needs it, fail."""
        recommendations = self.scheduler.transition(
            key, "erred", exception=exception, cause=key, stimulus_id=stimulus_id
        )
        self.scheduler.transitions(recommendations, stimulus_id)

    def _recall(self, decision: Recall, stimulus_id: str) -> None:
        """Ask a worker for what it has not started, by the message with which Dask steals."""
        f = decision.function
        stream = self.scheduler.stream_comms.get(self.scheduler.aliases.get(decision.node.name, ""))
        if stream is not None:
            key = self.runs[f.run.spec.run_id].keys[f.number]
            stream.send({"op": "steal-request", "key": key, "stimulus_id": stimulus_id})

    def _asked_back(self, *, key: Hashable, state: str | None, worker: str, **message: Any) -> None:
        """A worker has given a task back, or has said that it runs it."""
        f, ts = self.functions.get(key), self.scheduler.tasks.get(key)
        if f is None:
            self.foreign.stolen(key)
            return
        there = ts is not None and ts.processing_on is not None and ts.processing_on.address == worker
        if there and state in GIVEN_BACK:
            self.state.returned(f)
            self.scheduler.transitions({key: "released"}, f"handoff-returned-{time()}")
            self.wake()

    def _end(self, active: ActiveRun) -> None:
        """Tell the client that its run has ended, and release what will not run."""
        run, client = active.run, active.client
        if active.ended is None:
            active.ended = time()
        if client in self.scheduler.client_comms:
            message = {"op": RUN_ENDED, "run_id": run.spec.run_id, "status": run.status.value}
            self.scheduler.client_send(client, message)
        if run.status is not RunStatus.FINISHED:
            tasks = self.scheduler.tasks
            keys = [key for key in active.keys if (ts := tasks.get(key)) and ts.state in UNSTARTED]
            self._release(active, keys)
            for key in keys:  # others may want them, or have tasks that need them
                if key in self.functions:
                    self._say_too_late(self.functions[key], f"handoff-{time()}")

    def _release(self, active: ActiveRun, keys: list[Any]) -> None:
        if keys and active.client in self.scheduler.clients:
            self.scheduler.client_releases_keys(keys=keys, client=active.client)
            self._say_cancelled(active.client, keys)

    def _say_cancelled(self, client: str, keys: list[Any]) -> None:
        """Let a client's futures be cancelled ones."""
        message = {"op": "cancelled-keys", "keys": keys, "reason": NAME, "msg": "the run has ended"}
        self.scheduler.report(message, client=client)

    def _collect(self) -> None:
        """Release results of cancelled runs, and forget runs of which Dask has forgotten everything."""
        for run_id, active in list(self.runs.items()):
            if active.release:
                keys, active.release = active.release, []
                self._release(active, keys)
            if active.known == 0 and active.run.ended and active.dropped:
                self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        active = self.runs.pop(run_id)
        self.state.run_removed(run_id)
        if active.ended is None:
            active.ended = time()
        self.archive.add(active.info(active.ended), active.run)

    def _keep_parked(self) -> None:
        """Keep Dask from failing parked tasks where an administrator has set its no-workers-timeout."""
        now = monotonic()
        unrunnable = self.scheduler.unrunnable
        for ts in [ts for ts in unrunnable if ts.key in self.functions]:
            del unrunnable[ts]  # the order is that of the times
            unrunnable[ts] = now
        self.loop.call_later(self.scheduler.no_workers_timeout / 4, self._keep_parked)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.state.next_wake()
        if at is not None:
            self._timer = self.loop.call_later(max(0.0, at - time()), self.wake)

    def _break(self, active: ActiveRun, error: Exception) -> None:
        """An error of ours is the failure of the run concerned, not something to be swallowed."""
        active.broken = f"{type(error).__name__}: {error}"
        if not active.run.ended:
            self.state.run_cancelled(active.run.spec.run_id)
        self.wake()


#: Dask states of tasks that have neither started nor ended.
UNSTARTED = frozenset({"released", "waiting", "no-worker", "queued"})


#: States on a worker of tasks that it gives back when it is asked to.
GIVEN_BACK = frozenset({"ready", "constrained", "waiting"})


def hold(ts: TaskState) -> None:
    """Keep a task from being placed by anyone but us."""
    ts.worker_restrictions = HELD
    ts.host_restrictions = None
    ts.resource_restrictions = None


def ended_before(f: FunctionState) -> bytes:
    """What to tell whoever waits for a function that will not run any more, pickled."""
    spec = f.run.spec
    return pickle.dumps(RunEndedError(spec.dag_id, spec.run_id, f.id, f.run.status.value))


def describe(f: FunctionState, exception: Any) -> str | None:
    """What a pickled exception of Dask's own says, in words for the attempt of a function that runs."""
    if not isinstance(exception, bytes):
        return None
    try:
        error = pickle.loads(exception)
    except Exception:
        return None
    return explain_loss(f, error.allowed_failures) if isinstance(error, KilledWorker) else repr(error)

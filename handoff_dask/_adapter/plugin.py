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

from distributed import SchedulerPlugin
from distributed.comm import CommClosedError
from distributed.core import Status
from distributed.metrics import monotonic, time
from distributed.protocol import Serialize, Serialized, deserialize, pickle

from handoff_dask._adapter.capacity import capacity_of, node_of, probe_node
from handoff_dask._adapter.config import read_settings
from handoff_dask._adapter.messages import ATTEMPT_FAILED, NAME, PROTOCOL, RUN_DROPPED
from handoff_dask._model.resources import THREADS, UNIT, from_units, parse_amounts
from handoff_dask._scheduling.functions import FINAL, NAMES, FunctionState
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.placement import Place
from handoff_dask._scheduling.runs import Run, RunStatus
from handoff_dask._scheduling.spec import RunSpec
from handoff_dask._scheduling.state import End, Fail, SchedulingState
from handoff_dask._version import __version__
from handoff_dask.exceptions import AllocationError

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState

logger = logging.getLogger(__name__)

#: Seconds to wait for a worker's answer before going on without it.
PROBE_TIMEOUT = 5.0

#: No worker has this address: a task restricted to it is parked.
HELD = frozenset({"handoff://held"})


def topic_of(client: str) -> str:
    """The topic on which a client hears of its runs."""
    return f"{NAME}-{client}"


class ActiveRun:
    """A run on this scheduler: the core's run, and what Dask knows of it.

    Attributes
    ----------
    run : Run
    client : str
        Id of the client that submitted it.
    keys : list
        Function number → Dask key.
    known : int
        Keys that the scheduler has not forgotten yet; None before the graph has arrived.
    errors : dict
        Function number → exception of its final failure, as Dask sends it.
    dropped : bool
        Nobody will ask about it any more.
    broken : str or None
        What went wrong in this plugin.
    release : list
        Keys of results to give up: they were running when the run was cancelled.
    """

    def __init__(self, run: Run, client: str) -> None:
        self.run = run
        self.client = client
        self.keys: list[Any] = [None] * len(run.functions)
        self.known: int | None = None
        self.errors: dict[int, Any] = {}
        self.dropped = False
        self.broken: str | None = None
        self.release: list[Any] = []


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
        self.runs: dict[str, ActiveRun] = {}
        self.functions: dict[Hashable, FunctionState] = {}
        self.detected: dict[str, dict[str, Any]] = {}
        self.unusable: dict[str, str] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self.registered: dict[Any, dict[str, Any]] = {}
        self._reports: dict[tuple[Hashable, int], dict[str, Any]] = {}
        self._tick_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._wrap_stream("task-erred", self._task_erred)
        self._wrap_stream("worker-status-change", self._worker_status_changed)
        scheduler.stream_handlers[ATTEMPT_FAILED] = self._attempt_reported
        scheduler.stream_handlers[RUN_DROPPED] = self._run_dropped
        for name in ("prepare", "cancel", "report", "counts", "nodes", "register_node", "available"):
            scheduler.handlers[f"{NAME}_{name}"] = getattr(self, f"handle_{name}")
        for address in list(scheduler.workers):
            self.add_worker(scheduler, address)
        await self._probed()
        if scheduler.no_workers_timeout:
            self._keep_parked()
        scheduler.set_metadata([NAME], {"version": __version__, "protocol": PROTOCOL})

    def _wrap_stream(self, op: str, before: Callable[..., None]) -> None:
        original = self.scheduler.stream_handlers[op]

        def handler(**message: Any) -> Any:
            try:
                before(**message)
            except Exception:
                logger.exception("handoff_dask could not take note of %r", op)
            return original(**message)

        self.scheduler.stream_handlers[op] = handler

    # ------------------------------------------------------------------ requests of clients

    async def handle_prepare(self, spec: bytes, client: str, protocol: int) -> dict[str, Any]:
        """Announce a run; its graph follows. Answers with the shortfalls when it cannot be placed."""
        if protocol != PROTOCOL:
            return {"status": "protocol", "version": __version__}
        run_spec: RunSpec = pickle.loads(spec)
        await self._probed()
        if self.unusable and not self.state.nodes:
            return {"status": "unusable", "workers": dict(self.unusable)}
        run = self.state.run_added(run_spec, time())
        if run.status is RunStatus.FAILED:
            self.state.run_removed(run_spec.run_id)
            return {"status": "unplaceable", "shortfalls": pickle.dumps(run.shortfalls)}
        self.scheduler.subscribe_topic(topic_of(client), client)
        self.runs[run_spec.run_id] = ActiveRun(run, client)
        self._wake()
        return {"status": run.status.value}

    async def handle_cancel(self, run_id: str) -> bool:
        """Start nothing more of a run. Answers whether there was anything to cancel."""
        active = self.runs.get(run_id)
        if active is None or active.run.ended:
            return False
        self.state.run_cancelled(run_id)
        self._wake()
        return True

    async def handle_report(self, run_id: str) -> dict[str, Any] | None:
        """What is known of a run: status, records by function number, exceptions of failures."""
        active = self.runs.get(run_id)
        if active is None:
            return None
        run = active.run
        return {
            "status": run.status.value,
            "broken": active.broken,
            "shortfalls": pickle.dumps(run.shortfalls),
            "rows": pickle.dumps([self.state.row(f) for f in run.functions]),
            "failed": [f.number for f in run.failed],
            "errors": [active.errors.get(f.number) for f in run.failed],
        }

    async def handle_counts(self, run_id: str) -> dict[str, int]:
        """Number of functions of a run in each state."""
        active = self.runs.get(run_id)
        return {} if active is None else {NAMES[s]: n for s, n in active.run.counts.items()}

    async def handle_nodes(self) -> list[dict[str, Any]]:
        """Every node's name, address, capacity and free amounts, by name."""
        await self._probed()
        return [
            {
                "name": node.name,
                "address": self.scheduler.aliases.get(node.name),
                "capacity": {r: from_units(n) for r, n in node.capacity.items() if n and r != THREADS},
                "free": {r: from_units(node.free(r)) for r, n in node.capacity.items() if n},
            }
            for node in self.state.placement.sorted_nodes
        ]

    async def handle_register_node(self, name: Any, capacity: dict[str, Any]) -> bool | list[Any]:
        """Change what a node has. Answers with the names of all nodes when there is none of this name."""
        node = self._node_called(name)
        if node is None:
            return sorted(self.state.nodes, key=str)
        self.registered.setdefault(node.name, {}).update(capacity)
        node.enforced -= set(capacity)
        self._resize(node.name)
        return True

    async def handle_available(self, name: Any, cost: dict[str, Any]) -> bool | list[Any]:
        """Whether a cost is free on a node now. Answers with the names of all nodes as above."""
        node = self._node_called(name)
        if node is None:
            return sorted(self.state.nodes, key=str)
        return node.accepting and node.fits({THREADS: UNIT, **parse_amounts(cost)})

    def _node_called(self, name: Any) -> Node | None:
        return next((node for n, node in self.state.nodes.items() if str(n) == str(name)), None)

    def _resize(self, name: Any) -> None:
        ws = self.scheduler.workers[self.scheduler.aliases[name]]
        capacity = capacity_of(ws, self.detected.get(ws.address, {}), self.registered.get(name, {}))
        self.state.node_resized(name, capacity)
        self._wake()

    # ------------------------------------------------------------------ hooks: workers and clients

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker joins. It becomes a node once it has shown that it has handoff_dask."""
        self._probes[worker] = self.loop.create_task(self._probe(worker))

    async def _probe(self, address: str) -> None:
        scheduler = self.scheduler
        try:
            answer = await scheduler.rpc(address).run(function=pickle.dumps(probe_node))
            facts = opened(answer.get("result")) if answer["status"] == "OK" else {}
            problem = None
            if facts.get("protocol") != PROTOCOL:
                problem = answer.get("exception_text") or "another version of handoff_dask"
        except (OSError, CommClosedError):
            return  # it is gone again
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            self._probes.pop(address, None)
        ws = scheduler.workers.get(address)
        if ws is None:
            return
        if problem is not None:
            self.unusable[address] = problem
            logger.warning("No functions of handoff_dask will be placed on %s: %s", address, problem)
            return
        self.detected[address] = facts["detected"]
        node = node_of(ws, facts["detected"], self.registered.get(ws.name, {}))
        node.accepting = ws.status is Status.running
        self.state.node_joined(node, time())
        self._wake()

    async def _probed(self) -> None:
        """Wait until every worker there is has been asked, though not for one that does not answer."""
        if self._probes:
            await asyncio.wait(list(self._probes.values()), timeout=PROBE_TIMEOUT)

    def remove_worker(self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any) -> None:
        """A node leaves. Dask has taken its tasks back already."""
        self.detected.pop(worker, None)
        self.unusable.pop(worker, None)
        if (probe := self._probes.pop(worker, None)) is not None:
            probe.cancel()
        for name, node in list(self.state.nodes.items()):
            if worker in node.aliases and scheduler.aliases.get(name) != worker:
                self.state.node_left(name, time())
        self._wake()

    def _worker_status_changed(self, *, status: Any, worker: str, **kwargs: Any) -> None:
        ws = self.scheduler.workers.get(worker)
        if ws is not None:
            # Dask changes the status after this; by the time of the decision it has.
            running = (Status[status] if isinstance(status, str) else status) is Status.running
            self.state.node_accepting(ws.name, running)
            self._wake()

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """A client is gone; Dask has released what it alone wanted."""
        for run_id, active in list(self.runs.items()):
            if active.client == client:
                active.dropped = True
                if active.known is None:
                    self._forget(run_id)  # its graph will not come any more
        self._wake()
        scheduler.unsubscribe_topic(topic_of(client), client)

    # ------------------------------------------------------------------ hooks: tasks

    def update_graph(
        self, scheduler: Scheduler, *, annotations: dict[str, dict[Any, Any]], **kwargs: Any
    ) -> None:
        """Hold the tasks of a run that arrives."""
        marked = annotations.get(NAME)
        if not marked:
            return
        tasks = scheduler.tasks
        for key, run_id in marked.items():
            active = self.runs.get(run_id) if isinstance(run_id, str) else None
            if active is None or key in self.functions:
                continue
            number = key[1]
            active.keys[number] = key
            active.known = (active.known or 0) + 1
            self.functions[key] = active.run.functions[number]
            hold(tasks[key])

    def transition(
        self, key: Hashable, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Translate a transition of one of our tasks."""
        f = self.functions.get(key)
        if f is None or start == finish:
            return
        try:
            self._translate(f, key, start, finish, kwargs)
        except Exception as error:
            self._break(f, error)

    def _translate(
        self, f: FunctionState, key: Hashable, start: str, finish: str, kwargs: dict[str, Any]
    ) -> None:
        state = self.state
        if finish == "no-worker":
            state.ready(f, time())
            self._wake()
        elif finish == "memory":
            started, stopped = (kwargs.get("metadata") or {}).get(NAME, (None, None))
            state.finished(f, time(), started=started, stopped=stopped, nbytes=kwargs.get("nbytes"))
            self._after_end(f, key)
            self._wake()
        elif finish == "erred":
            self._erred(f, key, kwargs)
            self._wake()
        elif finish == "forgotten":
            state.dropped(f, time())
            del self.functions[key]
            active = self.runs[f.run.spec.run_id]
            assert active.known is not None
            active.known -= 1
            self._wake()
        else:
            if start == "no-worker" and finish != "processing":
                state.withdrawn(f)
            elif start == "processing":
                # A failed attempt was closed before; what is still open here ended without failing.
                gone = f.node is not None and f.node.name not in self.scheduler.aliases
                state.lost(f, time(), "lost" if gone else "cancelled")
                self._wake()
            if finish == "released":
                hold(self.scheduler.tasks[key])
            elif finish == "waiting":
                state.result_lost(f)

    def _erred(self, f: FunctionState, key: Hashable, kwargs: dict[str, Any]) -> None:
        if f.state in FINAL:
            return
        blame = self.scheduler.tasks[key].exception_blame
        if blame is not None and blame.key != key and blame.key in self.functions:
            self.state.skipped(f, time())
            return
        exception = kwargs.get("exception")
        self.runs[f.run.spec.run_id].errors[f.number] = exception
        self.state.gave_up(f, time(), describe(exception))

    def _after_end(self, f: FunctionState, key: Hashable) -> None:
        """Give up the result of a function that was running when its run was cancelled."""
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
        report = self._reports.pop((key, run_id), {})
        if f is None or ts is None or ts.state != "processing" or ts.run_id != run_id:
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
        if not retry:
            self.runs[f.run.spec.run_id].errors[f.number] = exception
        self._wake()

    def _run_dropped(self, *, dropped: str, **kwargs: Any) -> None:
        active = self.runs.get(dropped)
        if active is not None:
            active.dropped = True
            self._wake()

    def _attempt_reported(self, *, key: Hashable, run_id: int, **report: Any) -> None:
        if key in self.functions:
            self._reports[key, run_id] = report

    # ------------------------------------------------------------------ decisions

    def _wake(self) -> None:
        if not self._tick_due:
            self._tick_due = True
            self.loop.call_soon(self._tick)

    def _tick(self) -> None:
        """Carry out what the core decides, once for all that happened since the last time."""
        self._tick_due = False
        if self.scheduler.status is not Status.running:
            return
        for node in self.state.nodes.values():
            if not node.accepting:  # not every way back to work is announced
                ws = self.scheduler.workers.get(self.scheduler.aliases[node.name])
                self.state.node_accepting(node.name, ws is not None and ws.status is Status.running)
        stimulus_id = f"handoff-{time()}"
        try:
            decisions = self.state.decide(time())
        except Exception as error:
            logger.exception("The scheduling core of handoff_dask failed; all its runs end")
            for active in list(self.runs.values()):
                self._end(active, broken=f"{type(error).__name__}: {error}")
            return
        placed: dict[Any, str] = {}
        places: list[tuple[Any, FunctionState]] = []
        for decision in decisions:
            if isinstance(decision, Place):
                f = decision.function
                key = self.runs[f.run.spec.run_id].keys[f.number]
                self._place(key, decision)
                placed[key] = "processing"
                places.append((key, f))
        if placed:
            # Dask takes recommendations from the end.
            self.scheduler.transitions(dict(reversed(placed.items())), stimulus_id)
            for key, f in places:
                ts = self.scheduler.tasks.get(key)
                if ts is not None and ts.state == "no-worker":
                    hold(ts)
                    self.state.refused(f)
        for decision in decisions:
            if isinstance(decision, Fail):
                self._fail(decision, stimulus_id)
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
        error = pickle.dumps(AllocationError(spec.dag_id, spec.run_id, [decision.shortfall]))
        active.errors[f.number] = error
        recommendations = self.scheduler.transition(
            key, "erred", exception=error, cause=key, stimulus_id=stimulus_id
        )
        self.scheduler.transitions(recommendations, stimulus_id)

    def _end(self, active: ActiveRun, broken: str | None = None) -> None:
        """Tell the client that its run has ended, and release what will not run."""
        run, client = active.run, active.client
        if broken:
            active.broken = broken
            if not run.ended:
                self.state.run_cancelled(run.spec.run_id)
        self.scheduler.log_event(topic_of(client), {"run": run.spec.run_id, "status": run.status.value})
        if run.status is not RunStatus.FINISHED:
            tasks = self.scheduler.tasks
            keys = [key for key in active.keys if (ts := tasks.get(key)) and ts.state in UNSTARTED]
            self._release(active, keys)

    def _release(self, active: ActiveRun, keys: list[Any]) -> None:
        if keys and active.client in self.scheduler.clients:
            self.scheduler.client_releases_keys(keys=keys, client=active.client)
            message = {"op": "cancelled-keys", "keys": keys, "reason": NAME, "msg": "the run has ended"}
            self.scheduler.report(message, client=active.client)

    def _collect(self) -> None:
        """Release results of cancelled runs, and forget runs of which Dask has forgotten everything."""
        for run_id, active in list(self.runs.items()):
            if active.release:
                keys, active.release = active.release, []
                self._release(active, keys)
            if active.known == 0 and active.run.ended and active.dropped:
                self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        del self.runs[run_id]
        self.state.run_removed(run_id)

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
            self._timer = self.loop.call_later(max(0.0, at - time()), self._wake)

    def _break(self, f: FunctionState, error: Exception) -> None:
        """An error of ours is the failure of the run concerned, not something to be swallowed."""
        logger.exception("handoff_dask failed on %r", f)
        active = self.runs.get(f.run.spec.run_id)
        if active is not None:
            active.broken = f"{type(error).__name__}: {error}"
            if not active.run.ended:
                self.state.run_cancelled(f.run.spec.run_id)
            self._wake()


#: Dask states of tasks that have neither started nor ended.
UNSTARTED = frozenset({"released", "waiting", "no-worker", "queued"})


def hold(ts: TaskState) -> None:
    """Keep a task from being placed by anyone but us."""
    ts.worker_restrictions = HELD
    ts.host_restrictions = None
    ts.resource_restrictions = None


def opened(value: Any) -> Any:
    """A value that came in a message and was not unpacked, since the scheduler unpacks none."""
    if isinstance(value, Serialize):
        return value.data
    if isinstance(value, Serialized):
        return deserialize(value.header, value.frames)
    return value


def describe(exception: Any) -> str | None:
    """Text of a pickled exception of Dask's own."""
    if not isinstance(exception, bytes):
        return None
    try:
        return repr(pickle.loads(exception))
    except Exception:
        return None

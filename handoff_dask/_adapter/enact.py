"""What the core decides, carried out in Dask's terms; and what runs leave behind, cleared away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from distributed.metrics import time
from distributed.protocol import pickle

from handoff_dask._adapter._dask import clients, tasks
from handoff_dask._adapter._dask.tasks import park
from handoff_dask._adapter.absence import stand_in
from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.messages import NAME, RUN_BEGUN, RUN_ENDED
from handoff_dask._model.resources import UNIT
from handoff_dask._scheduling.decisions import Begin, Decision, End, Fail, Place, Recall, Stop, TooLate
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import RunStatus
from handoff_dask.exceptions import AllocationError, RunEndedError

if TYPE_CHECKING:
    from handoff_dask._adapter.plugin import HandoffPlugin

#: Keys that are released in one turn of the event loop: Dask needs some 20 microseconds for each.
BATCH = 1_000

#: Dask states of tasks that have neither started nor ended.
UNSTARTED = frozenset({"released", "waiting", "no-worker", "queued"})


class Enactor:
    """Carries decisions out on a plugin's scheduler. It decides nothing itself."""

    def __init__(self, plugin: HandoffPlugin) -> None:
        self._plugin = plugin
        self._scheduler = plugin.scheduler

    def _key(self, f: FunctionState) -> Any:
        return self._plugin.runs[f.run.spec.run_id].keys[f.number]

    def carry_out(self, decisions: Sequence[Decision], stimulus_id: str) -> None:
        """Carry decisions out: placements first, all in one step of Dask's."""
        self._carry_out_placements([d for d in decisions if isinstance(d, Place)], stimulus_id)
        for decision in decisions:
            if isinstance(decision, Fail):
                self._fail(decision, stimulus_id)
            elif isinstance(decision, TooLate):
                self._say_too_late(decision.function, stimulus_id)
            elif isinstance(decision, Recall):
                self._recall(decision, stimulus_id)
            elif isinstance(decision, Begin):
                self._tell_client(self._plugin.runs[decision.run.spec.run_id], op=RUN_BEGUN)
            elif isinstance(decision, End):
                self.end(self._plugin.runs[decision.run.spec.run_id])
        self._stop([d for d in decisions if isinstance(d, Stop)])

    def _stop(self, stops: list[Stop]) -> None:
        attempts: defaultdict[str, list[Hashable]] = defaultdict(list)
        for f, node, number in stops:
            key = self._key(f)
            attempts[self._scheduler.aliases.get(node.name, "")].append((key, number))
        for address, those in attempts.items():
            self._plugin.stopping.stop(address, those)

    def _carry_out_placements(self, placements: list[Place], stimulus_id: str) -> None:
        placed: dict[Any, FunctionState] = {}
        gone: dict[Node, None] = {}
        for placement in placements:
            f, node = placement.function, placement.node
            address = self._scheduler.aliases.get(node.name)
            if address is None:
                self._plugin.state.refused(f)  # it has not started, and is not lost with its node
                gone[node] = None
                continue
            key = self._key(f)
            self._place(key, placement, address)
            placed[key] = f
        for node in gone:
            self._plugin.membership.vanished(node)
        if placed:
            # Dask takes recommendations from the end.
            tasks.move(self._scheduler, dict.fromkeys(reversed(placed), "processing"), stimulus_id)
            for key, f in placed.items():
                ts = self._scheduler.tasks.get(key)
                if ts is not None and ts.state == "no-worker":
                    park(ts)
                    self._plugin.state.refused(f)

    def _place(self, key: Any, decision: Place, address: str) -> None:
        f, node = decision.function, decision.node
        ts = self._scheduler.tasks[key]
        # Exact multiples of a power of two: the worker's floats do not drift.
        tasks.pin(ts, address, {name: n / UNIT for name, n in f.cost.items() if name in node.enforced})
        facts: dict[str, Any] = {}
        if f.attempts:
            facts["attempt"] = len(f.attempts) + 1
        if f.devices:
            facts["devices"] = {name: list(indices) for name, indices in f.device_indices().items()}
        if decision.peer is not None:
            facts["peer"] = decision.peer
        if facts:  # what is not there is an attempt's default: most messages stay small
            tasks.annotate(ts, NAME, facts)

    def _fail(self, decision: Fail, stimulus_id: str) -> None:
        """Let Dask know that a task will never run, so that its dependents and clients do."""
        f = decision.function
        spec = f.run.spec
        active = self._plugin.runs[spec.run_id]
        key = active.keys[f.number]
        if decision.shortfall is not None:
            error = AllocationError(spec.dag_id, spec.run_id, [decision.shortfall])
            active.errors[f.number] = pickle.dumps(error)
            self._plugin.failures.note(f, time(), str(error))
        self._err(key, active.errors[f.number], stimulus_id)

    def _say_too_late(self, f: FunctionState, stimulus_id: str) -> None:
        """Tell whoever waits for a function that its run has ended, rather than let it stay parked."""
        key = self._key(f)
        self._err(key, ended_before(f), stimulus_id)

    def _err(self, key: Any, exception: Any, stimulus_id: str) -> None:
        """Let a parked task, and all that needs it, fail; Dask may have released it, as all that failed."""
        ts = self._scheduler.tasks.get(key)
        if ts is not None and ts.state == "no-worker":
            tasks.fail_parked(self._scheduler, key, exception, stimulus_id)

    def _recall(self, decision: Recall, stimulus_id: str) -> None:
        """Ask a worker for what it has not started."""
        address = self._scheduler.aliases.get(decision.node.name, "")
        tasks.recall(self._scheduler, address, self._key(decision.function), stimulus_id)

    def _tell_client(self, active: ActiveRun, **message: Any) -> None:
        clients.send(self._scheduler, active.client, {"run_id": active.run.spec.run_id, **message})

    def end(self, active: ActiveRun) -> None:
        """Tell the client that its run has ended, and have released what will not run."""
        run = active.run
        if active.ended is None:
            active.ended = time()
        self._tell_client(active, op=RUN_ENDED, status=run.status.value)
        if run.status is not RunStatus.FINISHED:
            known = self._scheduler.tasks
            active.release += [key for key in active.keys if (ts := known.get(key)) and ts.state in UNSTARTED]

    def release_unstarted(self, active: ActiveRun, most: int) -> None:
        """Release some of what a run that has ended does not need, and fail it where others need it."""
        keys, active.release = active.release[:most], active.release[most:]
        self._release(active.client, keys)
        for key in keys:
            if key in self._plugin.functions:
                self._say_too_late(self._plugin.functions[key], f"handoff-{time()}")

    def want(self, keys: list[Any], client: str) -> None:
        """A client wants keys again; it is told of those that are gone."""
        known = self._scheduler.tasks
        clients.want(self._scheduler, [key for key in keys if key in known], client)
        self.tell_cancelled([key for key in keys if key is not None and key not in known], client)

    def _release(self, client: str, keys: list[Any]) -> None:
        for name in (client, stand_in(client)):
            if keys and name in self._scheduler.clients:
                clients.unwant(self._scheduler, keys, name)
        self.tell_cancelled(keys, client)

    def tell_cancelled(self, keys: list[Any], client: str) -> None:
        """Let a client's futures be cancelled ones."""
        clients.tell_cancelled(self._scheduler, client, keys, NAME, "the run has ended")

    def collect(self) -> None:
        """Release what nobody needs, and forget runs of which Dask has forgotten everything."""
        strays, self._plugin.strays = self._plugin.strays, {}
        for client, keys in strays.items():
            self._release(client, keys)
        for run_id, active in list(self._plugin.runs.items()):
            if active.release:
                self.release_unstarted(active, BATCH)
                if active.release:
                    self._plugin.wake()
            if not active.known and active.run.ended and active.dropped:
                self.forget(run_id)

    def forget(self, run_id: str) -> None:
        active = self._plugin.runs.pop(run_id)
        self._plugin.state.run_removed(run_id)
        if active.ended is None:
            active.ended = time()
        self._plugin.archive.add(active.info(active.ended), active.run)

    def leave_to_dask(self) -> None:
        """What was submitted fails where somebody needs it, and Dask may compute again what is lost."""
        parked = []
        for key, f in list(self._plugin.functions.items()):
            ts = self._scheduler.tasks.get(key)
            if ts is None:
                continue
            tasks.unpin(ts)
            if ts.state == "no-worker":  # a result that is needed again
                parked.append(key)
            elif ts.state == "waiting":  # it would become ready after this
                tasks.fail_waiting(self._scheduler, ts, ended_before(f), f"handoff-removed-{time()}")
        tasks.move(self._scheduler, dict.fromkeys(parked, "processing"), f"handoff-removed-{time()}")


def ended_before(f: FunctionState) -> bytes:
    """What to tell whoever waits for a function that will not run any more, pickled."""
    spec = f.run.spec
    return pickle.dumps(RunEndedError(spec.dag_id, spec.run_id, f.id, f.run.status.value))

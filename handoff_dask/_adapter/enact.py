"""Enacts the core's decisions as Dask transitions and messages, and cleans up after ended runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from distributed.metrics import time
from distributed.protocol import pickle

from handoff_dask._adapter._dask import clients, tasks
from handoff_dask._adapter._dask.tasks import park
from handoff_dask._adapter.active import ActiveRun
from handoff_dask._adapter.disconnects import placeholder
from handoff_dask._adapter.messages import NAME, RUN_BEGUN, RUN_ENDED
from handoff_dask._model.resources import UNIT
from handoff_dask._scheduling.decisions import (
    Begin,
    ComputeCost,
    Decision,
    End,
    Fail,
    Place,
    Recall,
    Stop,
    TooLate,
)
from handoff_dask._scheduling.functions import FunctionState
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import RunStatus
from handoff_dask.exceptions import AllocationError, RunEndedError

if TYPE_CHECKING:
    from handoff_dask._adapter.plugin import HandoffPlugin

#: Maximum number of keys released per iteration of the event loop: Dask needs some 20 microseconds for each.
BATCH = 1_000

#: Dask's states of tasks that have neither started nor ended.
UNSTARTED = frozenset({"released", "waiting", "no-worker", "queued"})


class Enactor:
    """Carries out decisions on the plugin's scheduler. It decides nothing itself."""

    def __init__(self, plugin: HandoffPlugin) -> None:
        self._plugin = plugin
        self._scheduler = plugin.scheduler

    def _key(self, f: FunctionState) -> Any:
        return self._plugin.runs[f.run.spec.run_id].keys[f.number]

    def carry_out(self, decisions: Sequence[Decision], stimulus_id: str) -> None:
        """Carry out decisions: first the placements, as one batch of transitions."""
        self._carry_out_placements([d for d in decisions if isinstance(d, Place)], stimulus_id)
        computations = []
        for decision in decisions:
            if isinstance(decision, Fail):
                self._fail(decision, stimulus_id)
            elif isinstance(decision, TooLate):
                self._fail_late(decision.function, stimulus_id)
            elif isinstance(decision, Recall):
                self._recall(decision, stimulus_id)
            elif isinstance(decision, ComputeCost):
                computations.append(decision)
            elif isinstance(decision, Begin):
                self._notify(self._plugin.runs[decision.run.spec.run_id], op=RUN_BEGUN)
            elif isinstance(decision, End):
                self.end(self._plugin.runs[decision.run.spec.run_id])
        if computations:
            self._plugin.costs.compute(computations)
        self._stop([d for d in decisions if isinstance(d, Stop)])

    def _stop(self, stops: list[Stop]) -> None:
        attempts: defaultdict[str, list[Hashable]] = defaultdict(list)
        for f, node, number in stops:
            key = self._key(f)
            attempts[self._scheduler.aliases.get(node.name, "")].append((key, number))
        for address, numbered_keys in attempts.items():
            self._plugin.stopper.stop(address, numbered_keys)

    def _carry_out_placements(self, placements: list[Place], stimulus_id: str) -> None:
        placed: dict[Any, FunctionState] = {}
        gone: dict[Node, None] = {}
        for placement in placements:
            f, node = placement.function, placement.node
            address = self._scheduler.aliases.get(node.name)
            if address is None:
                self._plugin.state.refused(f)  # it has not started, so it is not lost with its node
                gone[node] = None
                continue
            key = self._key(f)
            self._place(key, placement, address)
            placed[key] = f
        for node in gone:
            self._plugin.membership.vanished(node)
        if placed:
            # Dask processes recommendations from the end.
            tasks.move(self._scheduler, dict.fromkeys(reversed(placed), "processing"), stimulus_id)
            for key, f in placed.items():
                ts = self._scheduler.tasks.get(key)
                if ts is not None and ts.state == "no-worker":
                    park(ts)
                    self._plugin.state.refused(f)

    def _place(self, key: Any, decision: Place, address: str) -> None:
        f, node = decision.function, decision.node
        ts = self._scheduler.tasks[key]
        # The amounts are exact multiples of a power of two, so the worker's floats do not drift.
        tasks.pin(ts, address, {name: n / UNIT for name, n in f.cost.items() if name in node.enforced})
        annotation: dict[str, Any] = {}  # defaults are left out, to keep most messages small
        if f.attempts:
            annotation["attempt"] = len(f.attempts) + 1
        if f.asked is not None:
            annotation["cost"] = dict(f.asked)
        if f.devices:
            annotation["devices"] = {name: list(indices) for name, indices in f.device_indices().items()}
        if decision.peer is not None:
            annotation["peer"] = decision.peer
        if annotation:
            tasks.annotate(ts, NAME, annotation)

    def _fail(self, decision: Fail, stimulus_id: str) -> None:
        """Fail the task of a function that will never run, so that dependents and clients learn of it."""
        f = decision.function
        spec = f.run.spec
        active = self._plugin.runs[spec.run_id]
        key = active.keys[f.number]
        if decision.shortfall is not None:
            error = AllocationError(spec.dag_id, spec.run_id, [decision.shortfall])
            active.errors[f.number] = pickle.dumps(error)
            self._plugin.failures.note(f, time(), str(error))
        self._fail_task(key, active.errors[f.number], stimulus_id)

    def _fail_late(self, f: FunctionState, stimulus_id: str) -> None:
        """Fail the parked task of a function whose run has ended, so that nothing waits for it forever."""
        key = self._key(f)
        self._fail_task(key, run_ended_error(f), stimulus_id)

    def _fail_task(self, key: Any, exception: Any, stimulus_id: str) -> None:
        """Fail a task and its dependents if it is still parked: Dask may have released it meanwhile."""
        ts = self._scheduler.tasks.get(key)
        if ts is not None and ts.state == "no-worker":
            tasks.fail_parked(self._scheduler, key, exception, stimulus_id)

    def _recall(self, decision: Recall, stimulus_id: str) -> None:
        """Ask a worker to give back a function that it has not started."""
        address = self._scheduler.aliases.get(decision.node.name, "")
        tasks.recall(self._scheduler, address, self._key(decision.function), stimulus_id)

    def _notify(self, active: ActiveRun, **message: Any) -> None:
        clients.send(self._scheduler, active.client, {"run_id": active.run.spec.run_id, **message})

    def end(self, active: ActiveRun) -> None:
        """Tell the client that its run has ended, and mark the run's unstarted tasks for release."""
        run = active.run
        if active.ended is None:
            active.ended = time()
        self._notify(active, op=RUN_ENDED, status=run.status.value)
        if run.status is not RunStatus.FINISHED:
            known = self._scheduler.tasks
            active.to_release += [
                key for key in active.keys if (ts := known.get(key)) and ts.state in UNSTARTED
            ]

    def release_unstarted(self, active: ActiveRun, most: int) -> None:
        """Release up to ``most`` keys of an ended run, and fail their tasks if other tasks need them."""
        keys, active.to_release = active.to_release[:most], active.to_release[most:]
        self._release(active.client, keys)
        for key in keys:
            if key in self._plugin.functions:
                self._fail_late(self._plugin.functions[key], f"handoff-{time()}")

    def want(self, keys: list[Any], client: str) -> None:
        """Let a client want keys again, and cancel its futures of keys that the scheduler has forgotten."""
        known = self._scheduler.tasks
        clients.want(self._scheduler, [key for key in keys if key in known], client)
        self.send_cancelled([key for key in keys if key is not None and key not in known], client)

    def _release(self, client: str, keys: list[Any]) -> None:
        for name in (client, placeholder(client)):
            if keys and name in self._scheduler.clients:
                clients.release(self._scheduler, keys, name)
        self.send_cancelled(keys, client)

    def send_cancelled(self, keys: list[Any], client: str) -> None:
        """Cancel a client's futures of these keys."""
        clients.send_cancelled(self._scheduler, client, keys, NAME, "the run has ended")

    def collect(self) -> None:
        """Release unneeded keys, and forget ended runs that have neither tasks nor a handle left."""
        unknown_keys, self._plugin.unknown_keys = self._plugin.unknown_keys, {}
        for client, keys in unknown_keys.items():
            self._release(client, keys)
        for run_id, active in list(self._plugin.runs.items()):
            if active.to_release:
                self.release_unstarted(active, BATCH)
                if active.to_release:
                    self._plugin.wake()
            if not active.task_count and active.run.ended and active.handle_released:
                self.forget(run_id)

    def forget(self, run_id: str) -> None:
        """Move a run to the archive."""
        active = self._plugin.runs.pop(run_id)
        self._plugin.state.run_removed(run_id)
        if active.ended is None:
            active.ended = time()
        self._plugin.archive.add(active.info(active.ended), active.run)

    def hand_over_to_dask(self) -> None:
        """Leave the remaining tasks to Dask, when the plugin is removed.

        Waiting tasks fail. Parked tasks are lost results that are needed again: Dask may place these itself.
        """
        parked = []
        for key, f in list(self._plugin.functions.items()):
            ts = self._scheduler.tasks.get(key)
            if ts is None:
                continue
            tasks.unpin(ts)
            if ts.state == "no-worker":
                parked.append(key)
            elif ts.state == "waiting":  # it would otherwise become ready without a plugin to place it
                tasks.fail_waiting(self._scheduler, ts, run_ended_error(f), f"handoff-removed-{time()}")
        tasks.move(self._scheduler, dict.fromkeys(parked, "processing"), f"handoff-removed-{time()}")


def run_ended_error(f: FunctionState) -> bytes:
    """Return the pickled error for dependents and clients of a function whose run has ended."""
    spec = f.run.spec
    return pickle.dumps(RunEndedError(spec.dag_id, spec.run_id, f.id, f.run.status.value))

"""A reference model of the core, as simple as possible, which tests compare with it after every event.

The model keeps separate books, derived from events and decisions alone. From the core it reads only the state
that it checks: the states of functions, and which placed functions are booked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from handoff_dask._model.resources import GPU, THREADS, UNIT
from handoff_dask._scheduling.decisions import Decision, End, Fail, Place, Recall, Stop, TooLate
from handoff_dask._scheduling.functions import FunctionState, Retry
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import Run, RunStatus
from handoff_dask._scheduling.state import SchedulingState

WAITING, READY, PLACED = "waiting", "ready", "placed"
FINISHED, FAILED, SKIPPED, CANCELLED = "finished", "failed", "skipped", "cancelled"
FINAL = {FINISHED, FAILED, SKIPPED, CANCELLED}

#: Statuses of runs whose functions may be placed.
LIVE = {"running", "finished"}


def devices_hold(free: list[int], units: int) -> bool:
    """Return whether devices with these free units hold the whole devices and the fraction in ``units``."""
    whole, part = divmod(units, UNIT)
    if not part:
        return free.count(UNIT) >= whole
    return any(
        room >= part and (free[:i] + free[i + 1 :]).count(UNIT) >= whole for i, room in enumerate(free)
    )


class NodeModel:
    def __init__(self, node: Node) -> None:
        self.name = node.name
        self.aliases = set(node.aliases)
        self.enforced = set(node.enforced)
        self.capacity = dict(node.capacity)
        self.accepting = node.accepting
        self.booked: list[FunctionState] = []
        self.prefetched: list[FunctionState] = []

    def device_sizes(self) -> list[int]:
        units = self.capacity.get(GPU, 0)
        return [UNIT] * (units // UNIT) + [units % UNIT] * (units % UNIT > 0)

    def holds(self, need: dict[str, int]) -> bool:
        enough = all(units <= self.capacity.get(r, 0) for r, units in need.items())
        return enough and devices_hold(self.device_sizes(), need.get(GPU, 0))

    def used(self, resource: str) -> int:
        return sum(f.cost.get(resource, 0) for f in self.booked)

    def devices_free(self) -> list[int]:
        free = self.device_sizes()
        for f in self.booked:
            for i, units in (f.devices or {}).items():
                if i < len(free):
                    free[i] -= units
        return free

    def fits(self, cost: dict[str, int]) -> bool:
        enough = all(units + self.used(r) <= self.capacity.get(r, 0) for r, units in cost.items())
        return enough and devices_hold(self.devices_free(), cost.get(GPU, 0))

    def fits_after_short_ones(self, cost: dict[str, int], lasting: Iterable[FunctionState]) -> bool:
        """Return whether a cost fits once all functions have ended except those that may take long."""
        staying = [f for f in self.booked if f in lasting]
        return all(
            units + sum(f.cost.get(r, 0) for f in staying) <= self.capacity.get(r, 0)
            for r, units in cost.items()
        )

    def may_start_more(self, cost: dict[str, int]) -> bool:
        """Return whether prefetched functions may start on cores that this cost would book."""
        wide = cost.get("cpu", 0) > UNIT and "cpu" not in self.enforced
        return wide and any("cpu" in f.cost for f in self.prefetched)


class Model:
    """The rules of placement. Every method raises AssertionError if the core breaks one.

    With ``claims``, functions that fit may be held back for a while.
    """

    def __init__(self, state: SchedulingState, node_timeout: float, is_short, claims: bool = False) -> None:
        self.claims = claims
        self.state = state
        self.node_timeout = node_timeout
        self.is_short = is_short
        self.nodes: dict[Any, NodeModel] = {}
        self.status: dict[FunctionState, str] = {}
        self.runs: dict[str, str] = {}  # run id → status
        self.announced: list[str] = []  # ids of runs whose end was announced
        self.deadline: dict[str, float] = {}
        self.last_node: dict[FunctionState, Any] = {}  # last node
        self.group_at: dict[int, Any] = {}
        self.failures: dict[FunctionState, int] = {}
        self.avoid: dict[FunctionState, set[Any]] = {}
        self.not_before: dict[FunctionState, float] = {}
        self.starved: dict[Any, float] = {}  # cost and pins → time since which no node is eligible
        self.starved_function: dict[FunctionState, float] = {}
        self.finals: dict[FunctionState, list[str]] = {}
        self.to_stop: dict[FunctionState, int] = {}  # → number of the attempt
        self.lasting: set[FunctionState] = set()  # placed functions that are not known to be short
        self.recalled_before: set[FunctionState] = set()  # placed functions that were recalled
        self.too_late: list[FunctionState] = []  # became ready after their end; for the next decision

    # queries

    def functions(self, *statuses: str) -> list[FunctionState]:
        return [f for f, status in self.status.items() if status in statuses]

    def live(self, f: FunctionState) -> bool:
        return self.runs.get(f.run.spec.run_id) in LIVE

    @staticmethod
    def need(f: FunctionState) -> dict[str, int]:
        if f.group is None:
            return f.cost
        need: dict[str, int] = {}
        for member in f.group.members:
            for r, units in member.cost.items():
                need[r] = max(units, need.get(r, 0))
        return need

    @staticmethod
    def pins(f: FunctionState) -> list[tuple[str, ...]]:
        members = [f] if f.group is None else f.group.members
        return [m.kind.pins for m in members if m.kind.pins is not None]

    def allows(self, f: FunctionState, node: NodeModel) -> bool:
        """Return whether the node is eligible: by pins, and by capacity if it were idle."""
        pinned = all(node.aliases & set(pin) for pin in self.pins(f))
        return pinned and node.holds(self.need(f))

    def candidates(self, f: FunctionState) -> list[NodeModel]:
        """Return the nodes to which a function may go, now or later."""
        allowed = [n for n in self.nodes.values() if self.allows(f, n)]
        if f.group is not None and self.group_at[id(f.group)] is not None:
            bound = self.nodes[self.group_at[id(f.group)]]
            return [bound] if bound.holds(self.need(f)) else []
        others = [n for n in allowed if n.accepting and n.name not in self.avoid[f]]
        return others if self.avoid[f] and others else allowed

    def limits_allow(self, f: FunctionState) -> bool:
        spec = f.run.spec
        placed = [g for g in f.run.functions if self.status[g] == PLACED]
        if spec.max_concurrency is not None and len(placed) >= spec.max_concurrency:
            return False
        for name, limit in spec.limits:
            used = sum(dict(g.kind.limit_cost).get(name, 0) for g in placed)
            if used + dict(f.kind.limit_cost).get(name, 0) > limit:
                return False
        return True

    def due(self, f: FunctionState, now: float) -> bool:
        return self.status[f] == READY and self.live(f) and self.not_before[f] <= now

    # events

    def event(self, name: str, args: tuple[Any, ...], details: dict[str, Any], result: Any) -> None:
        getattr(self, f"on_{name}")(*args, result=result, **details)
        self.compare()

    def _set(self, f: FunctionState, status: str) -> None:
        if self.status[f] == PLACED:
            self._release(f)
        self.status[f] = status
        if status in FINAL:
            self.finals.setdefault(f, []).append(status)

    def _release(self, f: FunctionState) -> None:
        self.lasting.discard(f)
        self.recalled_before.discard(f)
        node = self.nodes.get(self.last_node[f])
        if node is None:
            return
        if f in node.booked:
            node.booked.remove(f)
        else:
            node.prefetched.remove(f)
        self._move_up(node)

    def _move_up(self, node: NodeModel) -> None:
        while node.prefetched and node.fits(node.prefetched[0].cost):
            node.booked.append(node.prefetched.pop(0))

    def _end(self, run: Run, status: str) -> None:
        self.runs[run.spec.run_id] = status
        self.deadline.pop(run.spec.run_id, None)
        if status != "finished":
            for f in self.functions(PLACED):
                if f.run is run and f.kind.isolated:
                    self.to_stop[f] = len(f.attempts) + 1
            for f in run.functions:
                if self.status[f] in (WAITING, READY):
                    self._set(f, CANCELLED)

    def _complete(self, run: Run) -> None:
        if self.runs[run.spec.run_id] == "running":
            statuses = [self.status[f] for f in run.functions]
            if all(s in FINAL for s in statuses):
                self._end(run, "failed" if FAILED in statuses else "finished")

    def _fail(self, f: FunctionState) -> None:
        self._set(f, FAILED)
        run = f.run
        if run.spec.fail_fast and self.runs[run.spec.run_id] in ("running", "pending"):
            self._end(run, "failed")
        else:
            self._skip_dependents(f)
            self._complete(run)

    def _skip_dependents(self, f: FunctionState) -> None:
        """Skip dependents, as far as the core knows the dependencies."""
        if f.run.spec.dependents:
            for number in f.run.spec.dependents[f.number]:
                if self.status[other := f.run.functions[number]] in (WAITING, READY):
                    self._set(other, SKIPPED)
                    self._skip_dependents(other)

    def on_node_joined(self, node: Node, now: float, result: None) -> None:
        assert node.name not in self.nodes
        self.nodes[node.name] = NodeModel(node)

    def on_node_left(self, name: Any, now: float, result: None) -> None:
        node = self.nodes.pop(name)
        for f in node.booked + node.prefetched:
            self._set(f, WAITING if self.live(f) else CANCELLED)
        for group, at in self.group_at.items():
            if at == name:
                self.group_at[group] = None

    def on_node_resized(self, name: Any, capacity: dict[str, int], result: None) -> None:
        node = self.nodes[name]
        node.capacity = {THREADS: node.capacity[THREADS], **capacity}
        self._move_up(node)

    def on_node_accepting(self, name: Any, accepting: bool, result: None) -> None:
        self.nodes[name].accepting = accepting

    def on_run_added(self, spec: Any, now: float, result: Run) -> None:
        run = result
        for f in run.functions:
            self.status[f] = WAITING
            self.failures[f] = 0
            self.avoid[f] = set()
            self.not_before[f] = 0.0
            if f.group is not None:
                self.group_at[id(f.group)] = None
        self.runs[spec.run_id] = "running"
        limits = dict(spec.limits)
        hopeless = any(
            units > limits[name] for f in run.functions for name, units in dict(f.kind.limit_cost).items()
        )
        if hopeless or not self._placeable(run):
            if spec.wait_for_nodes and not hopeless:
                self.runs[spec.run_id] = "pending"
                self.deadline[spec.run_id] = now + spec.wait_for_nodes
            else:
                self._end(run, "failed")
        self._complete(run)

    def _placeable(self, run: Run) -> bool:
        return all(any(self.allows(f, n) for n in self.nodes.values()) for f in run.functions)

    def on_run_cancelled(self, run_id: str, result: None) -> None:
        if self.runs[run_id] in ("running", "pending"):
            run = next(f.run for f in self.status if f.run.spec.run_id == run_id)
            self._end(run, "cancelled")

    def on_run_removed(self, run_id: str, result: None) -> None:
        self.to_stop = {f: n for f, n in self.to_stop.items() if f.run.spec.run_id != run_id}
        del self.runs[run_id]
        self.deadline.pop(run_id, None)
        for f in [f for f in self.status if f.run.spec.run_id == run_id]:
            if self.status[f] not in FINAL:
                self._set(f, CANCELLED)
            assert f.state.value == self.status.pop(f)
            self.group_at.pop(id(f.group), None)

    def on_ready(self, f: FunctionState, now: float, result: None) -> None:
        if self.status[f] in FINAL and not self.live(f):
            self.too_late.append(f)
        if self.status[f] == WAITING:
            self.status[f] = READY

    def on_withdrawn(self, f: FunctionState, result: None) -> None:
        if self.status[f] == READY:
            self.status[f] = WAITING

    def on_refused(self, f: FunctionState, result: None) -> None:
        self.nodes[self.last_node[f]].accepting = False
        self._set(f, READY if self.live(f) else CANCELLED)

    def on_returned(self, f: FunctionState, result: None) -> None:
        if self.status[f] == PLACED:
            self._set(f, WAITING if self.live(f) else CANCELLED)

    def on_retried(self, f: FunctionState, result: bool) -> None:
        assert result == (self.status[f] in (FAILED, SKIPPED) and self.live(f))
        if result:
            self.finals[f].remove(self.status[f])
            self.status[f] = WAITING
            self.failures[f] = 0
            self.not_before[f] = 0.0
            if f.run.spec.dependents:
                for other in f.run.functions[f.number + 1 :]:  # dependents have higher numbers
                    inputs = [self.status[f.run.functions[n]] for n in f.run.inputs[other.number]]
                    freed = f.number in self._ancestors(other)
                    if self.status[other] == SKIPPED and freed and not {FAILED, SKIPPED} & set(inputs):
                        self.finals[other].remove(SKIPPED)
                        self.status[other] = WAITING

    @staticmethod
    def _ancestors(f: FunctionState) -> set[int]:
        found: set[int] = set()
        stack = [f.number]
        while stack:
            new = set(f.run.inputs[stack.pop()]) - found
            found |= new
            stack += new
        return found

    def on_released(self, f: FunctionState, result: None) -> None:
        dependents = f.run.spec.dependents[f.number] if f.run.spec.dependents else ()
        needed = any(self.status[f.run.functions[n]] not in FINAL for n in dependents)
        if self.status[f] not in FINAL or needed:
            self.on_run_cancelled(f.run.spec.run_id, None)

    def on_finished(self, f: FunctionState, now: float, result: None, **times: float) -> None:
        if self.status[f] not in FINAL:
            self._set(f, FINISHED)
            self._complete(f.run)

    def on_failed(self, f: FunctionState, now: float, retryable: bool, result: Retry | None) -> None:
        self.failures[f] += 1
        policy = f.kind.policy
        again = retryable and self.live(f) and self.failures[f] <= policy.max_retries
        assert (result is not None) == again
        if result is not None:
            self._set(f, WAITING)
            if policy.delay:
                wait = min(policy.max_delay, policy.delay * policy.backoff ** (self.failures[f] - 1))
                self.not_before[f] = now + wait
            if policy.elsewhere:
                self.avoid[f].add(self.last_node[f])
            assert max(result.not_before, now) == max(self.not_before[f], now)
            assert result.avoid == self.avoid[f]
        else:
            self._fail(f)

    def on_abandoned(self, f: FunctionState, now: float, result: None) -> None:
        if self.status[f] not in FINAL:
            self._fail(f)

    def on_lost(self, f: FunctionState, now: float, result: None) -> None:
        if self.status[f] == PLACED:
            self._set(f, WAITING if self.live(f) else CANCELLED)

    def on_stopped(self, f: FunctionState, now: float, result: bool) -> None:
        assert result == self.live(f)
        self.on_lost(f, now, None)

    def on_seceded(self, f: FunctionState, result: None) -> None:
        if self.status[f] == PLACED:
            self.lasting.add(f)

    def on_result_lost(self, f: FunctionState, result: None) -> None:
        if self.status[f] == FINISHED and self.live(f):
            self.finals[f].remove(FINISHED)
            self.status[f] = WAITING

    def on_skipped(self, f: FunctionState, now: float, result: None) -> None:
        if self.status[f] not in FINAL:
            self._set(f, SKIPPED)
        self._complete(f.run)

    def on_unneeded(self, f: FunctionState, now: float, result: None) -> None:
        numbers = f.run.spec.dependents[f.number] if f.run.spec.dependents else ()
        statuses = {self.status[f.run.functions[n]] for n in numbers}
        running = self.runs[f.run.spec.run_id] == "running"
        if statuses and statuses <= {FAILED, SKIPPED} and self.status[f] not in FINAL and running:
            self.on_skipped(f, now, None)

    def on_forgotten(self, f: FunctionState, now: float, result: None) -> None:
        if self.status[f] not in FINAL:
            self._set(f, CANCELLED)
            if self.runs[f.run.spec.run_id] in ("running", "pending"):
                self._end(f.run, "cancelled")

    # decisions

    def on_decide(self, now: float, result: list[Decision]) -> None:
        self._before_decisions(now)
        failed = {d.function for d in result if isinstance(d, Fail)}
        for decision in result:
            if isinstance(decision, Place):
                self._check_place(decision, now)
            elif isinstance(decision, Fail):
                self._check_fail(decision, now)
            elif isinstance(decision, Recall):
                assert (
                    decision.function
                    in self.nodes[decision.node.name].booked + self.nodes[decision.node.name].prefetched
                )
        self._check_recalled([d.function for d in result if isinstance(d, Recall)])
        assert [d.function for d in result if isinstance(d, TooLate)] == self.too_late
        self.too_late.clear()
        for decision in result:
            if isinstance(decision, End):
                run = decision.run
                assert self.runs[run.spec.run_id] == run.status.value
                assert run.spec.run_id not in self.announced, "end announced twice"
                self.announced.append(run.spec.run_id)
        asked = [d for d in result if isinstance(d, Stop)]
        assert {d.function: d.attempt for d in asked} == self.to_stop
        self.to_stop.clear()
        ended = {run_id for run_id, status in self.runs.items() if status not in ("running", "pending")}
        assert ended <= set(self.announced), "every end is announced in the next decision"
        # If nothing is placed, no function is about to be ready, so no claim may hold functions back.
        if not self.claims or (not self.functions(PLACED) and not self._has_recheck()):
            self._check_nothing_overlooked(now)
        self._check_order([d.function for d in result if isinstance(d, Place)], now)
        self._check_wake(now)
        assert failed.isdisjoint(self.functions(READY, WAITING, PLACED))

    def _before_decisions(self, now: float) -> None:
        for run_id, deadline in list(self.deadline.items()):
            run = next((f.run for f in self.status if f.run.spec.run_id == run_id), None)
            assert run is not None
            if self._placeable(run):
                self.runs[run_id] = "running"
                del self.deadline[run_id]
                self._complete(run)
            elif now >= deadline:
                self._end(run, "failed")
        # A group whose node became too small moves once no member is placed there.
        for f in self.functions(READY):
            at = self.group_at.get(id(f.group))
            if at is not None and self.due(f, now) and not self.nodes[at].holds(self.need(f)):
                assert f.group is not None
                if not any(self.status[m] == PLACED for m in f.group.members):
                    self.group_at[id(f.group)] = None
        starving = [f for f in self.functions(READY) if self.due(f, now) and self._starves(f)]
        self.starved = {key: self.starved.get(key, now) for key in map(self._starving_key, starving)}
        self.starved_function = {f: self.starved_function.get(f, now) for f in starving}

    def _starves(self, f: FunctionState) -> bool:
        unbound = f.group is None or self.group_at[id(f.group)] is None
        return unbound and not any(self.allows(f, n) for n in self.nodes.values())

    def _starving_key(self, f: FunctionState) -> Any:
        return frozenset(self.need(f).items()), frozenset(map(frozenset, self.pins(f)))

    def _check_fail(self, decision: Fail, now: float) -> None:
        f = decision.function
        assert self.due(f, now)
        assert self._starves(f)
        assert now - self.starved[self._starving_key(f)] >= self.node_timeout
        assert f.id in decision.shortfall.function_ids
        assert decision.shortfall in f.run.shortfalls
        del self.starved_function[f]  # if a client retries it, it has the whole timeout again
        self._fail(f)

    def _check_place(self, decision: Place, now: float) -> None:
        f = decision.function
        node = self.nodes[decision.node.name]
        assert self.state.nodes[node.name] is decision.node
        assert self.due(f, now), "only ready functions are placed"
        assert node.accepting
        assert node in self.candidates(f), "pins, groups and failed attempts are respected"
        assert self.limits_allow(f)
        was_bound = f.group is None or self.group_at[id(f.group)] is not None
        self._check_peer(decision, node)
        if f.group is not None and not was_bound:
            self.group_at[id(f.group)] = node.name
        if f.allocated:
            assert node.fits(f.cost), "overcommitted"
            assert not node.may_start_more(f.cost)
            node.booked.append(f)
            self._check_devices(node, f)
        else:
            assert not node.fits(f.cost) or node.may_start_more(f.cost), "prefetched although it fits"
            assert node.fits_after_short_ones(f.cost, self.lasting), "prefetched behind a long function"
            assert was_bound, "prefetched before its group has a node"
            assert self.is_short(f)
            assert GPU not in f.cost
            assert not f.run.spec.limits
            assert f.run.spec.max_concurrency is None
            node.prefetched.append(f)
        self.status[f] = PLACED
        self.last_node[f] = node.name
        if not self.is_short(f):
            self.lasting.add(f)

    def _check_recalled(self, recalled: list[FunctionState]) -> None:
        """Check that only functions that would wait forever, or behind a long function, are recalled."""
        stuck = {
            f
            for n in self.nodes.values()
            for f in n.prefetched
            if not n.fits_after_short_ones(f.cost, self.lasting)
        }
        placed = [(f, n) for n in self.nodes.values() for f in n.booked + n.prefetched]
        too_big = {f for f, n in placed if any(units > n.capacity.get(r, 0) for r, units in f.cost.items())}
        assert set(recalled) <= stuck | too_big
        assert len(set(recalled)) == len(recalled)
        assert stuck <= set(recalled) | self.recalled_before
        self.recalled_before = (self.recalled_before | set(recalled)) & set(self.functions(PLACED))

    def _check_peer(self, decision: Place, node: NodeModel) -> None:
        f = decision.function
        other_number = f.run.spec.peers.get(f.number)
        if other_number is None:
            assert decision.peer is None
            return
        other = f.run.functions[other_number]
        if f.number > other_number:
            assert decision.peer == self.last_node.get(other)
            return
        group = id(other.group)
        if group == id(f.group):
            assert decision.peer == node.name
        elif self.group_at[group] is not None:
            assert decision.peer == self.group_at[group]
        elif decision.peer is None:
            assert not any(self.allows(other, n) for n in self.nodes.values())
        else:
            assert self.nodes[decision.peer] in self.candidates(other)
            self.group_at[group] = decision.peer

    @staticmethod
    def _check_devices(node: NodeModel, f: FunctionState) -> None:
        devices = f.devices or {}
        assert sum(devices.values()) == f.cost.get(GPU, 0)
        assert sum(units == UNIT for units in devices.values()) >= f.cost.get(GPU, 0) // UNIT
        assert all(i < len(node.device_sizes()) for i in devices)
        assert all(free >= 0 for i, free in enumerate(node.devices_free()) if i in devices)

    def _check_nothing_overlooked(self, now: float) -> None:
        """Check that every function that can be placed has been."""
        for f in self.functions(READY):
            if self.due(f, now) and self.limits_allow(f):
                for n in self.candidates(f):
                    assert not n.accepting or not n.fits(f.cost) or n.may_start_more(f.cost), (
                        f"{f} would fit on {n.name}"
                    )

    def _has_recheck(self) -> bool:
        return self.state.placement.claims.recheck is not None

    def _check_order(self, placed: list[FunctionState], now: float) -> None:
        """Check that of two functions of equal cost, the more urgent one goes first.

        Among runs of equal priority, that is the function of the run with the smallest dominant share at the
        time of placement. With claims, a function of another run may have been held back because it would
        take longer.
        """
        total: dict[str, int] = {}
        for node in self.nodes.values():
            for name, units in node.capacity.items():
                total[name] = total.get(name, 0) + units
        shares: dict[Any, int] = {}

        def count(f: FunctionState, sign: int) -> None:
            parts = [units * 2**30 // max(1, total.get(name, 0)) for name, units in f.cost.items()]
            shares[f.run] = shares.get(f.run, 0) + sign * min(2**30, max(parts))

        for node in self.nodes.values():
            for f in node.booked:
                count(f, 1)
        for f in placed:
            if f.allocated:
                count(f, -1)

        def sort_key(f: FunctionState) -> tuple[float, ...]:
            run = f.run
            return -run.spec.priority, -f.kind.priority, shares.get(run, 0), run.sequence, f.rank, f.number

        def plain(f: FunctionState) -> bool:
            return f.group is None and f.kind.pins is None and not self.avoid[f] and f.run.limits is None

        rivals = [f for f in self.functions(READY) if self.due(f, now) and plain(f)]
        rivals += [f for f in placed if plain(f) and f.allocated]
        for f in placed:
            if plain(f) and f.allocated:
                rivals.remove(f)
                for g in rivals:
                    if f.cost == g.cost and (f.run is g.run or not self.claims):
                        assert sort_key(f) < sort_key(g), f"{f} was placed before {g}"
            if f.allocated:
                count(f, 1)

    def _check_wake(self, now: float) -> None:
        delayed = [
            self.not_before[f] for f in self.functions(READY) if self.live(f) and self.not_before[f] > now
        ]
        exact = [*delayed, *self.deadline.values()]
        starving = [f for f in self.functions(READY) if self.due(f, now) and self._starves(f)]
        wake = self.state.next_wake()
        if not starving and not self.claims:
            assert wake == min(exact, default=None)
            return
        if not starving:  # the wake may be earlier, to reconsider functions that claims held back
            assert not exact or wake is not None
            assert wake is None or wake <= min(exact, default=float("inf"))
            assert wake is None or wake > now or wake == float("-inf")
            return
        assert wake is not None
        assert now < wake or self.claims
        assert wake <= min([*exact, *(self.starved_function[f] + self.node_timeout for f in starving)])

    # after every event

    def compare(self) -> None:
        """Check that the core and the model agree."""
        state = self.state
        state.check()
        for f, status in self.status.items():
            name = f.state.value
            assert status == {"delayed": READY, "ready": READY, "running": PLACED}.get(name, name), f
        assert {id: run.status.value for id, run in state.runs.items()} == self.runs
        assert set(state.nodes) == set(self.nodes)
        for node in self.nodes.values():
            real = state.nodes[node.name]
            assert list(real.prefetched) == node.prefetched
            assert set(real.running) == set(node.booked)
            assert +Counter(real.capacity) == +Counter(node.capacity)
            assert real.accepting == node.accepting
            assert +Counter(real.used) == {r: node.used(r) for f in node.booked for r in f.cost}
        for run in state.runs.values():
            placed = [f for f in run.functions if self.status[f] == PLACED]
            for group in run.groups:
                assert len({f.node.name for f in placed if f.group is group}) <= 1, "a group is split"
                bound = None if group.node is None else group.node.name
                assert bound == self.group_at[id(group)]
            for name, limit in run.spec.limits:
                assert sum(dict(f.kind.limit_cost).get(name, 0) for f in placed) <= limit
            if run.spec.max_concurrency is not None:
                assert len(placed) <= run.spec.max_concurrency
        for f, finals in self.finals.items():
            assert len(finals) == 1 or (not finals and self.status.get(f) not in FINAL), (f, finals)

    def assert_over(self, runs: Iterable[Run]) -> None:
        """Check the end: every function is in one final state, and nothing is booked."""
        for run in runs:
            assert run.status not in (RunStatus.RUNNING, RunStatus.PENDING), run
            assert run.complete(), run
        assert not self.functions(WAITING, READY, PLACED)
        for node in self.state.nodes.values():
            assert not any(node.used.values())
            assert not node.running
            assert not node.prefetched
        for run in runs:
            assert run.limits is None or not any(run.limits.used.values())

"""Property-based tests: random events against a simple reference model (see ``model.py``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from helpers import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scheduling.harness import amounts, fn, node, text_of, turn_claims_off
from scheduling.model import Model
from scheduling.virtual import VirtualCluster, make_spec

from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.allocators import ALLOCATORS
from handoff_dask._scheduling.decisions import Settings
from handoff_dask._scheduling.functions import FunctionState, Retry, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.state import SchedulingState

#: Settings of cores without claims, for which the model can predict exactly which functions are placed.
WITHOUT_CLAIMS = Settings(node_timeout=30.0, prefetch_horizon=0.0105, prefetch_limit=4)

#: Settings of cores with claims: equal, but a different object.
WITH_CLAIMS = replace(WITHOUT_CLAIMS)

SECONDS = {"short": 1 / 1024, "long": 1.0}

names = st.sampled_from(["n0", "n1", "n2"])
capacities = st.sampled_from(
    [
        "cpu 4, memory 100",
        "cpu 2, gpu 2, memory 100, threads 4",
        "cpu 4, gpu 1.5, threads 3",
        "cpu 8, threads 2",
        "cpu 2, threads 8",
        "cpu 1",
    ]
)
enforced = st.sampled_from(["", "cpu", "cpu memory"])
picks = st.integers(0, 2**16)

COSTS = [
    "", "cpu 1", "cpu 0.5", "cpu 2", "cpu 0.3", "cpu 3", "memory 60", "cpu 1, memory 30",
    "gpu 1", "gpu 0.5", "cpu 1, gpu 1.5",
]  # fmt: skip

policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 2),
    delay=st.sampled_from([0.0, 0.0, 5.0]),
    elsewhere=st.booleans(),
)


@st.composite
def functions(draw, limits=(), pins=(None, None, None, "n0", "n1 n2", "host0")):
    return fn(
        draw(st.sampled_from(COSTS)),
        pin=draw(st.sampled_from(pins)),
        limit=draw(st.sampled_from(["", *limits])),
        policy=draw(policies),
        code=draw(st.sampled_from(["short", "short", "long"])),
        priority=draw(st.sampled_from([0, 0, 0, 1])),
        isolated=draw(st.booleans()),
    )


@st.composite
def runs(draw):
    """Draw functions of a few kinds, their inputs, and the other fields of a run."""
    limited = draw(st.sampled_from([False, False, False, True]))
    limits = ["db 1", "db 0.7", "db 2"] if limited else []
    pool = draw(st.lists(functions(limits), min_size=1, max_size=3))
    kinds = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=16))
    needs = {}
    if draw(st.booleans()):
        needs = {i: draw(st.lists(st.integers(0, i - 1), max_size=2)) for i in range(1, len(kinds))}
        needs = {i: sorted(set(inputs)) for i, inputs in needs.items()}
    groups = []
    if draw(st.booleans()):
        group_of = draw(st.lists(st.integers(0, 3), min_size=len(kinds), max_size=len(kinds)))
        groups = [[i for i, g in enumerate(group_of) if g == n] for n in range(2)]
        groups = [members for members in groups if len(members) > 1]
    peers = {}
    if draw(st.integers(0, 3)) == 3:  # a transfer: producer, serializer, deserializer, consumer
        p, s, d, c = range(len(kinds), len(kinds) + 4)
        anywhere = functions(pins=[None])
        kinds += [draw(anywhere), fn(code="long"), fn(code="long"), draw(anywhere)]
        groups += [[p, s, d, c]] if draw(st.integers(0, 4)) == 4 else [[p, s], [d, c]]
        needs |= {s: [p], d: [s], c: [d]}
        peers = {s: d, d: s}
    options = {
        "limits": (("db", amounts("db 2")["db"]),) if limited else (),
        "groups": groups,
        "peers": peers,
        "max_concurrency": draw(st.sampled_from([None, None, None, None, 1, 2])),
        "strategy": draw(st.sampled_from(sorted(ALLOCATORS))),
        "priority": draw(st.sampled_from([0, 0, 1])),
        "fail_fast": draw(st.booleans()),
        "wait_for_nodes": draw(st.sampled_from([0.0, 20.0])),
    }
    return kinds, needs, options


class CheckedCluster(VirtualCluster):
    """A cluster that compares every event with the model, and records it for replay."""

    def __init__(self, settings: Settings = WITHOUT_CLAIMS) -> None:
        super().__init__(settings)
        self.settings = settings
        if settings is WITHOUT_CLAIMS:
            turn_claims_off(self.state)
        self.model = Model(
            self.state, settings.node_timeout, lambda f: f.kind.code == "short", settings is WITH_CLAIMS
        )
        self.trace: list[tuple[str, list[Any], dict[str, Any], Any]] = []
        self.broken = False

    def tell(self, event: str, *args: Any, **details: Any) -> Any:
        portable = [self._portable(arg) for arg in args]
        self.broken = True  # reset below if nothing raises
        result = super().tell(event, *args, **details)
        self.trace.append((event, portable, details, self._comparable(result)))
        self.model.event(event, args, details, result)
        self.broken = False
        return result

    @staticmethod
    def _portable(value: Any) -> Any:
        """Convert an argument so that it can be sent to another core."""
        if isinstance(value, FunctionState):
            return lambda state, at=(value.run.spec.run_id, value.number): state.runs[at[0]].functions[at[1]]
        if isinstance(value, Node):
            made = (value.name, dict(value.capacity), value.aliases, value.enforced)
            return lambda state: Node(*made)
        return value

    @staticmethod
    def _comparable(result: Any) -> Any:
        if isinstance(result, list):
            return [text_of(d) for d in result]
        return isinstance(result, bool | Retry) and result

    def replay(self) -> None:
        """Check that the same events lead to the same decisions."""
        state = SchedulingState(self.settings)
        if self.settings is WITHOUT_CLAIMS:
            turn_claims_off(state)
        for event, portable, details, result in self.trace:
            args = [arg(state) if callable(arg) else arg for arg in portable]
            if event == "node_resized":
                state.nodes[args[0]].enforced = frozenset()
            assert self._comparable(getattr(state, event)(*args, **details)) == result, event


class CoreMachine(RuleBasedStateMachine):
    settings_of_core = WITHOUT_CLAIMS

    def __init__(self) -> None:
        super().__init__()
        self.cluster = CheckedCluster(self.settings_of_core)
        self.model = self.cluster.model
        self.added = 0
        self.resized_while_busy: set[str] = set()  # nodes that were resized while they had work

    @initialize(sizes=st.tuples(capacities, capacities), enforced=enforced)
    def begin(self, sizes, enforced):
        """Start with two nodes, and a core that has learnt the durations."""
        cluster = self.cluster
        self.join(0, "cpu 4, gpu 2, memory 100", enforced, False)
        self.add(([fn("cpu 1", code=code) for code in SECONDS], {}, {}), True)
        self.work()
        cluster.remove(cluster.state.runs["r1"])
        for n, capacity in enumerate(sizes):
            self.join(n, capacity, enforced, bool(n))

    # progress

    @rule(run=runs(), decide=st.booleans())
    def add(self, run, decide):
        kinds, needs, options = run
        self.added += 1
        # The core knows the dependencies of every other run; only these runs have critical paths and claims.
        known = needs if self.added % 2 or self.model.claims else None
        self.cluster.add(make_spec(kinds, f"r{self.added}", known, **options), needs)
        if decide:
            self.decide(False)

    @rule(refuse=st.sampled_from([False, False, True]))
    def decide(self, refuse):
        self.cluster.decide(refuse)
        self.cluster.start()

    @rule()
    def work(self):
        """Finish all running functions, and start new ones."""
        for f in self.cluster.started():
            self.finish_one(f)
        self.decide(False)

    @precondition(lambda self: self.cluster.started())
    @rule(pick=picks, start=st.booleans())
    def finish(self, pick, start):
        self.finish_one(self.pick(self.cluster.started(), pick))
        if start:  # the worker does not wait for the scheduler
            self.cluster.start()

    @precondition(lambda self: self.cluster.started())
    @rule(pick=picks, retryable=st.sampled_from([True, True, True, False]))
    def fail(self, pick, retryable):
        self.cluster.fail(self.pick(self.cluster.started(), pick), retryable=retryable)

    @precondition(lambda self: self.cluster.stopping)
    @rule(pick=picks)
    def stop(self, pick):
        self.cluster.stop(self.pick(self.cluster.stopping, pick))

    @rule(seconds=st.sampled_from([0.5, 5.0, 29.0, 31.0]))
    def wait(self, seconds):
        self.cluster.now += seconds
        self.decide(False)

    @precondition(lambda self: self.cluster.started())
    @rule(pick=picks)
    def secede(self, pick):
        self.cluster.tell("seceded", self.pick(self.cluster.started(), pick))

    # disturbances

    @rule(n=st.integers(0, 2), capacity=capacities, enforced=enforced, last_first=st.booleans())
    def join(self, n, capacity, enforced, last_first):
        enforced = " ".join(r for r in enforced.split() if r in capacity)
        self.cluster.join(node(f"n{n}", capacity, f"host{n % 2}", enforced), last_first)
        self.resized_while_busy.discard(f"n{n}")

    @precondition(lambda self: self.cluster.workers)
    @rule(
        event=st.sampled_from(["leave", "lose tasks, then leave", "pause or resume", "resize"]),
        pick=picks,
        capacity=capacities,
    )
    def node_event(self, event, pick, capacity):
        cluster, name = self.cluster, self.pick(self.cluster.workers, pick)
        if "leave" in event:
            cluster.leave(name, tasks_first=event != "leave")
        elif event == "resize":
            # As after register_node: threads stay, and the worker does not enforce the new capacity.
            units = amounts(capacity)
            units.pop("threads", None)
            self.resized_while_busy.add(name)
            cluster.state.nodes[name].enforced = frozenset()
            self.model.nodes[name].enforced = set()
            cluster.tell("node_resized", name, units)
        else:
            cluster.tell("node_accepting", name, not cluster.state.nodes[name].accepting)

    @precondition(lambda self: self.model.status)
    @rule(
        event=st.sampled_from(
            ["lose", "lose result", "lose result", "give up", "release", "retry", "client gives up", "forget"]
        ),
        pick=picks,
    )
    def function_event(self, event, pick):
        cluster = self.cluster
        if event == "lose" and (running := self.of_state(State.RUNNING)):
            cluster.lose(self.pick(running, pick))
        elif event == "lose result" and cluster.results:
            cluster.lose_result(self.pick(cluster.results, pick))
        elif event == "give up" and (these := self.of_state(State.RUNNING, State.READY, State.DELAYED)):
            cluster.give_up(self.pick(these, pick))
        elif event == "release":
            cluster.release(self.pick(self.model.status, pick))
        elif event == "retry" and (failed := self.of_state(State.FAILED)):
            cluster.retry(self.pick(failed, pick))
        elif event == "forget" and (these := self.of_state(State.RUNNING, State.READY, State.WAITING)):
            cluster.forget(self.pick(these, pick))
        elif event == "client gives up" and pick % 4 == 3:
            cluster.tell("released", self.pick(self.model.status, pick))

    @precondition(lambda self: len(self.cluster.state.runs) > 1)
    @rule(event=st.sampled_from(["cancel", "remove", "nothing"]), pick=picks)
    def run_event(self, event, pick):
        run_id = self.pick(self.cluster.state.runs, pick)
        if event == "cancel":
            self.cluster.tell("run_cancelled", run_id)
        elif event == "remove":
            self.cluster.remove(self.cluster.state.runs[run_id])

    @invariant()
    def no_node_is_overcommitted(self):
        """Check the started functions, since workers know only threads and declared resources."""
        for name, worker in self.cluster.workers.items():
            if not worker.started and not worker.sent:
                self.resized_while_busy.discard(name)
            if name in self.resized_while_busy:
                continue
            capacity = self.cluster.state.nodes[name].capacity
            for resource in {r for f in worker.started for r in f.cost}:
                used = sum(f.cost.get(resource, 0) for f in worker.started)
                assert used <= capacity.get(resource, 0), f"{name} is overcommitted in {resource}"

    def teardown(self):
        """Check liveness: with ample capacity and no more failures, everything ends."""
        cluster = self.cluster
        if cluster.broken:
            return
        runs = list(cluster.state.runs.values())
        for name in cluster.workers:
            cluster.tell("node_accepting", name, True)
        cluster.join(node("big", "cpu 99, memory 999, gpu 9", "n0 n1 n2 host0 host1"))
        for _ in range(200):
            cluster.decide()
            cluster.start()
            running = cluster.started()
            for f in running:
                self.finish_one(f)
            wake = cluster.state.next_wake()
            if not running and wake is None:
                break
            if not running:
                cluster.now = max(cluster.now, wake)
        cluster.decide()
        self.model.assert_over(runs)
        assert set(self.model.announced) >= {run.spec.run_id for run in runs}
        cluster.replay()
        for run in runs:
            cluster.remove(run)
        assert not cluster.state.runs
        assert cluster.decide() == []

    # helpers

    def finish_one(self, f):
        self.cluster.finish(f, SECONDS[f.kind.code])

    def of_state(self, *states):
        return [f for f in self.model.status if f.state in states]

    @staticmethod
    def pick(things, n):
        things = list(things)
        return things[n % len(things)]


class ClaimingMachine(CoreMachine):
    """With claims, which hold functions back that would fit, and admit them later."""

    settings_of_core = WITH_CLAIMS


OFTEN = settings(
    max_examples=examples(200),
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def case(machine, options):
    """Make a test of a machine, with a timeout long enough for shrinking a failure."""
    case = pytest.mark.timeout(900)(type(machine.__name__, (machine.TestCase,), {}))
    case.settings = options
    return case


TestCoreMachine = case(CoreMachine, settings(OFTEN, max_examples=examples(50)))
TestClaimingMachine = case(ClaimingMachine, settings(OFTEN, max_examples=examples(50)))
TestCoreMachineOften = pytest.mark.slow(case(CoreMachine, OFTEN))
TestClaimingMachineOften = pytest.mark.slow(case(ClaimingMachine, OFTEN))

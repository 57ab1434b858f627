"""Random events against a simple model of what should happen (see ``model.py``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scheduling.harness import amounts, fn, node, text_of
from scheduling.model import Model
from scheduling.virtual import VirtualCluster, make_spec

from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.allocators import ALLOCATORS
from handoff_dask._scheduling.decisions import Settings
from handoff_dask._scheduling.functions import FunctionState, Retry, State
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.state import SchedulingState

#: Nobody claims a node, so that the model can tell exactly what is placed.
SETTINGS = Settings(node_timeout=30.0, prefetch_horizon=0.0105, prefetch_limit=4)

#: With claims.
CLAIMING = replace(SETTINGS)

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
    """Functions of a few kinds, which of them needs which, and the other fields of a run."""
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


def without_claims(state: SchedulingState) -> None:
    """Let nobody claim a node."""
    state.placement.claims.started = lambda f: None
    state.placement.claims.claim_node = lambda *_: None


class Watched(VirtualCluster):
    """A cluster whose every event is compared with the model, and written down."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        super().__init__(settings)
        self.settings = settings
        if settings is SETTINGS:
            without_claims(self.state)
        self.model = Model(
            self.state, settings.node_timeout, lambda f: f.kind.code == "short", settings is CLAIMING
        )
        self.trace: list[tuple[str, list[Any], dict[str, Any], Any]] = []
        self.broken = False

    def tell(self, event: str, *args: Any, **details: Any) -> Any:
        written = [self._written(arg) for arg in args]
        self.broken = True  # unless this goes well
        result = super().tell(event, *args, **details)
        self.trace.append((event, written, details, self._read(result)))
        self.model.event(event, args, details, result)
        self.broken = False
        return result

    @staticmethod
    def _written(value: Any) -> Any:
        """An argument such that it can be told to another core."""
        if isinstance(value, FunctionState):
            return lambda state, at=(value.run.spec.run_id, value.number): state.runs[at[0]].functions[at[1]]
        if isinstance(value, Node):
            made = (value.name, dict(value.capacity), value.aliases, value.enforced)
            return lambda state: Node(*made)
        return value

    @staticmethod
    def _read(result: Any) -> Any:
        if isinstance(result, list):
            return [text_of(d) for d in result]
        return isinstance(result, bool | Retry) and result

    def replay(self) -> None:
        """The same events lead to the same decisions."""
        state = SchedulingState(self.settings)
        if self.settings is SETTINGS:
            without_claims(state)
        for event, written, details, result in self.trace:
            args = [arg(state) if callable(arg) else arg for arg in written]
            if event == "node_resized":
                state.nodes[args[0]].enforced = frozenset()
            assert self._read(getattr(state, event)(*args, **details)) == result, event


class CoreMachine(RuleBasedStateMachine):
    settings_of_core = SETTINGS

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Watched(self.settings_of_core)
        self.model = self.cluster.model
        self.added = 0
        self.unsure: set[str] = set()  # nodes that were resized while they had work

    @initialize(sizes=st.tuples(capacities, capacities), enforced=enforced)
    def begin(self, sizes, enforced):
        """Two nodes, and a core that has seen how long functions take."""
        cluster = self.cluster
        self.join(0, "cpu 4, gpu 2, memory 100", enforced, False)
        self.add(([fn("cpu 1", code=code) for code in SECONDS], {}, {}), True)
        self.work()
        cluster.remove(cluster.state.runs["r1"])
        for n, capacity in enumerate(sizes):
            self.join(n, capacity, enforced, bool(n))

    # work is done

    @rule(run=runs(), decide=st.booleans())
    def add(self, run, decide):
        kinds, needs, options = run
        self.added += 1
        # Every other run is ordered by its paths; room is kept for such runs alone.
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
        """Everything that runs finishes, and something new starts."""
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

    # and disturbed

    @rule(n=st.integers(0, 2), capacity=capacities, enforced=enforced, last_first=st.booleans())
    def join(self, n, capacity, enforced, last_first):
        enforced = " ".join(r for r in enforced.split() if r in capacity)
        self.cluster.join(node(f"n{n}", capacity, f"host{n % 2}", enforced), last_first)
        self.unsure.discard(f"n{n}")

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
            # As when a capacity is registered: threads stay, and the worker enforces nothing of it.
            units = amounts(capacity)
            units.pop("threads", None)
            self.unsure.add(name)
            cluster.state.nodes[name].enforced = frozenset()
            self.model.nodes[name].enforced = set()
            cluster.tell("node_resized", name, units)
        else:
            cluster.tell("node_accepting", name, not cluster.state.nodes[name].accepting)

    @precondition(lambda self: self.model.status)
    @rule(
        event=st.sampled_from(
            ["lose", "lose result", "lose result", "give up", "drop", "retry", "do without", "forget"]
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
        elif event == "drop":
            cluster.drop(self.pick(self.model.status, pick))
        elif event == "retry" and (failed := self.of_state(State.FAILED)):
            cluster.retry(self.pick(failed, pick))
        elif event == "forget" and (these := self.of_state(State.RUNNING, State.READY, State.WAITING)):
            cluster.forget(self.pick(these, pick))
        elif event == "do without" and pick % 4 == 3:
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
    def no_node_does_more_than_it_can(self):
        """What was really started, by a worker that knows of threads and declared resources only."""
        for name, worker in self.cluster.workers.items():
            if not worker.started and not worker.sent:
                self.unsure.discard(name)
            if name in self.unsure:
                continue
            capacity = self.cluster.state.nodes[name].capacity
            for resource in {r for f in worker.started for r in f.cost}:
                used = sum(f.cost.get(resource, 0) for f in worker.started)
                assert used <= capacity.get(resource, 0), f"{name} uses too much {resource}"

    def teardown(self):
        """Nothing starves: with room for all, and no more failures, all comes to an end."""
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


class KeepingMachine(CoreMachine):
    """Such that what could be placed is held back for others, and let in later."""

    settings_of_core = CLAIMING


OFTEN = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def case(machine, options):
    """A test of a machine, which may take minutes to make a failure smaller."""
    case = pytest.mark.timeout(900)(type(machine.__name__, (machine.TestCase,), {}))
    case.settings = options
    return case


TestCoreMachine = case(CoreMachine, settings(OFTEN, max_examples=50))
TestKeepingMachine = case(KeepingMachine, settings(OFTEN, max_examples=50))
TestCoreMachineOften = pytest.mark.slow(case(CoreMachine, OFTEN))
TestKeepingMachineOften = pytest.mark.slow(case(KeepingMachine, OFTEN))

"""Random events against a simple model of what should happen (see ``model.py``)."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scheduling.harness import amounts, fn, node, text_of
from scheduling.model import Model
from scheduling.virtual import VirtualCluster, make_spec

from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.ledger import Node
from handoff_dask._scheduling.placement import Settings
from handoff_dask._scheduling.state import SchedulingState
from handoff_dask._scheduling.strategies import STRATEGIES

SETTINGS = Settings(node_timeout=30.0, ahead_horizon=0.0105, ahead_limit=4)
SECONDS = {"short": 1 / 1024, "long": 1.0}

names = st.sampled_from(["n0", "n1", "n2"])
capacities = st.sampled_from(
    [
        "cpu 1",
        "cpu 4",
        "cpu 4, memory 100",
        "cpu 2, gpu 2, memory 100, threads 4",
        "cpu 4, gpu 1.5, threads 3",
        "cpu 8, threads 2",
        "cpu 2, threads 8",
    ]
)
picks = st.integers(0, 2**16)

COSTS = [
    "", "cpu 1", "cpu 1", "cpu 0.5", "cpu 0.3", "cpu 2", "cpu 3", "memory 60", "cpu 1, memory 30",
    "gpu 1", "gpu 0.5", "cpu 1, gpu 1.5",
]  # fmt: skip

policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 2),
    delay=st.sampled_from([0.0, 0.0, 5.0]),
    elsewhere=st.booleans(),
)


@st.composite
def functions(draw, limits, pins=st.sampled_from([None, None, None, "n0", "n1 n2", "host0"])):
    return fn(
        draw(st.sampled_from(COSTS)),
        pin=draw(pins),
        limit=draw(st.sampled_from(["", *limits])),
        policy=draw(policies),
        code=draw(st.sampled_from(["short", "short", "long"])),
        priority=draw(st.sampled_from([0, 0, 0, 1])),
    )


@st.composite
def runs(draw):
    """Fields of a run, and which function needs which."""
    limits = draw(st.sampled_from([{}, {}, {"limits": (("db", amounts("db 2")["db"]),)}]))
    kinds = draw(st.lists(functions(["db 1", "db 2", "db 0.7"] if limits else []), min_size=0, max_size=7))
    needs = {i: draw(st.lists(st.integers(0, i - 1), max_size=2, unique=True)) for i in range(1, len(kinds))}
    group_of = draw(st.lists(st.integers(0, 5), min_size=len(kinds), max_size=len(kinds)))
    groups = [[i for i, g in enumerate(group_of) if g == n] for n in range(2)]
    groups = [members for members in groups if len(members) > 1]
    peers = {}
    if draw(st.integers(0, 3)) == 0:  # a transfer: producer, serializer, deserializer, consumer
        p, s, d, c = range(len(kinds), len(kinds) + 4)
        anywhere = functions([], st.none())
        kinds += [draw(anywhere), fn(code="long"), fn(code="long"), draw(anywhere)]
        groups += [[p, s, d, c]] if draw(st.integers(0, 4)) == 0 else [[p, s], [d, c]]
        needs |= {s: [p], d: [s], c: [d]}
        peers = {s: d, d: s}
    options = {
        **limits,
        "groups": groups,
        "peers": peers,
        "max_concurrency": draw(st.sampled_from([None, None, None, 1, 2])),
        "strategy": draw(st.sampled_from(sorted(STRATEGIES))),
        "priority": draw(st.sampled_from([0, 0, 1])),
        "fail_fast": draw(st.booleans()),
        "wait_for_nodes": draw(st.sampled_from([0.0, 20.0])),
    }
    return kinds, needs, options


class Watched(VirtualCluster):
    """A cluster whose every event is compared with the model, and written down."""

    def __init__(self) -> None:
        super().__init__(SETTINGS)
        self.model = Model(self.state, SETTINGS.node_timeout, lambda f: f.kind.code == "short")
        self.trace: list[tuple[str, list[Any], dict[str, Any], Any]] = []

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
        return [text_of(d) for d in result] if isinstance(result, list) else isinstance(result, bool) and result

    def replay(self) -> None:
        """The same events lead to the same decisions."""
        state = SchedulingState(SETTINGS)
        for event, written, details, result in self.trace:
            args = [arg(state) if callable(arg) else arg for arg in written]
            if event == "node_resized":
                state.nodes[args[0]].enforced = frozenset()
            assert self._read(getattr(state, event)(*args, **details)) == result, event


class CoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = Watched()
        self.model = self.cluster.model
        self.added = 0
        self.unsure: set[str] = set()  # nodes that were resized while they had work

    # nodes

    @initialize(capacity=capacities, enforced=st.sampled_from(["", "cpu", "cpu memory"]))
    def first_node(self, capacity, enforced):
        self.join("n0", capacity, enforced, False)

    @rule(
        name=names,
        capacity=capacities,
        enforced=st.sampled_from(["", "cpu", "cpu memory"]),
        last_first=st.booleans(),
    )
    def join(self, name, capacity, enforced, last_first):
        enforced = " ".join(r for r in enforced.split() if r in capacity)
        new = node(name, capacity, f"host{int(name[1]) % 2}", enforced)
        self.cluster.join(new, last_first)
        self.unsure.discard(name)

    @precondition(lambda self: self.cluster.workers)
    @rule(pick=picks, tasks_first=st.booleans())
    def leave(self, pick, tasks_first):
        self.cluster.leave(self.pick(self.cluster.workers, pick), tasks_first=tasks_first)

    @precondition(lambda self: self.cluster.workers)
    @rule(pick=picks)
    def pause_or_resume(self, pick):
        name = self.pick(self.cluster.workers, pick)
        self.cluster.tell("node_accepting", name, not self.cluster.state.nodes[name].accepting)

    @precondition(lambda self: self.cluster.workers)
    @rule(pick=picks, capacity=capacities)
    def resize(self, pick, capacity):
        """As when a capacity is registered: threads stay, and the worker enforces nothing of it."""
        name = self.pick(self.cluster.workers, pick)
        units = amounts(capacity)
        units.pop("threads", None)
        self.unsure.add(name)
        self.cluster.state.nodes[name].enforced = frozenset()
        self.model.nodes[name].enforced = set()
        self.cluster.tell("node_resized", name, units)

    # runs

    @rule(run=runs())
    def add(self, run):
        kinds, needs, options = run
        self.added += 1
        self.cluster.add(make_spec(kinds, f"r{self.added}", **options), needs)

    @precondition(lambda self: self.cluster.state.runs)
    @rule(pick=picks)
    def cancel(self, pick):
        self.cluster.tell("run_cancelled", self.pick(self.cluster.state.runs, pick))

    @precondition(lambda self: self.cluster.state.runs)
    @rule(pick=picks)
    def remove(self, pick):
        self.cluster.remove(self.cluster.state.runs[self.pick(self.cluster.state.runs, pick)])

    # functions

    @precondition(lambda self: self.cluster.started())
    @rule(pick=picks)
    def finish(self, pick):
        self.finish_one(self.pick(self.cluster.started(), pick))

    @precondition(lambda self: self.cluster.started())
    @rule(pick=picks, retryable=st.sampled_from([True, True, True, False]))
    def fail(self, pick, retryable):
        self.cluster.fail(self.pick(self.cluster.started(), pick), retryable=retryable)

    @precondition(lambda self: self.of_state(State.RUNNING))
    @rule(pick=picks)
    def lose(self, pick):
        self.cluster.lose(self.pick(self.of_state(State.RUNNING), pick))

    @precondition(lambda self: self.cluster.results)
    @rule(pick=picks)
    def lose_result(self, pick):
        self.cluster.lose_result(self.pick(self.cluster.results, pick))

    @precondition(lambda self: self.of_state(State.RUNNING, State.READY, State.DELAYED))
    @rule(pick=picks)
    def give_up(self, pick):
        self.cluster.give_up(self.pick(self.of_state(State.RUNNING, State.READY, State.DELAYED), pick))

    @precondition(lambda self: self.model.status)
    @rule(pick=picks)
    def drop(self, pick):
        self.cluster.drop(self.pick(self.model.status, pick))

    # time and decisions

    @rule(seconds=st.sampled_from([0.5, 5.0, 29.0, 31.0]))
    def wait(self, seconds):
        self.cluster.now += seconds

    @rule(refuse=st.sampled_from([False, False, False, True]))
    def decide(self, refuse):
        self.cluster.decide(refuse)
        self.cluster.start()

    @rule()
    def work(self):
        """Everything that runs finishes, and something new starts."""
        for f in self.cluster.started():
            self.finish_one(f)
        self.cluster.decide()
        self.cluster.start()

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


TestCoreMachine = CoreMachine.TestCase
TestCoreMachine.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

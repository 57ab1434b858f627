"""A test harness for the scheduling core: one line per node or function, decisions as text.

>>> core = Core()
>>> core.nodes(a="cpu 4", b="cpu 2, gpu 1")
>>> run = core.run(x=fn("cpu 1"), y=fn("gpu 1", pin="b"))
>>> core.decide()
['x@a', 'y@b']
>>> core.finish("x y")
>>> core.decide()
['r finished']

The ledger is checked after every event.
"""

from __future__ import annotations

from handoff_dask._model.resources import THREADS, UNIT, is_auto, parse_amounts
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.decisions import (
    Begin,
    Decision,
    End,
    Fail,
    Place,
    Recall,
    Settings,
    Stop,
    TooLate,
)
from handoff_dask._scheduling.functions import FunctionState, State
from handoff_dask._scheduling.lower import LEAST
from handoff_dask._scheduling.node import Node
from handoff_dask._scheduling.runs import Run
from handoff_dask._scheduling.spec import Kind, RunSpec
from handoff_dask._scheduling.state import SchedulingState


def numbers(text: str) -> dict[str, float]:
    """Parse ``"cpu 4, gpu 0.5"`` to resource → amount; the amount may be ``auto``."""
    pairs = (part.split() for part in text.split(",") if part.strip())
    return {
        name: amount if is_auto(amount) else float(amount) if "." in amount else int(amount)
        for name, amount in pairs
    }


def amounts(text: str) -> dict[str, int]:
    """Parse ``"cpu 4, gpu 0.5"`` to resource → units."""
    return parse_amounts(numbers(text))


def node(name: str, capacity: str, aliases: str = "", enforced: str = "") -> Node:
    """Make a node, with one thread per core unless ``threads`` are given."""
    units = amounts(capacity)
    units.setdefault(THREADS, max(UNIT, units.get("cpu", 0) // UNIT * UNIT))
    return Node(name, units, aliases.split(), enforced.split())


def fn(
    cost: str = "",
    *,
    pin: str | None = None,
    limit: str = "",
    retries: int = 0,
    policy: RetryPolicy | None = None,
    code: str = "",
    priority: float = 0,
    isolated: bool = False,
) -> Kind:
    """Make a kind of functions. ``pin`` lists names, addresses or hosts; ``limit`` is its use of limits."""
    asked = numbers(cost)
    return Kind(
        cost=tuple(parse_amounts({r: LEAST if is_auto(a) else a for r, a in asked.items()}).items()),
        limit_cost=tuple(amounts(limit).items()),
        asked=tuple({**asked, **numbers(limit)}.items()),
        pins=None if pin is None else tuple(pin.split()),
        policy=policy or RetryPolicy(max_retries=retries),
        code=code,
        priority=priority,
        auto=tuple(r for r, a in asked.items() if is_auto(a)),
        isolated=isolated,
    )


def many(n: int, kind: Kind, prefix: str = "f") -> dict[str, Kind]:
    """Name ``n`` functions of one kind: f0, f1, ..."""
    return {f"{prefix}{i}": kind for i in range(n)}


def text_of(decision: Decision) -> str:
    match decision:
        case Place(function, node, None):
            return f"{function.id}@{node.name}"
        case Place(function, node, peer):
            return f"{function.id}@{node.name} peer {peer}"
        case Fail(function, _):
            return f"{function.id} unplaceable"
        case TooLate(function):
            return f"{function.id} too late"
        case Recall(function, node):
            return f"{function.id} back from {node.name}"
        case Stop(function, node, attempt):
            return f"stop {function.id}@{node.name}, attempt {attempt}"
        case Begin(run):
            return f"{run.spec.run_id} begins"
        case End(run):
            return f"{run.spec.run_id} {run.status.value}"
    raise AssertionError(decision)


class Core:
    """A :class:`SchedulingState`, its clock, and its functions by id."""

    def __init__(self, random=lambda: 0.0, **settings: float) -> None:
        self.state = SchedulingState(Settings(**settings), random)
        self.now = 0.0
        self.functions: dict[str, FunctionState] = {}
        self.decisions: list[Decision] = []

    def __getitem__(self, id: str) -> FunctionState:
        return self.functions[id]

    def states(self, ids: str) -> str:
        """Return the states of functions as one line."""
        return " ".join(self[id].state.value for id in ids.split())

    def outcomes(self, id: str) -> list[tuple[str, str]]:
        """Return node and outcome of each ended attempt."""
        return [(a.node, a.outcome) for a in self[id].attempts]

    # nodes

    def nodes(self, **capacities: str) -> None:
        for name, capacity in capacities.items():
            self.join(node(name, capacity))

    def join(self, node: Node) -> Node:
        self.state.node_joined(node, self.now)
        self.state.check()
        return node

    def leave(self, name: str) -> None:
        self.state.node_left(name, self.now)
        self.state.check()

    def resize(self, **capacities: str) -> None:
        for name, capacity in capacities.items():
            self.state.node_resized(name, amounts(capacity))
            self.state.check()

    def pause(self, name: str) -> None:
        self.state.node_accepting(name, False)

    def resume(self, name: str) -> None:
        self.state.node_accepting(name, True)

    def used(self, name: str) -> dict[str, float]:
        """Return the amounts booked on a node, without threads."""
        used = self.state.nodes[name].used
        return {r: units / UNIT for r, units in used.items() if units and r != THREADS}

    # runs

    def run(
        self,
        *,
        id: str = "r",
        groups: tuple[str, ...] = (),
        peers: dict[str, str] | None = None,
        limits: str = "",
        ready: str | None = None,
        strategy: str = "first_available",
        options: dict | None = None,
        **functions: Kind,
    ) -> Run:
        """Add a run; all functions are ready at once, or only those that ``ready`` lists.

        ``options`` are fields of :class:`RunSpec`.
        """
        ids = list(functions)
        number = {id: n for n, id in enumerate(ids)}
        kinds = list(dict.fromkeys(functions.values()))
        both_ways = {number[a]: number[b] for a, b in (peers or {}).items()}
        both_ways |= {b: a for a, b in both_ways.items()}
        spec = RunSpec(
            run_id=id,
            dag_id=f"dag of {id}",
            ids=ids,
            kinds=kinds,
            kind_of=[kinds.index(kind) for kind in functions.values()],
            groups=[[number[member] for member in group.split()] for group in groups],
            peers=both_ways,
            limits=tuple(amounts(limits).items()),
            strategy=strategy,
            **(options or {}),
        )
        run = self.state.run_added(spec, self.now)
        self.functions |= {f.id: f for f in run.functions}
        self.ready(" ".join(ids) if ready is None else ready)
        return run

    def cancel(self, id: str = "r") -> None:
        self.state.run_cancelled(id)
        self.state.check()

    def remove(self, id: str = "r") -> None:
        self.state.run_removed(id)
        self.state.check()

    # functions

    def ready(self, ids: str) -> None:
        for id in ids.split():
            self.state.ready(self[id], self.now)

    def finish(self, ids: str, took: float | None = None, **details) -> None:
        times = {**details} if took is None else {"started": self.now - took, "stopped": self.now, **details}
        for id in ids.split():
            self.state.finished(self[id], self.now, **times)
            self.state.check()

    def fail(self, id: str, **details) -> bool:
        retry = self.state.failed(self[id], self.now, **details)
        self.state.check()
        return retry is not None

    def stopped(self, id: str) -> bool:
        again = self.state.stopped(self[id], self.now)
        self.state.check()
        return again

    def lose(self, ids: str) -> None:
        for id in ids.split():
            self.state.lost(self[id], self.now)
            self.state.check()

    def refuse(self, id: str) -> None:
        self.state.refused(self[id])
        self.state.check()

    # time and decisions

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def decide(self) -> list[str]:
        self.decisions = self.state.decide(self.now)
        self.state.check()
        return [text_of(decision) for decision in self.decisions]


def turn_claims_off(state: SchedulingState) -> None:
    """Turn claims off, without replacing methods, which the compiled core does not allow."""
    state.placement.claims._max_kinds = 0
    state.placement.claims._placements_left = 2**62


def core_with_claim() -> Core:
    """Make a core where ``wide`` claims node ``a`` of cpu 4, after many narrow functions have overtaken it.

    Another narrow function, ``last``, would still fit there.
    """
    core = Core(prefetch_horizon=0.0)
    core.nodes(a="cpu 4")
    core.run(id="first", **many(4, fn("cpu 1", code="narrow"), "n"))
    core.decide()
    core.run(id="r0", wide=fn("cpu 4"))
    core.run(id="r1", **many(40, fn("cpu 1", code="narrow"), "m"), last=fn("cpu 1", code="narrow"))
    while core["m0"].state is not State.FINISHED or not core.state.placement.claims.active:
        core.wait(2)
        core.finish(next(iter(core.state.nodes["a"].running)).id, took=8)
        core.decide()
    for i in range(40):
        core.state.withdrawn(core[f"m{i}"])
    core.finish(next(iter(core.state.nodes["a"].running)).id, took=8)
    assert core.decide() == []
    return core


def core_with_prefetched() -> Core:
    """Make a core whose node ``a`` has prefetched ``next``, while ``all`` holds the memory."""
    core = Core(prefetch_horizon=1.0)
    core.join(node("a", "cpu 4, memory 10", enforced="memory"))
    short = fn("cpu 1, memory 5", code="short")
    core.run(first=short, next=short, all=fn("memory 10", code="short"), ready="first")
    core.decide()
    core.finish("first", took=0.001)
    core.ready("all")
    core.decide()
    core.ready("next")
    assert core.decide() == ["next@a"]
    assert list(core.state.nodes["a"].prefetched) == [core["next"]]
    return core

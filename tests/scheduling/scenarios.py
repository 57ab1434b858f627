"""Random events for a core, for tests that replay them or check each choice."""

from __future__ import annotations

from random import Random

from scheduling.harness import Core, amounts, fn, node

from handoff_dask._model.resources import THREADS
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.allocators import ALLOCATORS
from handoff_dask._scheduling.functions import FINAL, FunctionState, State

COSTS = [
    "", "cpu 1", "cpu 0.5", "cpu 2", "cpu 0.5, memory 32", "cpu 0.25, memory 3", "memory 20", "cpu 3",
    "gpu 0.5", "gpu 0.25", "gpu 0.7", "cpu 1, gpu 1", "gpu 1.5",
]  # fmt: skip

EVENTS = (
    ["finish"] * 8 + ["add"] * 4 + ["wait"] * 2
    + ["join", "leave", "resize", "pause", "fail", "lose", "withdraw", "lose result", "cancel", "remove"]
)  # fmt: skip

SECONDS = {"short": 1 / 1024, "long": 1.0, "longer": 20.0}

#: Events that change nodes.
NODE_EVENTS = {"join", "leave", "resize", "pause"}


class Scenario:
    """A sequence of events, drawn from a seed and from the earlier decisions of the core.

    Parameters
    ----------
    core : Core
    seed : int
    capacities : sequence of str
        Capacities of nodes that join or are resized.
    costs : sequence of str
    paths : bool
        Whether runs have dependencies, so that critical paths and claims count.
    """

    def __init__(self, core: Core, seed: int, capacities, nodes: int, costs=COSTS, paths=False) -> None:
        self.core = core
        self.random = Random(seed)
        self.capacities = capacities
        self.costs = costs
        self.paths = paths
        self.inputs: dict[FunctionState, list[FunctionState]] = {}
        self.trace: list[list[str]] = []
        self.added = 0
        for i in range(nodes):
            core.join(self.node(i))
        # Let the core learn the durations.
        core.run(**{code: fn("cpu 1", code=code) for code in SECONDS})
        while [text for text in core.decide() if "@" in text]:
            for f in self.running():
                core.finish(f.id, took=SECONDS[f.kind.code])
        core.remove()

    def pick(self, things):
        return self.random.choice(list(things))

    def node(self, i: int):
        capacity, alias = self.random.choice(self.capacities), "odd" if i % 2 else "even"
        enforced = self.random.choice(["", "memory", "cpu memory"]) if "memory" in capacity else ""
        return node(f"n{i:02}", capacity, alias, enforced)

    def functions(self, *states: State) -> list[FunctionState]:
        runs = self.core.state.runs.values()
        return [f for run in runs for f in run.functions if f.state in states]

    def running(self) -> list[FunctionState]:
        return self.functions(State.RUNNING)

    def play(self, steps: int) -> list[list[str]]:
        """Play ``steps`` events, and return the decisions."""
        for _ in range(steps):
            self.apply(self.random.choice(EVENTS))
            self.report_ready()
            if self.random.random() < 0.6:
                self.trace.append(self.core.decide())
        return self.trace

    def apply(self, event: str) -> None:
        core, random, running, nodes = self.core, self.random, self.running(), self.core.state.nodes
        if event == "add":
            self.add()
        elif event == "wait":
            core.wait(random.choice([0.5, 3.0, 25.0]))
        elif event == "finish":
            for f in random.sample(running, random.randint(0, len(running))):
                core.finish(f.id, took=SECONDS[f.kind.code])
        elif event == "fail" and running:
            core.fail(self.pick(running).id)
        elif event == "lose" and running:
            core.lose(self.pick(running).id)
        elif event == "withdraw" and (ready := self.functions(State.READY)):
            core.state.withdrawn(self.pick(ready))
        elif event == "lose result" and (finished := self.functions(State.FINISHED)):
            core.state.result_lost(self.pick(finished))
        elif event in ("cancel", "remove") and len(core.state.runs) > 2:
            getattr(core, event)(self.pick(core.state.runs))
        elif event in NODE_EVENTS:
            self.change_nodes(event, nodes)

    def change_nodes(self, event: str, nodes) -> None:
        core, n = self.core, self.pick(nodes.values())
        if event == "join":
            core.join(self.node(self.random.randrange(16)))
        elif event == "leave" and len(nodes) > 1:
            core.leave(n.name)
        elif event == "resize":
            # As after register_node: threads stay, and the worker does not enforce the new capacity.
            capacity = amounts(self.pick(self.capacities)) | {THREADS: n.capacity[THREADS]}
            core.state.node_resized(n.name, capacity)
            n.enforced = frozenset()
        elif event == "pause":
            core.state.node_accepting(n.name, not n.accepting)

    def kind(self, possible: list[str]):
        random = self.random
        return fn(
            random.choice(possible),
            pin=random.choice([None, None, None, None, None, None, "n01 odd", "even", "odd n02"]),
            policy=RetryPolicy(max_retries=2, elsewhere=random.random() < 0.5),
            code=random.choice(list(SECONDS)),
            priority=random.choice([0, 0, 0, 1]),
        )

    def add(self) -> None:
        """Add a run of a few kinds. Some node can hold each of them, so that the run begins."""
        core, random = self.core, self.random
        nodes = core.state.nodes.values()
        possible = [cost for cost in self.costs if any(n.holds(amounts(cost)) for n in nodes)] or [""]
        kinds = [self.kind(possible) for _ in range(random.randint(1, 5))]
        n = random.randint(1, 25)
        self.added += 1
        name = f"r{self.added}"
        functions = {f"{name}f{i}": random.choice(kinds) for i in range(n)}
        needs = [random.sample(range(i), random.randint(0, min(i, 2))) * self.paths for i in range(n)]
        run = core.run(
            id=name,
            strategy=self.pick(ALLOCATORS),
            groups=(f"{name}f0 {name}f1",) if n > 1 and random.random() < 0.3 else (),
            ready="",
            options={
                "fail_fast": False,
                "priority": random.choice([0, 0, 1]),
                "max_concurrency": random.choice([None, None, None, 3]),
                "dependents": [[j for j in range(n) if i in needs[j]] for i in range(n)] * self.paths,
            },
            **functions,
        )
        for f in run.functions:
            self.inputs[f] = [run.functions[i] for i in needs[f.number]]

    def report_ready(self) -> None:
        """Report functions as ready, withdrawn or skipped, according to the states of their inputs."""
        core = self.core
        for f in self.functions(State.WAITING, State.READY):
            inputs = {g.state for g in self.inputs[f]}
            if inputs & (FINAL - {State.FINISHED}):
                core.state.skipped(f, core.now)
            elif inputs <= {State.FINISHED}:
                core.state.ready(f, core.now)
            else:
                core.state.withdrawn(f)

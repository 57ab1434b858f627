"""A DAG as a Dask graph with annotations, and as a run for the scheduling core."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask._task_spec import Task, TaskRef
from distributed.protocol import pickle

from handoff_dask._adapter.messages import NAME, Blob, Program, Shape, Step, is_plain, sealed_id, wire_id
from handoff_dask._adapter.worker import run_function
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Collocated, Function, Transfer, code_name
from handoff_dask._model.resources import UNIT, parse_amounts, to_units
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.spec import Kind, RunSpec
from handoff_dask.exceptions import InvalidFunctionError, SerializationError

Key = tuple[str, int]

#: The end of an id that numbers it, or tells it apart in hexadecimal.
_NUMBERING = re.compile(r"[\W_]*(?:\d+|[0-9a-f]{8,})$")


class Row:
    """One function in a :class:`Graph`: indices into its tables, and the numbers of its dependencies."""

    __slots__ = ("code", "deps", "extra", "id", "name", "shape", "slots", "steps")

    def __init__(self, id: Any, name: int, code: int, shape: int, deps: tuple[int, ...]) -> None:
        self.id = id
        self.name = name
        self.code = code
        self.shape = shape
        self.deps = deps
        self.extra: bytes | None = None
        self.steps: tuple[Step, ...] = ()
        self.slots: tuple[int, ...] = ()

    def __reduce__(self) -> Any:
        return _row, (
            self.id,
            self.name,
            self.code,
            self.shape,
            self.deps,
            self.extra,
            self.steps,
            self.slots,
        )


def _row(id: Any, name: int, code: int, shape: int, deps: Any, extra: Any, steps: Any, slots: Any) -> Row:
    row = Row(id, name, code, shape, deps)
    row.extra, row.steps, row.slots = extra, steps, slots
    return row


class Graph:
    """A compiled run on its way to the scheduler, which turns it into Dask tasks.

    It offers what the scheduler asks of an expression, so that it arrives exactly as compiled: nothing is
    optimised, fused or tokenised on the way.
    """

    def __init__(
        self,
        run_id: str,
        dag_id: Any,
        names: Sequence[str],
        codes: Sequence[bytes | str],
        shapes: Sequence[Shape],
        rows: Sequence[Row],
        annotations: Mapping[str, Mapping[int, Any]],
    ) -> None:
        self.run_id = run_id
        self.dag_id = dag_id
        self.names = names
        self.codes = codes
        self.shapes = shapes
        self.rows = rows
        self.annotations = annotations

    def keys(self) -> list[Key]:
        """Dask keys by function number."""
        names = self.names
        return [(names[row.name], number) for number, row in enumerate(self.rows)]

    def __dask_graph__(self) -> dict[Key, Task]:
        run_id, dag_id, codes, shapes = self.run_id, self.dag_id, self.codes, self.shapes
        keys = self.keys()
        refs: dict[int, TaskRef] = {}
        graph = {}
        for key, row in zip(keys, self.rows, strict=True):
            program = Program(
                run_id, dag_id, row.id, codes[row.code], shapes[row.shape], row.extra, row.steps, row.slots
            )
            args = []
            for dep in row.deps:
                ref = refs.get(dep)
                if ref is None:
                    ref = refs[dep] = TaskRef(keys[dep])
                args.append(ref)
            graph[key] = Task(key, run_function, program, *args)
        return graph

    def __dask_annotations__(self) -> dict[str, dict[Key, Any]]:
        keys = self.keys()
        annotations: dict[str, dict[Key, Any]] = {NAME: dict.fromkeys(keys, self.run_id)}
        for name, values in self.annotations.items():
            annotations[name] = {keys[number]: value for number, value in values.items()}
        return annotations


class NumberOrder:
    """Dask's internal priority of our keys: their number, so that the scheduler need not compute an order."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: Key) -> int:
        return key[1]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a client submits.

    Attributes
    ----------
    spec : RunSpec
        For the core.
    graph : Graph
        For Dask.
    ids : list
        Function number → id, as the user knows it.
    keys : list
        Function number → Dask key.
    kept : list of int
        Functions whose results the user wants.
    wanted : list of int
        Functions that the client asks Dask for: these, and sinks that have to run although nobody wants
        their result.
    """

    spec: RunSpec
    graph: Graph
    ids: list[Hashable]
    keys: list[Key]
    kept: list[int]
    wanted: list[int]


def compile_dag(
    dag: DAG,
    run_id: str,
    *,
    policy: RetryPolicy,
    max_concurrency: int | None = None,
    limits: Mapping[str, Any] | None = None,
    strategy: str = "best_fit",
    keep: str | Collection[Hashable] = "all",
    fail_fast: bool = True,
    priority: float = 0,
    wait_for_nodes: float = 0.0,
) -> Compiled:
    """Compile a DAG.

    Raises
    ------
    InvalidDAGError
        Also for what :meth:`DAG.validate` cannot see: code or arguments that do not pickle, input
        functions, which have values in a stream only.
    """
    dag.validate()
    functions = dag.functions
    if inputs := [id for id, f in functions.items() if f.type == "input"]:
        raise InvalidFunctionError(
            dag.id,
            [f"function {id!r} is an input function: it has a value only in a stream" for id in inputs],
            inputs,
        )
    if timed := [id for id, f in functions.items() if f.timeout is not None]:
        raise InvalidFunctionError(
            dag.id,
            [f"function {id!r} has a timeout, which this version cannot enforce on a node" for id in timed],
            timed,
        )
    inlined = inline_order(functions, dag._topological_order())
    dependencies = {
        id: placed_dependencies(f, functions, inlined) for id, f in functions.items() if f.type != "inline"
    }
    order = depth_first(dependencies)
    number_of = {id: number for number, id in enumerate(order)}
    limit_units = {name: to_units(amount) for name, amount in (limits or {}).items()}

    tables = _Tables(dag.id, run_id, policy, limit_units)
    try:
        dag_id = sealed_id(dag.id)
    except Exception as error:
        raise SerializationError(dag.id, [f"the id of the DAG cannot be pickled: {error}"]) from error
    keep_ids = set(order) if keep == "all" else set() if keep == "sinks" else set(keep)
    needed = {d for deps in dependencies.values() for d in deps}
    sinks = [id for id in order if id not in needed]
    if keep == "sinks":
        keep_ids = set(sinks)
    rows = []
    kind_of = []
    dependents: list[list[int]] = [[] for _ in order]
    annotations: dict[str, dict[int, Any]] = {"resources": {}, "workers": {}}
    for number, id in enumerate(order):
        f = functions[id]
        inline = inlined.get(id, ())
        kind = tables.kind(f, [functions[i] for i in inline])
        deps = tuple(number_of[d] for d in dependencies[id])
        for d in set(deps):
            dependents[d].append(number)
        discard = id not in keep_ids and id not in needed
        row = tables.row(f, deps, kind, discard)
        if inline:
            row.steps, row.slots = _steps(f, dependencies[id], inline, functions, tables)
        rows.append(row)
        kind_of.append(kind)
        _annotate(annotations, number, tables.kinds[kind])
    spec = RunSpec(
        run_id=run_id,
        dag_id=wire_id(dag.id),
        ids=[wire_id(id) for id in order],
        kinds=tables.kinds,
        kind_of=kind_of,
        groups=collocation_groups(functions, number_of),
        dependents=dependents,
        peers={
            number_of[id]: number_of[f.peer]
            for id, f in functions.items()
            if isinstance(f, Transfer) and f.peer in number_of
        },
        limits=tuple(limit_units.items()),
        max_concurrency=max_concurrency,
        strategy=strategy,
        priority=priority,
        fail_fast=fail_fast,
        wait_for_nodes=wait_for_nodes,
    )
    graph = Graph(run_id, dag_id, tables.names, tables.codes, tables.shapes, rows, annotations)
    kept = [number_of[id] for id in order if id in keep_ids]
    wanted = sorted({*kept, *(number_of[id] for id in sinks)})
    return Compiled(spec, graph, order, graph.keys(), kept, wanted)


def _annotate(annotations: Mapping[str, dict[int, Any]], number: int, kind: Kind) -> None:
    if kind.cost:
        annotations["resources"][number] = {name: units / UNIT for name, units in kind.cost}
    if kind.pins is not None:
        annotations["workers"][number] = list(kind.pins)


# ---------------------------------------------------------------------- order and structure


def depth_first(dependencies: Mapping[Hashable, Sequence[Hashable]]) -> list[Hashable]:
    """A topological order that goes on with what was begun: few results are alive at a time."""
    waiting: dict[Hashable, int] = {}
    dependents: dict[Hashable, list[Hashable]] = {}
    sources = []
    for id, deps in dependencies.items():
        distinct = set(deps) if len(deps) > 1 else deps
        if not distinct:
            sources.append(id)
            continue
        waiting[id] = len(distinct)
        for d in distinct:
            dependents.setdefault(d, []).append(id)
    order = []
    stack = sources[::-1]
    while stack:
        id = stack.pop()
        order.append(id)
        for dependent in reversed(dependents.get(id, ())):
            waiting[dependent] -= 1
            if not waiting[dependent]:
                stack.append(dependent)
    return order


def stem_of(id: Hashable) -> str:
    """What ids of functions of one sort have in common: ``blur-17`` and ``blur-3`` are ``blur``.

    Functions of one code can differ in what they are given; ids often tell the sorts apart.
    """
    while type(id) is tuple and id:
        id = id[0]
    return _NUMBERING.sub("", id) if type(id) is str else ""


def inline_order(
    functions: Mapping[Hashable, Function], topological: Sequence[Hashable]
) -> dict[Hashable, tuple[Hashable, ...]]:
    """The inline functions that each placed function evaluates, in an order in which they can be."""
    if not any(f.type == "inline" for f in functions.values()):
        return {}
    position = {id: n for n, id in enumerate(topological)}
    found = {}
    for id, f in functions.items():
        if f.type == "inline":
            continue
        seen: set[Hashable] = set()
        stack = [d for d in f.dependencies if functions[d].type == "inline"]
        while stack:
            d = stack.pop()
            if d not in seen:
                seen.add(d)
                stack.extend(e for e in functions[d].dependencies if functions[e].type == "inline")
        if seen:
            found[id] = tuple(sorted(seen, key=position.__getitem__))
    return found


def placed_dependencies(
    f: Function, functions: Mapping[Hashable, Function], inlined: Mapping[Hashable, Iterable[Hashable]]
) -> tuple[Hashable, ...]:
    """The functions whose results ``f`` takes, directly or through inline functions."""
    if f.id not in inlined:
        return f.dependencies
    deps: dict[Hashable, None] = {}
    for id in (f.id, *inlined[f.id]):
        for d in functions[id].dependencies:
            if functions[d].type != "inline":
                deps[d] = None
    return tuple(deps)


def collocation_groups(
    functions: Mapping[Hashable, Function], number_of: Mapping[Hashable, int]
) -> list[list[int]]:
    """Functions that have to share a node, directly or through others, by number."""
    parent: dict[int, int] = {}

    def root(n: int) -> int:
        while parent.setdefault(n, n) != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for id, f in functions.items():
        if isinstance(f.node, Collocated):
            parent[root(number_of[id])] = root(number_of[f.node.id])
    groups: dict[int, list[int]] = {}
    for n in list(parent):
        groups.setdefault(root(n), []).append(n)
    return [sorted(members) for members in groups.values()]


# ---------------------------------------------------------------------- tables


def _steps(
    f: Function,
    deps: Sequence[Hashable],
    inline: Sequence[Hashable],
    functions: Mapping[Hashable, Function],
    tables: _Tables,
) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    """The inline functions as steps, and where the arguments of ``f`` are afterwards."""
    slot = {d: n for n, d in enumerate(deps)}
    steps = []
    for id in inline:
        g = functions[id]
        shape = Shape(as_list=g.argument_inclusion == "as_list", names=tuple(g.kwargs))
        slots = tuple(slot[d] for d in g.dependencies)
        steps.append(Step(tables.codes[tables.code(g)], slots, shape, tables.extra(g)))
        slot[id] = len(slot)
    return tuple(steps), tuple(slot[d] for d in f.dependencies)


class _Tables:
    """What many functions have in common, each kept once."""

    def __init__(self, dag_id: Hashable, run_id: str, policy: RetryPolicy, limits: Mapping[str, int]) -> None:
        self.dag_id = dag_id
        self.run_id = run_id
        self.policy = policy
        self.limits = limits
        self.names: list[str] = []
        self.codes: list[bytes | str] = []
        self.shapes: list[Shape] = []
        self.kinds: list[Kind] = []
        self._names: dict[str, int] = {}
        self._codes: dict[int, int] = {}
        self._shapes: dict[Any, int] = {}
        self._kinds: dict[Any, int] = {}

    def kind(self, f: Function, inline: Sequence[Function]) -> int:
        """Index of what ``f`` asks for, the inline functions that it evaluates included."""
        cost: Mapping[str, Any] = f.cost or {}
        for g in inline:  # one after the other, so the most that any of them needs
            cost = {**cost, **{r: max(n, cost.get(r, 0)) for r, n in (g.cost or {}).items()}}
        pins = f.node if f.node is None or type(f.node) is tuple else (f.node,)
        if isinstance(f.node, Collocated):
            pins = None
        policy = f.retry or self.policy
        if f.max_retries is not None and f.max_retries != policy.max_retries:
            policy = policy.with_max_retries(f.max_retries)
        name = f"{code_name(f.code)} {stem_of(f.id)}"
        key: Any = (tuple(cost.items()), pins, f.priority, policy, name)
        try:
            index = self._kinds.get(key)
        except TypeError:  # amounts that do not hash; rare enough
            key, index = (id(f),), None
        if index is None:
            units = parse_amounts(cost)
            index = self._kinds[key] = len(self.kinds)
            self.kinds.append(
                Kind(
                    cost=tuple((r, n) for r, n in units.items() if r not in self.limits),
                    limit_cost=tuple((r, n) for r, n in units.items() if r in self.limits),
                    asked=tuple((r, a if type(a) is int else float(a)) for r, a in cost.items()),
                    pins=None if pins is None else tuple(str(p) for p in pins),
                    # The types are matched where the exception is raised; the scheduler need not know them.
                    policy=RetryPolicy(
                        policy.max_retries,
                        policy.delay,
                        policy.backoff,
                        policy.max_delay,
                        policy.jitter,
                        elsewhere=policy.elsewhere,
                    ),
                    code=name,
                    priority=f.priority,
                )
            )
        return index

    def row(self, f: Function, deps: tuple[int, ...], kind: int, discard: bool) -> Row:
        """A function, by what it has in common with others."""
        retry_on = (f.retry or self.policy).retry_on
        key = (f.argument_inclusion, tuple(f.kwargs), isinstance(f, Transfer), discard, retry_on, kind)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = len(self.shapes)
            self.shapes.append(
                Shape(
                    f.argument_inclusion == "as_list",
                    tuple(f.kwargs),
                    isinstance(f, Transfer),
                    discard,
                    None if retry_on == (Exception,) else Blob(self.dumps(f, retry_on, "retry_on")),
                    dict(self.kinds[kind].asked),
                )
            )
        id = f.id if is_plain(f.id) else Blob(self.dumps(f, f.id, "id"))
        row = Row(id, self.name(f), self.code(f), shape, deps)
        if f.extra_args or f.extra_kwargs:
            row.extra = self.extra(f)
        return row

    def name(self, f: Function) -> int:
        """Index of the first part of its key: what it is called, and the run."""
        name = code_name(f.code)
        index = self._names.get(name)
        if index is None:
            index = self._names[name] = len(self.names)
            self.names.append(f"{name}-{self.run_id}")
        return index

    def code(self, f: Function) -> int:
        """Index of its code, pickled unless it is to be imported."""
        index = self._codes.get(id(f.code))
        if index is None:
            index = self._codes[id(f.code)] = len(self.codes)
            self.codes.append(f.code if isinstance(f.code, str) else self.dumps(f, f.code, "code"))
        return index

    def extra(self, f: Function) -> bytes | None:
        """Its extra arguments, pickled."""
        if not f.extra_args and not f.extra_kwargs:
            return None
        return self.dumps(f, (f.extra_args, f.extra_kwargs), "extra_args or extra_kwargs")

    def dumps(self, f: Function, value: Any, what: str) -> bytes:
        """Pickle a part of a function, or say which part of which function does not pickle."""
        try:
            data: bytes = pickle.dumps(value)
        except Exception as error:
            raise SerializationError(
                self.dag_id, [f"function {f.id!r}: {what} cannot be pickled: {error}"], [f.id]
            ) from error
        return data

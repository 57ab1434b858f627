"""A DAG as a Dask graph with annotations, and as a run for the scheduling core."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distributed.protocol import pickle

from handoff_dask._adapter._dask.graphs import Task, TaskRef
from handoff_dask._adapter.checkpoint import Entry
from handoff_dask._adapter.messages import NAME, Blob, Program, Shape, Step, is_plain, sealed_id, wire_id
from handoff_dask._adapter.worker import run_function
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Function, Transfer, code_name
from handoff_dask._model.resources import UNIT
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.lower import lower_dag
from handoff_dask._scheduling.spec import Kind, RunSpec
from handoff_dask.exceptions import SerializationError

#: Dask's name of a function: what it is called with the id of its run, and its number.
Key = tuple[str, int]


def run_id_in(key: Any) -> str | None:
    """Id of the run that a Dask key names, if it is a key of ours."""
    if type(key) is tuple and len(key) == 2 and type(key[0]) is str:
        return key[0].rpartition("-")[2]
    return None


class Row:
    """One function in a :class:`Graph`: indices into its tables, and the numbers of its dependencies."""

    __slots__ = ("code", "deps", "extra", "id", "name", "shape", "slots", "steps", "store")

    def __init__(self, id: Any, name: int, code: int, shape: int, deps: tuple[int, ...]) -> None:
        self.id = id
        self.name = name
        self.code = code
        self.shape = shape
        self.deps = deps
        self.extra: bytes | None = None
        self.steps: tuple[Step, ...] = ()
        self.slots: tuple[int, ...] = ()
        self.store: Entry | None = None

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
            self.store,
        )


def _row(id: Any, name: int, code: int, shape: int, deps: Any, *rest: Any) -> Row:
    row = Row(id, name, code, shape, deps)
    row.extra, row.steps, row.slots, row.store = rest
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
            code, shape = codes[row.code], shapes[row.shape]
            program = Program(run_id, dag_id, row.id, code, shape, row.extra, row.steps, row.slots, row.store)
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
    limits: Mapping[str, Any] | None = None,
    keep: str | Collection[Hashable] = "all",
    stores: Mapping[Hashable, Entry] | None = None,
    **options: Any,
) -> Compiled:
    """Compile a DAG.

    Parameters
    ----------
    dag, run_id, policy, limits, **options
        As for :func:`~handoff_dask._scheduling.lower.lower_dag`.
    keep : {"all", "sinks"} or list of ids
        Functions whose results are wanted.
    stores : mapping of id to Entry, optional
        Where the results of functions are to be written.

    Raises
    ------
    InvalidDAGError
        Also for what :meth:`DAG.validate` cannot see: code or arguments that do not pickle, input
        functions, which have values in a stream only.
    """
    options["keep_all"] = keep == "all"
    lowered = lower_dag(dag, run_id, policy=policy, limits=limits, **options)
    functions, order = dag.functions, lowered.order
    spec = replace(lowered.spec, dag_id=wire_id(dag.id), ids=[wire_id(id) for id in order])
    try:
        dag_id = sealed_id(dag.id)
    except Exception as error:
        raise SerializationError(dag.id, [f"the id of the DAG cannot be pickled: {error}"]) from error
    sinks = [number for number, dependents in enumerate(spec.dependents) if not dependents]
    if isinstance(keep, str):
        kept = list(range(len(order))) if keep == "all" else sinks
    else:
        kept = sorted({lowered.number_of[id] for id in keep})
    wanted = set(kept)
    unwanted = set(sinks) - wanted
    tables = _Tables(dag.id, run_id, policy, spec.kinds)
    rows = []
    annotations: dict[str, dict[int, Any]] = {"resources": {}, "workers": {}}
    for number, id in enumerate(order):
        f, kind = functions[id], spec.kind_of[number]
        deps = tuple(lowered.number_of[d] for d in lowered.dependencies[id])
        row = tables.row(f, deps, kind, discard=number in unwanted, kept=number in wanted)
        if inline := lowered.inlined.get(id):
            row.steps, row.slots = _steps(f, lowered.dependencies[id], inline, functions, tables)
        if stores:
            row.store = stores.get(id)
        rows.append(row)
        _annotate(annotations, number, spec.kinds[kind])
    graph = Graph(run_id, dag_id, tables.names, tables.codes, tables.shapes, rows, annotations)
    return Compiled(spec, graph, order, graph.keys(), kept, sorted({*kept, *sinks}))


def _annotate(annotations: Mapping[str, dict[int, Any]], number: int, kind: Kind) -> None:
    if kind.cost:
        annotations["resources"][number] = {name: units / UNIT for name, units in kind.cost}
    if kind.pins is not None:
        annotations["workers"][number] = list(kind.pins)


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

    def __init__(self, dag_id: Hashable, run_id: str, policy: RetryPolicy, kinds: Sequence[Kind]) -> None:
        self.dag_id = dag_id
        self.run_id = run_id
        self.policy = policy
        self.kinds = kinds
        self.names: list[str] = []
        self.codes: list[bytes | str] = []
        self.shapes: list[Shape] = []
        self._names: dict[str, int] = {}
        self._codes: dict[int, int] = {}
        self._shapes: dict[Any, int] = {}

    def row(self, f: Function, deps: tuple[int, ...], kind: int, *, discard: bool, kept: bool) -> Row:
        """A function, by what it has in common with others."""
        retry_on = (f.retry or self.policy).retry_on
        timeout = None if f.timeout is None else float(f.timeout)
        transfer = isinstance(f, Transfer)
        key = (f.argument_inclusion, tuple(f.kwargs), transfer, discard, kept, retry_on, kind, timeout)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = len(self.shapes)
            self.shapes.append(
                Shape(
                    f.argument_inclusion == "as_list",
                    tuple(f.kwargs),
                    transfer,
                    discard,
                    kept,
                    None if retry_on == (Exception,) else Blob(self.dumps(f, retry_on, "retry_on")),
                    dict(self.kinds[kind].asked),
                    timeout,
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

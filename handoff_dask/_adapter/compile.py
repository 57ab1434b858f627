"""Compile a DAG to a Dask graph with annotations, and to a run specification for the scheduling core."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from distributed.protocol import pickle

from handoff_dask._adapter._dask.graphs import Task, TaskRef
from handoff_dask._adapter.checkpoint import CheckpointFile
from handoff_dask._adapter.config import wants_full_tracebacks
from handoff_dask._adapter.messages import NAME, Blob, Program, Shape, Step, is_plain, sealed_id, wire_id
from handoff_dask._adapter.worker import run_function
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Function, Transfer, code_name
from handoff_dask._model.resources import UNIT
from handoff_dask._model.retry import RetryPolicy
from handoff_dask._scheduling.lower import lower_dag
from handoff_dask._scheduling.spec import Kind, RunSpec
from handoff_dask.exceptions import SerializationError

#: The Dask key of a function: ``("{code name}-{run id}", function number)``.
Key = tuple[str, int]


def run_id_in(key: Any) -> str | None:
    """Return the run id in a Dask key; None for a key of another form."""
    if type(key) is tuple and len(key) == 2 and type(key[0]) is str:
        return key[0].rpartition("-")[2]
    return None


class Graph:
    """The programs of a run, which the scheduler turns into Dask tasks.

    It has the two methods that the scheduler calls on an expression. The graph therefore reaches the
    scheduler exactly as compiled: nothing optimises, fuses or tokenises it. Programs share equal parts, so
    that pickling writes each part once.

    Parameters
    ----------
    names : sequence of str
        First parts of the Dask keys, by function number.
    programs : sequence of Program
        By function number.
    dependencies : sequence of tuple of int
        By function number: the numbers of the functions whose results it takes.
    annotations : mapping of str to mapping
        Name of an annotation → function number → value.
    """

    def __init__(
        self,
        names: Sequence[str],
        programs: Sequence[Program],
        dependencies: Sequence[tuple[int, ...]],
        annotations: Mapping[str, Mapping[int, Any]],
    ) -> None:
        self._names = names
        self.programs = programs
        self._dependencies = dependencies
        self._annotations = annotations

    def keys(self) -> list[Key]:
        """Return the Dask keys, by function number."""
        return list(zip(self._names, range(len(self._names)), strict=True))

    def __dask_graph__(self) -> dict[Key, Task]:
        keys = self.keys()
        refs: dict[int, TaskRef] = {}
        graph = {}
        for key, program, deps in zip(keys, self.programs, self._dependencies, strict=True):
            args = []
            for dep in deps:
                ref = refs.get(dep)
                if ref is None:
                    ref = refs[dep] = TaskRef(keys[dep])
                args.append(ref)
            graph[key] = Task(key, run_function, program, *args)
        return graph

    def __dask_annotations__(self) -> dict[str, dict[Key, Any]]:
        keys = self.keys()
        run_ids = {key: program.run_id for key, program in zip(keys, self.programs, strict=True)}
        annotations: dict[str, dict[Key, Any]] = {NAME: run_ids}
        for name, values in self._annotations.items():
            annotations[name] = {keys[number]: value for number, value in values.items()}
        return annotations


class NumberOrder:
    """Dask's internal priorities: key → function number. They spare the scheduler from computing an order."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: Key) -> int:
        return key[1]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled DAG, ready to submit.

    Attributes
    ----------
    spec : RunSpec
        The run for the scheduling core.
    graph : Graph
        The graph for Dask.
    ids : list
        Function number → id, as the user wrote it.
    keys : list
        Function number → Dask key.
    kept : list of int
        Numbers of the functions whose results are kept for the user.
    wanted : list of int
        Numbers of the functions whose futures the client requests: ``kept`` and all sinks, since Dask runs
        only what a future needs.
    fingerprints : mapping of id to str
        Empty if they have not been computed.
    """

    spec: RunSpec
    graph: Graph
    ids: list[Hashable]
    keys: list[Key]
    kept: list[int]
    wanted: list[int]
    fingerprints: Mapping[Hashable, str] = field(default_factory=dict)


@contextmanager
def _no_pickle_log() -> Iterator[None]:
    """Keep Dask from logging what does not pickle, traceback included: the error that we raise says it."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    log = logging.getLogger("distributed.protocol.pickle")
    log.addFilter(drop)
    try:
        yield
    finally:
        log.removeFilter(drop)


@_no_pickle_log()
def compile_dag(
    dag: DAG,
    run_id: str,
    *,
    policy: RetryPolicy,
    limits: Mapping[str, Any] | None = None,
    keep: str | Collection[Hashable] = "all",
    checkpoints: Mapping[Hashable, CheckpointFile] | None = None,
    **options: Any,
) -> Compiled:
    """Compile a DAG.

    Parameters
    ----------
    dag, run_id, policy, limits, **options
        As for :func:`~handoff_dask._scheduling.lower.lower_dag`.
    keep : {"all", "sinks"} or list of ids
        Functions whose results are kept.
    checkpoints : mapping of id to CheckpointFile, optional
        Files to which the results of these functions are written.

    Raises
    ------
    InvalidDAGError
        The DAG is invalid. Or it has input functions, which :meth:`DAG.validate` accepts: their values come
        only from a stream.
    SerializationError
        An id, code, an argument or a retry policy does not pickle.
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
    is_kept = set(kept)
    discarded = set(sinks) - is_kept
    parts = _Parts(dag.id, dag_id, run_id, policy, spec.kinds)
    names = []
    programs = []
    dependencies = []
    annotations: dict[str, dict[int, Any]] = {"resources": {}, "workers": {}}
    for number, id in enumerate(order):
        f, kind = functions[id], spec.kind_of[number]
        names.append(parts.name(f))
        dependencies.append(tuple(lowered.number_of[d] for d in lowered.dependencies[id]))
        steps, slots = _steps(f, lowered.dependencies[id], lowered.inlined.get(id, ()), functions, parts)
        shape = parts.shape(f, kind, discard=number in discarded, kept=number in is_kept)
        checkpoint = checkpoints.get(id) if checkpoints else None
        programs.append(parts.program(f, shape, steps, slots, checkpoint))
        _annotate(annotations, number, spec.kinds[kind])
    cost_code = {
        number: parts.cost(functions[id])
        for number, id in enumerate(order)
        if spec.kinds[spec.kind_of[number]].computed
    }
    if cost_code:
        spec = replace(spec, cost_code=cost_code)
    graph = Graph(names, programs, dependencies, annotations)
    return Compiled(spec, graph, order, graph.keys(), kept, sorted({*kept, *sinks}))


def _annotate(annotations: Mapping[str, dict[int, Any]], number: int, kind: Kind) -> None:
    """Add Dask's own annotations for a function's cost and pins."""
    if kind.cost:
        annotations["resources"][number] = {name: units / UNIT for name, units in kind.cost}
    if kind.pins is not None:
        annotations["workers"][number] = list(kind.pins)


# ---------------------------------------------------------------------- parts of programs


def _steps(
    f: Function,
    deps: Sequence[Hashable],
    inline: Sequence[Hashable],
    functions: Mapping[Hashable, Function],
    parts: _Parts,
) -> tuple[tuple[Step, ...], tuple[int, ...]]:
    """Compile the inline functions of ``f``.

    Returns
    -------
    steps : tuple of Step
    slots : tuple of int
        Positions of the arguments of ``f`` among the results of ``deps`` and of the steps.
    """
    if not inline:
        return (), ()
    slot = {d: n for n, d in enumerate(deps)}
    steps = []
    for id in inline:
        g = functions[id]
        shape = Shape(as_list=g.argument_inclusion == "as_list", names=tuple(g.kwargs))
        slots = tuple(slot[d] for d in g.dependencies)
        steps.append(Step(parts.code(g), slots, shape, parts.extra(g)))
        slot[id] = len(slot)
    return tuple(steps), tuple(slot[d] for d in f.dependencies)


class _Parts:
    """Makes the parts of programs. Equal parts are one object, so that pickling writes them once."""

    def __init__(
        self, dag_id: Hashable, sealed_dag_id: Any, run_id: str, policy: RetryPolicy, kinds: Sequence[Kind]
    ) -> None:
        self.dag_id = dag_id
        self.sealed_dag_id = sealed_dag_id
        self.run_id = run_id
        self.policy = policy
        self.kinds = kinds
        self.full_tracebacks = wants_full_tracebacks()
        self._names: dict[str, str] = {}
        self._codes: dict[int, bytes | str] = {}
        self._costs: dict[int, bytes] = {}
        self._shapes: dict[Any, Shape] = {}

    def program(
        self,
        f: Function,
        shape: Shape,
        steps: tuple[Step, ...],
        slots: tuple[int, ...],
        checkpoint: CheckpointFile | None,
    ) -> Program:
        """Return the program of a function."""
        id = f.id if is_plain(f.id) else Blob(self.dumps(f, f.id, "id"))
        code, extra = self.code(f), self.extra(f)
        return Program(self.run_id, self.sealed_dag_id, id, code, shape, extra, steps, slots, checkpoint)

    def shape(self, f: Function, kind: int, *, discard: bool, kept: bool) -> Shape:
        """Return the calling convention of a function."""
        retry_on = (f.retry or self.policy).retry_on
        timeout = None if f.timeout is None else float(f.timeout)
        transfer = isinstance(f, Transfer)
        key = (f.argument_inclusion, tuple(f.kwargs), transfer, discard, kept, retry_on, kind, timeout)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = Shape(
                f.argument_inclusion == "as_list",
                tuple(f.kwargs),
                transfer,
                discard,
                kept,
                None if retry_on is None else Blob(self.dumps(f, retry_on, "retry_on")),
                dict(self.kinds[kind].asked),
                timeout,
                self.kinds[kind].isolated,
                self.full_tracebacks,
            )
        return shape

    def name(self, f: Function) -> str:
        """Return the first part of a function's Dask key: the name of its code, and the run id."""
        name = code_name(f.code)
        found = self._names.get(name)
        if found is None:
            found = self._names[name] = f"{name}-{self.run_id}"
        return found

    def code(self, f: Function) -> bytes | str:
        """Return a function's code: pickled, or the import path that the user gave."""
        found = self._codes.get(id(f.code))
        if found is None:
            found = f.code if isinstance(f.code, str) else self.dumps(f, f.code, "code")
            self._codes[id(f.code)] = found
        return found

    def cost(self, f: Function) -> bytes:
        """Return the pickled callable that computes a function's cost."""
        found = self._costs.get(id(f.cost))
        if found is None:
            found = self._costs[id(f.cost)] = self.dumps(f, f.cost, "cost")
        return found

    def extra(self, f: Function) -> bytes | None:
        """Return a function's pickled ``(extra_args, extra_kwargs)``; None if it has neither."""
        if not f.extra_args and not f.extra_kwargs:
            return None
        try:
            return self.dumps(f, (f.extra_args, f.extra_kwargs), "extra_args or extra_kwargs")
        except SerializationError as error:
            failed = error
        for n, value in enumerate(f.extra_args):
            self.dumps(f, value, f"extra_args[{n}]", "; create it in the function instead")
        for name, value in f.extra_kwargs.items():
            self.dumps(f, value, f"extra_kwargs[{name!r}]", "; create it in the function instead")
        raise failed

    def dumps(self, f: Function, value: Any, part: str, remedy: str = "") -> bytes:
        """Pickle a part of a function. ``part`` names it in the error, which ends with ``remedy``.

        Raises
        ------
        SerializationError
            The part does not pickle.
        """
        try:
            data: bytes = pickle.dumps(value)
        except Exception as error:
            raise SerializationError(
                self.dag_id, [f"function {f.id!r}: {part} cannot be pickled: {error}{remedy}"], [f.id]
            ) from error
        return data

"""Resuming from checkpoints: which functions of a DAG must run, given the results that already exist."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from distributed.protocol import pickle

from handoff_dask._adapter.checkpoint import Checkpoint, CheckpointFile, Directory, file_name, load
from handoff_dask._model.dag import DAG
from handoff_dask._model.fingerprint import FingerprintError, fingerprints
from handoff_dask._model.function import Collocated, Function, Transfer
from handoff_dask._model.graph import collocation_groups, inline_order, placed_dependencies
from handoff_dask.exceptions import SerializationError

#: Values of ``checkpoint``.
CheckpointLike = str | os.PathLike[str] | Checkpoint

#: Values of ``checkpoint_of``.
Selection = Collection[Hashable] | Callable[[Function], Any]

#: Threads that check files at the same time: they mostly wait for a disk or the network.
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """The part of a DAG that is left to run.

    Attributes
    ----------
    dag : DAG
        The functions that must run, and a loading function in place of each one whose checkpoint is needed.
    stores : dict of id to CheckpointFile
        Where to write the results of functions that run.
    restored : tuple of ids
        Functions that need not run because they have a checkpoint, in topological order.
    fingerprints : dict of id to str
        Of all functions. Empty without checkpoints.
    """

    dag: DAG
    stores: Mapping[Hashable, CheckpointFile] = field(default_factory=dict)
    restored: tuple[Hashable, ...] = ()
    fingerprints: Mapping[Hashable, str] = field(default_factory=dict)


def check_checkpoint(checkpoint: Any, checkpoint_of: Any) -> None:
    """Raise unless both options have valid types and fit together."""
    if checkpoint is None:
        if checkpoint_of is not None:
            raise ValueError("checkpoint_of selects functions to checkpoint, but checkpoint= is missing")
        return
    if not isinstance(checkpoint, (str, os.PathLike, Checkpoint)):
        raise TypeError(f"checkpoint must be a path, a URL or a Checkpoint, not {checkpoint!r}")
    as_checkpoint(checkpoint)
    if checkpoint_of is None or callable(checkpoint_of):
        return
    if isinstance(checkpoint_of, (str, bytes)) or not isinstance(checkpoint_of, Collection):
        raise TypeError(
            f"checkpoint_of must be a list of function ids or a callable(function), not {checkpoint_of!r}"
        )


def as_checkpoint(checkpoint: CheckpointLike) -> Checkpoint:
    """Wrap a path or a URL in a :class:`Checkpoint`; return a Checkpoint unchanged."""
    return checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)


def selected_ids(dag: DAG, checkpoint_of: Selection | None) -> set[Hashable]:
    """Return the ids of the functions to checkpoint.

    Raises
    ------
    ValueError
        ``checkpoint_of`` names a function that is not in the DAG or has no result.
    """
    placed = [f for f in dag.functions.values() if f.type == "regular"]
    if checkpoint_of is None:
        return {f.id for f in placed if not isinstance(f, Transfer)}
    if callable(checkpoint_of):
        return {f.id for f in placed if checkpoint_of(f)}
    for id in checkpoint_of:
        try:
            known = id in dag
        except TypeError:
            known = False
        if not known:
            raise ValueError(f"checkpoint_of: {dag._no_function(id)}")
        if dag[id].type != "regular":
            raise ValueError(
                f"checkpoint_of: {id!r} is an {dag[id].type} function and has no result of its own"
            )
    return set(checkpoint_of)


def plan_run(
    dag: DAG,
    checkpoint: CheckpointLike | None,
    checkpoint_of: Selection | None,
    keep: str | Collection[Hashable],
) -> Plan:
    """Determine which functions must run. Reads and checks the files whose results are needed.

    Parameters
    ----------
    dag : DAG
    checkpoint, checkpoint_of, keep
        As for :func:`handoff_dask.execute`.

    Raises
    ------
    CheckpointError
        The directory cannot be created, written or listed.
    SerializationError
        A function's code or arguments cannot be fingerprinted.
    InvalidDAGError, ValueError
    """
    if checkpoint is None:
        return Plan(dag)
    dag.validate()
    selected = selected_ids(dag, checkpoint_of)
    directory = Directory(as_checkpoint(checkpoint))
    functions = dag.functions
    order = dag._topological_order()
    try:
        fingerprints_by_id = fingerprints(functions, order, pickle.dumps)
    except FingerprintError as error:
        problem = f"function {error.function_id!r} cannot be fingerprinted: {error.reason}"
        raise SerializationError(dag.id, [problem], [error.function_id]) from error
    existing_files = directory.prepare()
    packed_directory = directory.pickled()
    entries = {
        id: CheckpointFile(packed_directory, file_name(id, fingerprints_by_id[id]), fingerprints_by_id[id])
        for id in order
        if id in selected
    }
    inlined = inline_order(functions, order)
    dependencies = placed_dependencies(functions, inlined)
    needed = set().union(*dependencies.values()) if dependencies else set()
    if keep == "all":
        wanted = set(dependencies)
    else:  # a sink whose result is not kept may have side effects; its checkpoint shows that they happened
        wanted = set(dependencies) - needed
        wanted |= set() if isinstance(keep, str) else set(keep)
    candidates = {id for id, entry in entries.items() if entry.name in existing_files}
    peers = {id: f.peer for id, f in functions.items() if isinstance(f, Transfer) and f.peer in functions}
    run, restored = _walk_upstream(
        wanted, dependencies, candidates, peers, lambda id: _is_intact(directory, entries[id])
    )
    kept = wanted if isinstance(keep, str) else set(keep)
    loaded = restored & (kept | {d for id in run for d in dependencies[id]})
    evaluated = {g for id in run for g in inlined.get(id, ())}
    nodes = _nodes_of_partial_groups(dag, run, loaded)
    remaining = DAG(dag.id)
    for id, f in functions.items():
        if id in run or id in evaluated:
            remaining._add(f.replace(node=nodes[id]) if id in nodes else f)
        elif id in loaded:
            remaining._add(
                Function(
                    id,
                    load,
                    extra_args=entries[id],
                    node=nodes.get(id),
                    priority=f.priority,
                    isolation="thread",
                )
            )
    stores = {id: entry for id, entry in entries.items() if id in run}
    return Plan(remaining, stores, tuple(id for id in order if id in restored), fingerprints_by_id)


def _is_intact(directory: Directory, entry: CheckpointFile) -> bool:
    return directory.problem(entry.name, entry.fingerprint) is None


def _walk_upstream(
    wanted: set[Hashable],
    dependencies: Mapping[Hashable, Sequence[Hashable]],
    candidates: set[Hashable],
    peers: Mapping[Hashable, Hashable],
    is_intact: Callable[[Hashable], bool],
) -> tuple[set[Hashable], set[Hashable]]:
    """Walk from the wanted functions upstream. Return the ids to run, and the ids with a usable checkpoint.

    ``peers`` maps the serializer and the deserializer of a transfer to each other. They only run together:
    each receives the other's node, so a serializer's output is useless to a deserializer in a later run.
    """
    run: set[Hashable] = set()
    restored: set[Hashable] = set()
    frontier = set(wanted)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="handoff-checkpoint") as pool:
        while frontier:
            to_check = [id for id in frontier if id in candidates]
            restored.update(
                id for id, intact in zip(to_check, pool.map(is_intact, to_check), strict=True) if intact
            )
            # Functions without a checkpoint file need no check: follow even long chains of them in one pass.
            stack = [id for id in frontier if id not in restored]
            frontier = set()
            while stack:
                id = stack.pop()
                if id in run:
                    continue
                run.add(id)
                if id in peers:
                    restored.discard(peers[id])
                    stack.append(peers[id])
                for d in dependencies[id]:
                    if d in candidates and d not in restored and d not in run:
                        frontier.add(d)
                    elif d not in candidates:
                        stack.append(d)
            frontier -= run
    return run, restored


def _nodes_of_partial_groups(dag: DAG, run: set[Hashable], loaded: set[Hashable]) -> dict[Hashable, Any]:
    """Return the ``node`` of each remaining member of collocation groups that are no longer complete.

    Loaded members of a group stay collocated with those that run. If none runs, they load anywhere.
    """
    functions = dag.functions
    nodes: dict[Hashable, Any] = {}
    for members in collocation_groups(functions):
        left = [id for id in members if id in run or id in loaded]
        if len(left) == len(members) and run.issuperset(left):
            continue
        if run.isdisjoint(left):
            continue
        # Every member has one constraint, so a group has at most one pin besides its collocations.
        pins = [f.node for f in (functions[id] for id in members) if not isinstance(f.node, Collocated)]
        head, *others = left
        nodes[head] = pins[0] if pins else None
        nodes.update((id, Collocated(head)) for id in others)
    return nodes

"""Which functions of a DAG have to run, when the results of others are there already."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from distributed.protocol import pickle

from handoff_dask._adapter.checkpoint import Checkpoint, Directory, Entry, file_name, load
from handoff_dask._model.dag import DAG
from handoff_dask._model.fingerprint import UnreadableError, fingerprints
from handoff_dask._model.function import Collocated, Function, Transfer
from handoff_dask._model.graph import collocation_groups, inline_order, placed_dependencies
from handoff_dask.exceptions import SerializationError

#: What ``checkpoint`` takes.
CheckpointLike = str | os.PathLike[str] | Checkpoint

#: What ``checkpoint_of`` takes.
Selection = Collection[Hashable] | Callable[[Function], Any]

#: Files to_check through at once: most of the time is spent waiting for a disk or a network.
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left to do of a DAG.

    Attributes
    ----------
    dag : DAG
        What has to run, and a function that loads the result for each whose checkpoint is needed.
    stores : dict of id to Entry
        Where the results of functions that run are to be written.
    restored : tuple of ids
        Functions that need not run since their checkpoint is there, in the order of the DAG.
    """

    dag: DAG
    stores: Mapping[Hashable, Entry] = field(default_factory=dict)
    restored: tuple[Hashable, ...] = ()


def check_checkpoint(checkpoint: Any, checkpoint_of: Any) -> None:
    """Raise unless these can be what they are meant to be."""
    if checkpoint is None:
        if checkpoint_of is not None:
            raise ValueError("checkpoint_of says of which functions, but checkpoint= does not say where")
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
    """A :class:`Checkpoint`, also of a path or a URL."""
    return checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)


def selected(dag: DAG, checkpoint_of: Selection | None) -> set[Hashable]:
    """Ids of the functions whose results are to be kept in files.

    Raises
    ------
    ValueError
        ``checkpoint_of`` names what the DAG has not, or what has no result.
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
            raise ValueError(f"checkpoint_of: DAG {dag.id!r} has no function {id!r}")
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
    """Find out what has to run. Reads and checks the files whose results are needed.

    Parameters
    ----------
    dag : DAG
    checkpoint, checkpoint_of, keep
        As for :func:`handoff_dask.execute`.

    Raises
    ------
    CheckpointError
        The directory cannot be made, written or listed.
    SerializationError
        A function's code or arguments are of a kind that nothing can be known of.
    InvalidDAGError, ValueError
    """
    if checkpoint is None:
        return Plan(dag)
    dag.validate()
    wanted_files = selected(dag, checkpoint_of)
    directory = Directory(as_checkpoint(checkpoint))
    functions = dag.functions
    order = dag._topological_order()
    try:
        fingerprints_by_id = fingerprints(functions, order, pickle.dumps)
    except UnreadableError as error:
        problem = f"function {error.function_id!r}: what it does cannot be told: {error.reason}"
        raise SerializationError(dag.id, [problem], [error.function_id]) from error
    existing = directory.prepare()
    sealed = directory.sealed()
    entries = {
        id: Entry(sealed, file_name(id, fingerprints_by_id[id]), fingerprints_by_id[id])
        for id in order
        if id in wanted_files
    }
    inlined = inline_order(functions, order)
    dependencies = placed_dependencies(functions, inlined)
    needed = set().union(*dependencies.values()) if dependencies else set()
    if keep == "all":
        wanted = set(dependencies)
    else:  # a sink that nobody wants may be there for what it does; where its checkpoint is, that was done
        wanted = set(dependencies) - needed
        wanted |= set() if isinstance(keep, str) else set(keep)
    candidates = {id for id, entry in entries.items() if entry.name in existing}
    peers = {id: f.peer for id, f in functions.items() if isinstance(f, Transfer) and f.peer in functions}
    run, restored = _walk_upstream(
        wanted, dependencies, candidates, peers, lambda id: _is_intact(directory, entries[id])
    )
    kept = wanted if isinstance(keep, str) else set(keep)
    loaded = restored & (kept | {d for id in run for d in dependencies[id]})
    evaluated = {g for id in run for g in inlined.get(id, ())}
    nodes = _nodes(dag, run, loaded)
    part = DAG(dag.id)
    for id, f in functions.items():
        if id in run or id in evaluated:
            part.add_function(f.replace(node=nodes[id]) if id in nodes else f)
        elif id in loaded:
            part.add_function(
                Function(id, load, extra_args=entries[id], node=nodes.get(id), priority=f.priority)
            )
    stores = {id: entry for id, entry in entries.items() if id in run}
    return Plan(part, stores, tuple(id for id in order if id in restored))


def _is_intact(directory: Directory, entry: Entry) -> bool:
    return directory.problem(entry.name, entry.fingerprint) is None


def _walk_upstream(
    wanted: set[Hashable],
    dependencies: Mapping[Hashable, Sequence[Hashable]],
    candidates: set[Hashable],
    peers: Mapping[Hashable, Hashable],
    is_intact: Callable[[Hashable], bool],
) -> tuple[set[Hashable], set[Hashable]]:
    """The functions that have to run, and those whose checkpoints make that unnecessary.

    ``peers`` are the functions that only run together: each is told where the other does, so that what a
    serializer has made for the node of one run is of no use to a deserializer in the next.
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
            # Where there is no file to look at, the walk goes on at once, however long the chain.
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


def _nodes(dag: DAG, run: set[Hashable], loaded: set[Hashable]) -> dict[Hashable, Any]:
    """Where the members of collocation groups have to run now that some of them may be gone.

    What is loaded is loaded beside those of its group that run, and anywhere if none does.
    """
    functions = dag.functions
    nodes: dict[Hashable, Any] = {}
    for members in collocation_groups(functions):
        left = [id for id in members if id in run or id in loaded]
        if len(left) == len(members) and run.issuperset(left):
            continue
        if run.isdisjoint(left):
            continue
        # Each member names one place, so that a group has at most one that is not another member.
        pins = [f.node for f in (functions[id] for id in members) if not isinstance(f.node, Collocated)]
        head, *others = left
        nodes[head] = pins[0] if pins else None
        nodes.update((id, Collocated(head)) for id in others)
    return nodes

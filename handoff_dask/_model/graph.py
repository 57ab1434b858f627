"""Graph algorithms that execution, lowering, resuming and validation share.

:mod:`graphlib` is not used for orders: it takes 2 to 20 times as long for 100,000 functions.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

from handoff_dask._model.function import Collocated, Function

Functions = Mapping[Hashable, Function]

#: Id → ids of its dependencies.
Dependencies = Mapping[Hashable, Sequence[Hashable]]


def count_inputs(
    dependencies: Dependencies,
) -> tuple[list[Hashable], dict[Hashable, int], dict[Hashable, list[Hashable]]]:
    """Prepare to visit functions as their inputs become available.

    Returns
    -------
    sources : list of ids
        Functions without dependencies.
    waiting : dict of id to int
        Number of distinct dependencies of each function that is not a source.
    dependents : dict of id to list of ids
        Dependents of each function that has any.
    """
    sources = []
    waiting: dict[Hashable, int] = {}
    dependents: dict[Hashable, list[Hashable]] = {}
    for id, deps in dependencies.items():
        distinct = set(deps) if len(deps) > 1 else deps
        if not distinct:
            sources.append(id)
            continue
        waiting[id] = len(distinct)
        for d in distinct:
            dependents.setdefault(d, []).append(id)
    return sources, waiting, dependents


def depth_first(dependencies: Dependencies) -> list[Hashable]:
    """Return a topological order that goes depth first, so that few results are alive at a time."""
    sources, waiting, dependents = count_inputs(dependencies)
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


def path_lengths(
    dependents: Sequence[Sequence[int]],
    seconds: Sequence[float],
    numbers: Sequence[int] | None = None,
    least: Sequence[float] = (),
) -> list[float]:
    """Return the length of the longest path that starts at each function, in seconds.

    Parameters
    ----------
    dependents : sequence of sequences of int
        Dependents of each function. Functions are numbered in topological order.
    seconds : sequence of float
        Duration of each function, which is part of the paths that start there.
    numbers : sequence of int, optional
        Restrict the computation to these functions, in ascending order. No path may lead from one of them to
        a function that is left out. The length of a function that is left out is its duration.
    least : sequence of float
        Lower bound of the length for each function.
    """
    lengths = list(seconds)
    for n in reversed(range(len(lengths)) if numbers is None else numbers):
        longest = 0.0
        for d in dependents[n]:
            if lengths[d] > longest:
                longest = lengths[d]
        lengths[n] += longest
        if least and least[n] > lengths[n]:
            lengths[n] = least[n]
    return lengths


def inline_order(
    functions: Functions, topological: Iterable[Hashable]
) -> dict[Hashable, tuple[Hashable, ...]]:
    """Return the inline functions that each placed function evaluates.

    Parameters
    ----------
    functions : mapping of id to Function
    topological : iterable of ids
        All functions in topological order. Iterated only if there are inline functions.

    Returns
    -------
    dict of id to tuple of ids
        Inline functions in topological order, for each placed function that evaluates any.
    """
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
    functions: Functions, inlined: Mapping[Hashable, Iterable[Hashable]]
) -> dict[Hashable, tuple[Hashable, ...]]:
    """Return the functions whose results each placed function takes, directly or through inline functions.

    Parameters
    ----------
    functions : mapping of id to Function
    inlined : mapping of id to ids
        The result of :func:`inline_order`.
    """
    found = {}
    for id, f in functions.items():
        if f.type == "inline":
            continue
        if id not in inlined:
            found[id] = f.dependencies
            continue
        deps: dict[Hashable, None] = {}
        for g in (id, *inlined[id]):
            deps.update((d, None) for d in functions[g].dependencies if functions[d].type != "inline")
        found[id] = tuple(deps)
    return found


def collocation_groups(functions: Functions) -> list[list[Hashable]]:
    """Return the groups of functions that must share a node, directly or transitively."""
    parent: dict[Hashable, Hashable] = {}

    def root(id: Hashable) -> Hashable:
        while parent.setdefault(id, id) is not id:  # not !=: an id may be a NaN
            parent[id] = parent[parent[id]]
            id = parent[id]
        return id

    for id, f in functions.items():
        if isinstance(f.node, Collocated):
            parent[root(id)] = root(f.node.id)
    groups: dict[Hashable, list[Hashable]] = {}
    for id in functions:
        if id in parent:
            groups.setdefault(root(id), []).append(id)
    return list(groups.values())

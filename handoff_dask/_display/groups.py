"""Boxes and edges of a drawing: a box per function, or per group of equivalent functions."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from handoff_dask._error_texts import count
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Collocated, Function, Transfer, code_name
from handoff_dask._model.resources import format_amounts, is_auto
from handoff_dask._model.safe_repr import safe_repr, safe_str

#: Default size from which a group of equivalent functions becomes one box.
COLLAPSE = 10

#: Maximum number of boxes for which a notebook draws the functions of smaller groups one by one.
MAX_DETAILED_BOXES = 24

#: Maximum number of refinement passes over the graph, in both directions. Functions that are still
#: indistinguishable then count as equivalent. Two or three passes usually suffice; more are needed only if
#: hardly any functions are equivalent.
MAX_PASSES = 8

#: Number of the class of all functions for which a compact outline has no box of their own.
OTHERS = -1


class Box(NamedTuple):
    """One box of a drawing.

    Attributes
    ----------
    functions : tuple of Function
        In topological order.
    lines : tuple of str
        Text of the box.
    inline : bool
        Whether the functions are inline.
    """

    functions: tuple[Function, ...]
    lines: tuple[str, ...]
    inline: bool


class Outline(NamedTuple):
    """The boxes of a drawing, and its edges: pairs of box numbers, from dependency to dependent."""

    boxes: list[Box]
    edges: list[tuple[int, int]]


def outline(dag: DAG, collapse: int | None = COLLAPSE) -> Outline:
    """Group the functions of a DAG into the boxes of a drawing.

    Functions are equivalent if they have the same code, cost, pin and type, and their dependencies and
    dependents are equivalent.

    Parameters
    ----------
    dag : DAG
        May be invalid, but must not have a cycle.
    collapse : int or None
        Size from which a group of equivalent functions becomes one box; None draws each function.

    Raises
    ------
    CyclicDependencyError
        The DAG has a cycle, so it has no topological order to draw it in.
    ValueError
        ``collapse`` is neither None nor an integer of at least 2.
    """
    check_collapse(collapse)
    functions, inputs = _graph(dag)
    classes = None if collapse is None else _equivalence(inputs, [_signature(f, dag) for f in functions])
    return _boxes(functions, inputs, classes, collapse or 0)


def compact(dag: DAG, most: int) -> Outline:
    """Return the most detailed outline of at most ``most`` boxes; the smallest groups share one box."""
    functions, inputs = _graph(dag)
    signatures = [_signature(f, dag) for f in functions]
    classes = _equivalence(inputs, signatures)
    for least, limit in ((COLLAPSE, min(most, MAX_DETAILED_BOXES)), (2, most)):
        if _count(classes, least) <= limit:
            return _boxes(functions, inputs, classes, least)
    # Too many boxes: ignore dependencies, and group by the functions' own properties.
    classes, _ = _numbered(signatures)
    sizes = _sizes(classes)
    if len(sizes) > most:
        largest = set(sorted(sizes, key=lambda number: -sizes[number])[: most - 1])
        classes = [number if number in largest else OTHERS for number in classes]
    return _boxes(functions, inputs, classes, 2)


def check_collapse(collapse: Any) -> None:
    """Raise ValueError unless ``collapse`` is None or an integer of at least 2."""
    if collapse is not None and (not isinstance(collapse, int) or collapse < 2):
        raise ValueError(f"collapse must be a whole number of at least 2, or None, not {collapse!r}")


def cost_text(cost: Any) -> str:
    """Return a cost as text. An invalid cost becomes its repr, since invalid DAGs are displayed too."""
    if callable(cost):
        return f"computed by {code_name(cost)}"
    try:
        return format_amounts({name: n if is_auto(n) else float(n) for name, n in cost.items()})
    except (AttributeError, TypeError, ValueError, OverflowError):
        return safe_repr(cost)


def inputs_of(f: Function, among: Any) -> Iterator[Hashable]:
    """Yield the dependencies of a function that are in ``among``, each once. The function may be invalid."""
    found = set()
    for id in f.dependencies:
        try:
            if id in among and id not in found:
                found.add(id)
                yield id
        except TypeError:  # unhashable, so not an id
            continue


def _graph(dag: DAG) -> tuple[list[Function], list[list[int]]]:
    functions = [dag[id] for id in dag]
    number = {f.id: n for n, f in enumerate(functions)}
    return functions, [[number[id] for id in inputs_of(f, number)] for f in functions]


def _signature(f: Function, dag: DAG) -> tuple[Hashable, ...]:
    """Return the properties in which equivalent functions agree, apart from their neighbours."""
    kind = f.id[0] if isinstance(f, Transfer) else None  # type: ignore[index]
    pin: Any = f.node
    if isinstance(pin, Collocated):
        try:
            beside = dag.functions.get(pin.id)
        except TypeError:
            beside = None
        pin = (Collocated, None if beside is None else (_code(beside), _cost(beside)))
    else:
        pin = safe_repr(pin)
    return (_code(f), f.type, _cost(f), pin, kind)


def _code(f: Function) -> Hashable:
    """Identify a function's code: different lambdas differ, closures of the same function do not."""
    code: Any = f.code
    while isinstance(code, partial):
        code = code.func
    return (code_name(f.code), getattr(code, "__code__", None)) if f.code is not None else None


def _cost(f: Function) -> Hashable:
    return cost_text(f.cost) if f.cost else ""


def _numbered(keys: Iterable[Hashable]) -> tuple[list[int], int]:
    """Number the distinct keys; return the number of each key, and how many distinct keys there are."""
    seen: dict[Hashable, int] = {}
    numbers = [seen.setdefault(key, len(seen)) for key in keys]
    return numbers, len(seen)


def _equivalence(inputs: Sequence[Sequence[int]], signatures: Iterable[Hashable]) -> list[int]:
    """Return the number of each function's equivalence class.

    Partition refinement: functions start in classes of equal signatures, and classes are split until the
    neighbours of equivalent functions are equivalent too.
    """
    dependents: list[list[int]] = [[] for _ in inputs]
    for n, needed in enumerate(inputs):
        for d in needed:
            dependents[d].append(n)
    classes, count = _numbered(signatures)
    for _ in range(MAX_PASSES):
        before = count
        # In topological order a function's inputs come first, so one pass propagates differences along whole
        # paths, however long.
        for numbers, neighbours in (
            (range(len(classes)), inputs),
            (range(len(classes) - 1, -1, -1), dependents),
        ):
            seen: dict[Hashable, int] = {}
            refined = [0] * len(classes)
            for n in numbers:
                near = neighbours[n]
                key = (classes[n], frozenset([refined[d] for d in near]) if near else None)
                refined[n] = seen.setdefault(key, len(seen))
            classes, count = refined, len(seen)
        if count == before:
            break
    return classes


def _sizes(classes: Iterable[int]) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for number in classes:
        sizes[number] = sizes.get(number, 0) + 1
    return sizes


def _count(classes: Sequence[int], least: int) -> int:
    """Return the number of boxes if classes of at least ``least`` functions become one box each."""
    return sum(1 if size >= least else size for size in _sizes(classes).values())


def _boxes(
    functions: Sequence[Function],
    inputs: Sequence[Sequence[int]],
    classes: Sequence[int] | None,
    least: int,
) -> Outline:
    sizes = {} if classes is None else _sizes(classes)
    box_of_class: dict[int, int] = {}
    members: list[list[int]] = []
    others = None
    box_of: list[int] = []
    for n in range(len(functions)):
        box = None
        if classes is not None and sizes[classes[n]] >= least:
            box = box_of_class.get(classes[n])
            if box is None:
                box_of_class[classes[n]] = len(members)
                if classes[n] == OTHERS:
                    others = len(members)
        if box is None:
            box = len(members)
            members.append([])
        members[box].append(n)
        box_of.append(box)
    edges = {(box_of[d], box_of[n]): None for n, needed in enumerate(inputs) for d in needed}
    boxes = []
    for number, group in enumerate(members):
        inside = tuple(functions[n] for n in group)
        if number == others:
            lines: tuple[str, ...] = (count(len(inside), "other function"),)
        elif len(inside) == 1:
            lines = tuple(lines_of(inside[0]))
        else:
            lines = tuple(_lines_of_group(inside))
        if (number, number) in edges:
            lines = (*lines, "with internal dependencies")
        boxes.append(Box(inside, lines, inside[0].type == "inline" and number != others))
    return Outline(boxes, [edge for edge in edges if edge[0] != edge[1]])


def lines_of(f: Function) -> list[str]:
    """Return the text of a function's box: its id, cost and constraint."""
    # A serializer is named by its code, since its id only repeats the ids of its neighbours.
    title = f"{f.id[0]}: {code_name(f.code)}" if isinstance(f, Transfer) else safe_str(f.id)  # type: ignore[index]
    return [title, *_properties(f, [f])]


def _lines_of_group(functions: Sequence[Function]) -> list[str]:
    first = functions[0]
    name = "input" if first.code is None else code_name(first.code)
    if isinstance(first, Transfer):
        name = f"{first.id[0]}: {name}"  # type: ignore[index]
    lines = [f"{name} × {len(functions):,d}"]
    if not isinstance(first, Transfer):
        lines.append(f"{_short(first.id)} … {_short(functions[-1].id)}")
    return lines + _properties(first, functions)


def _short(id: Hashable) -> str:
    text = safe_str(id)
    return text if len(text) <= 30 else text[:29] + "…"


def _properties(first: Function, functions: Sequence[Function]) -> list[str]:
    """Return lines for the type, cost and constraint that equivalent functions share."""
    lines = []
    if first.type == "inline":
        lines.append("inline")
    if first.cost:
        lines.append(cost_text(first.cost))
    if isinstance(first, Transfer):
        return lines
    if isinstance(first.node, Collocated):
        beside = first.node.id
        same = all(isinstance(f.node, Collocated) and f.node.id == beside for f in functions)
        last = functions[-1].node
        others = f" … {_short(last.id)}" if isinstance(last, Collocated) and not same else ""
        lines.append(f"beside {_short(beside)}{others}")
    elif first.node is not None:
        lines.append(f"on {pin_text(first.node)}")
    return lines


def pin_text(node: Any) -> str:
    """Return the names of a pin's nodes."""
    names = node if isinstance(node, tuple) else (node,)
    return " or ".join(map(safe_str, names))

"""What a drawing of a DAG shows: a box for each function, or one for many that are alike."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Collocated, Function, Transfer, code_name
from handoff_dask._model.resources import format_amounts
from handoff_dask._model.safe_repr import safe_repr, safe_str

#: Functions that are alike are one box when there are at least so many.
COLLAPSE = 10

#: Boxes up to which a notebook shows functions one by one rather than in groups of fewer than that.
AT_A_GLANCE = 24

#: Passes over the graph, there and back, after which functions that were not told apart count as alike.
#: Two or three are usual; more are needed only where hardly anything is alike.
PASSES = 8


class Box(NamedTuple):
    """What is drawn as one.

    Attributes
    ----------
    functions : tuple of Function
        In topological order.
    lines : tuple of str
        What is written in it.
    inline : bool
    """

    functions: tuple[Function, ...]
    lines: tuple[str, ...]
    inline: bool


class Outline(NamedTuple):
    """Boxes, and pairs of numbers of boxes: from one whose result is needed to one that needs it."""

    boxes: list[Box]
    edges: list[tuple[int, int]]


def outline(dag: DAG, collapse: int | None = COLLAPSE) -> Outline:
    """The boxes of a drawing.

    Parameters
    ----------
    dag : DAG
        It may have problems, but no cycle.
    collapse : int or None
        Functions are alike when code, cost, pin and type are the same and so are the groups of functions
        that they need and that need them. At least so many are one box; None draws each.

    Raises
    ------
    CyclicDependencyError
        There is no order to draw it in.
    ValueError
        ``collapse`` is below 2.
    """
    check_collapse(collapse)
    functions, inputs = _graph(dag)
    alike = None if collapse is None else _alike(inputs, [_looks(f, dag) for f in functions])
    return _boxes(dag, functions, inputs, alike, collapse or 0)


def compact(dag: DAG, most: int) -> Outline:
    """The most detailed outline of at most ``most`` boxes: those with fewest functions are left to one."""
    functions, inputs = _graph(dag)
    looks = [_looks(f, dag) for f in functions]
    alike = _alike(inputs, looks)
    for least, limit in ((COLLAPSE, min(most, AT_A_GLANCE)), (2, most)):
        if _count(alike, least) <= limit:
            return _boxes(dag, functions, inputs, alike, least)
    # Alike by themselves, wherever they are in the graph.
    alike, _ = _numbered(looks)
    sizes = _sizes(alike)
    if len(sizes) > most:
        kept = set(sorted(sizes, key=lambda group: -sizes[group])[: most - 1])
        alike = [group if group in kept else -1 for group in alike]
    return _boxes(dag, functions, inputs, alike, 2)


def check_collapse(collapse: Any) -> None:
    """Raise ValueError for what is no number of functions from which on they are one box."""
    if collapse is not None and (not isinstance(collapse, int) or collapse < 2):
        raise ValueError(f"collapse must be a whole number of at least 2, or None, not {collapse!r}")


def cost_text(cost: Any) -> str:
    """A cost in short; one that is no cost as it is, since an invalid DAG can be shown too."""
    try:
        return format_amounts({name: float(amount) for name, amount in cost.items()})
    except (AttributeError, TypeError, ValueError, OverflowError):
        return safe_repr(cost)


def inputs_of(f: Function, among: Any) -> Iterator[Hashable]:
    """What a function needs of the functions there are, each once; it may have problems."""
    found = set()
    for id in f.dependencies:
        try:
            if id in among and id not in found:
                found.add(id)
                yield id
        except TypeError:  # it cannot be an id
            continue


def _graph(dag: DAG) -> tuple[list[Function], list[list[int]]]:
    functions = [dag[id] for id in dag]
    number = {f.id: n for n, f in enumerate(functions)}
    return functions, [[number[id] for id in inputs_of(f, number)] for f in functions]


def _looks(f: Function, dag: DAG) -> tuple[Hashable, ...]:
    """What a function is like, whatever it is connected with."""
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
    """The same for the same code; two lambdas are told apart, closures of one function are not."""
    code: Any = f.code
    while isinstance(code, partial):
        code = code.func
    return (code_name(f.code), getattr(code, "__code__", None)) if f.code is not None else None


def _cost(f: Function) -> Hashable:
    return cost_text(f.cost) if f.cost else ""


def _numbered(keys: Iterable[Hashable]) -> tuple[list[int], int]:
    seen: dict[Hashable, int] = {}
    numbers = [seen.setdefault(key, len(seen)) for key in keys]
    return numbers, len(seen)


def _alike(inputs: Sequence[Sequence[int]], looks: Iterable[Hashable]) -> list[int]:
    """Number of each function's group: refined until neighbours of functions that are alike are, too."""
    dependents: list[list[int]] = [[] for _ in inputs]
    for n, needed in enumerate(inputs):
        for d in needed:
            dependents[d].append(n)
    group, count = _numbered(looks)
    for _ in range(PASSES):
        before = count
        # Along the order a function's inputs come first, so one pass tells what depends on what, however far.
        for numbers, neighbours in (
            (range(len(group)), inputs),
            (range(len(group) - 1, -1, -1), dependents),
        ):
            seen: dict[Hashable, int] = {}
            refined = [0] * len(group)
            for n in numbers:
                near = neighbours[n]
                key = (group[n], frozenset([refined[d] for d in near]) if near else None)
                refined[n] = seen.setdefault(key, len(seen))
            group, count = refined, len(seen)
        if count == before:
            break
    return group


def _sizes(alike: Iterable[int]) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for group in alike:
        sizes[group] = sizes.get(group, 0) + 1
    return sizes


def _count(alike: Sequence[int], least: int) -> int:
    """How many boxes there would be."""
    return sum(1 if size >= least else size for size in _sizes(alike).values())


def _boxes(
    dag: DAG,
    functions: Sequence[Function],
    inputs: Sequence[Sequence[int]],
    alike: Sequence[int] | None,
    least: int,
) -> Outline:
    sizes = {} if alike is None else _sizes(alike)
    box_of_group: dict[int, int] = {}
    members: list[list[int]] = []
    others = -1
    box_of: list[int] = []
    for n in range(len(functions)):
        box = None
        if alike is not None and sizes[alike[n]] >= least:
            box = box_of_group.get(alike[n])
            if box is None:
                box_of_group[alike[n]] = len(members)
                if alike[n] < 0:
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
            lines: tuple[str, ...] = (f"{len(inside):,d} others",)
        elif len(inside) == 1:
            lines = tuple(lines_of(inside[0]))
        else:
            lines = tuple(_lines_of_group(inside))
        if (number, number) in edges:
            lines = (*lines, "some need others of these")
        boxes.append(Box(inside, lines, inside[0].type == "inline" and number != others))
    return Outline(boxes, [edge for edge in edges if edge[0] != edge[1]])


def lines_of(f: Function) -> list[str]:
    """Text of a function in a drawing: id, then cost and pin where it has them."""
    # A serializer's own name says more than its id, which repeats those of its neighbours.
    title = f"{f.id[0]}: {code_name(f.code)}" if isinstance(f, Transfer) else safe_str(f.id)  # type: ignore[index]
    return [title, *_needs(f, [f])]


def _lines_of_group(functions: Sequence[Function]) -> list[str]:
    first = functions[0]
    name = "input" if first.code is None else code_name(first.code)
    if isinstance(first, Transfer):
        name = f"{first.id[0]}: {name}"  # type: ignore[index]
    lines = [f"{name} × {len(functions):,d}"]
    if not isinstance(first, Transfer):
        lines.append(f"{_short(first.id)} … {_short(functions[-1].id)}")
    return lines + _needs(first, functions)


def _short(id: Hashable) -> str:
    text = safe_str(id)
    return text if len(text) <= 30 else text[:29] + "…"


def _needs(first: Function, functions: Sequence[Function]) -> list[str]:
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
    """The names of the nodes a pin allows."""
    names = node if isinstance(node, tuple) else (node,)
    return " or ".join(map(safe_str, names))

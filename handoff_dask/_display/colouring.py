"""What the colours of a drawing mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from handoff_dask._display.groups import Box, pin_text
from handoff_dask._display.timeline import COLOURS, OTHERS
from handoff_dask._display.words import seconds
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Collocated, Function
from handoff_dask._model.records import FunctionRecord

#: What can be coloured by.
SCHEMES = ("cost", "node", "status", "duration")

#: State → colour, in the order of the legend.
STATES = {
    "finished": "#009e73",
    "running": "#0072b2",
    "failed": "#d55e00",
    "waiting": "#f0e442",
    "ready": "#56b4e9",
    "delayed": "#cc79a7",
    "skipped": "#8c6d31",
    "cancelled": "#7a68c4",
}

#: Fills of durations, from short to long: black text can be read on each, and they differ in brightness.
SHADES = ("#f3f8fd", "#d6e8f8", "#b0d4f1", "#85bce9", "#5aa7e0")

#: The best known resources look the same in every drawing.
RESOURCES = {"cpu": COLOURS[0], "memory": COLOURS[2], "gpu": COLOURS[1]}


class Category(NamedTuple):
    """One entry of a legend.

    Attributes
    ----------
    label : str
    edge : str
        Colour of the frame, ``#rrggbb``.
    fill : str
        Colour of the area, on which black text can be read.
    """

    label: str
    edge: str
    fill: str


class Colouring:
    """Which function has which colour, and why.

    Parameters
    ----------
    title : str
        What colours stand for.
    categories : sequence of Category
    of : callable
        Function → the label of its category.
    told : callable, optional
        Functions of a box → a line that says of them what colours say.
    """

    def __init__(
        self,
        title: str,
        categories: Sequence[Category],
        of: Callable[[Function], str],
        told: Callable[[Sequence[Function]], str] | None = None,
    ) -> None:
        self.title = title
        self.legend = tuple(categories)
        self._category = {category.label: category for category in categories}
        self._of = of
        self._told = told

    def shares(self, box: Box) -> list[tuple[Category, float]]:
        """Categories of a box and their shares of its functions, in the order of the legend."""
        counts = Counter(self._of(f) for f in box.functions)
        return [(c, counts[c.label] / len(box.functions)) for c in self.legend if c.label in counts]

    def lines(self, box: Box) -> tuple[str, ...]:
        """Text of a box, with what its colour says."""
        told = self._told(box.functions) if self._told is not None else ""
        return (*box.lines, told) if told else box.lines


def colouring(dag: DAG, color: str | None, records: Any) -> Colouring | None:
    """The colours of a drawing of a DAG; None where there is nothing to tell apart.

    Raises
    ------
    TypeError
        ``records`` are not records, nor what has them.
    ValueError
        There is no such ``color``, or it needs records.
    """
    found = _records(records)
    if color is None:
        return None
    if color not in SCHEMES:
        raise ValueError(f"color must be one of {', '.join(map(repr, SCHEMES))} or None, not {color!r}")
    if color == "cost":
        return _by_cost(dag)
    if color == "node" and found is None:
        return _by_pin(dag)
    if found is None:
        raise ValueError(f"color={color!r} needs records: records=result.records, or run.records")
    if color == "node":
        return _by_node(dag, found)
    return _by_status(dag, found) if color == "status" else _by_duration(dag, found)


def _records(records: Any) -> Mapping[Hashable, FunctionRecord] | None:
    if records is None:
        return None
    found = getattr(records, "records", records)
    if not isinstance(found, Mapping):
        raise TypeError(f"records must be those of a run, result or schedule, or one of these, not {found!r}")
    return found


def _tint(colour: str) -> str:
    """The colour mixed with white, so that black text can be read on it."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - 0.5 * (255 - part)):02x}" for part in parts)


def _category(label: str, colour: str) -> Category:
    return Category(label, colour, _tint(colour))


def _nominal(
    labels: Iterable[str], *, last: str, fixed: Mapping[str, str] | None = None
) -> tuple[list[Category], dict[str, str]]:
    """Categories of the most frequent labels, and label → label of its category."""
    counts = Counter(labels)
    rest = counts.pop(last, 0)
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    fixed = fixed or {}
    free = [colour for colour in COLOURS if colour not in {fixed[r] for r in ranked if r in fixed}]
    categories, of = [], {last: last}
    others = "others"
    while others in counts:
        others += " "
    for label in ranked:
        colour = fixed.get(label) or (free.pop(0) if free else None)
        if colour is None:
            of[label] = others
        else:
            categories.append(_category(label, colour))
            of[label] = label
    if others in of.values():
        categories.append(_category(others, "#5a5a5a"))
    if rest:
        categories.append(Category(last, OTHERS, "#f4f4f4"))
    return categories, of


# ------------------------------------------------------------------------------ without records


def amounts(f: Function) -> dict[str, float]:
    """A cost as numbers; none where it is not valid."""
    try:
        return {str(name): float(amount) for name, amount in (f.cost or {}).items() if float(amount) > 0}
    except (AttributeError, TypeError, ValueError, OverflowError):
        return {}


def _by_cost(dag: DAG) -> Colouring | None:
    totals: Counter[str] = Counter()
    users: Counter[str] = Counter()
    for f in dag.functions.values():
        cost = amounts(f)
        totals.update(cost)
        users.update(cost.keys())
    if not totals:
        return None
    none = "no cost"

    def dominant(f: Function) -> str:
        cost = amounts(f)
        if not cost:
            return none
        return min(cost, key=lambda name: (-cost[name] / totals[name], users[name], name))

    label = {id: dominant(f) for id, f in dag.functions.items()}
    categories, of = _nominal(label.values(), last=none, fixed=RESOURCES)
    return Colouring(
        "Resource of whose total in this DAG a function asks the largest share",
        categories,
        lambda f: of[label[f.id]],
    )


def _by_pin(dag: DAG) -> Colouring:
    anywhere = "no pin"

    def pin(f: Function) -> str:
        seen = set()
        while isinstance(f.node, Collocated) and f.id not in seen:
            seen.add(f.id)
            try:
                f = dag[f.node.id]
            except (KeyError, TypeError):
                return anywhere
        return anywhere if f.node is None or isinstance(f.node, Collocated) else pin_text(f.node)

    label = {id: pin(f) for id, f in dag.functions.items()}
    categories, of = _nominal(label.values(), last=anywhere)
    return Colouring(
        "Node a function is pinned to, also by what it is collocated with",
        categories,
        lambda f: of[label[f.id]],
    )


# ------------------------------------------------------------------------------ with records


def _listed(counts: Mapping[str, int]) -> str:
    """How many of each, the most frequent first; a single one without a number."""
    ranked = sorted(counts, key=lambda label: -counts[label])
    if sum(counts.values()) == 1:
        return ranked[0]
    more = f", {len(ranked) - 3:,d} more" if len(ranked) > 3 else ""
    return ", ".join(f"{label}: {counts[label]:,d}" for label in ranked[:3]) + more


def _by_node(dag: DAG, records: Mapping[Hashable, FunctionRecord]) -> Colouring:
    nowhere = "not placed"

    def node(f: Function) -> str:
        record = records.get(f.id)
        return nowhere if record is None or record.node is None else str(record.node)

    label = {id: node(f) for id, f in dag.functions.items()}
    categories, of = _nominal(label.values(), last=nowhere)

    def told(functions: Sequence[Function]) -> str:
        counts = Counter(label[f.id] for f in functions)
        return nowhere if set(counts) == {nowhere} else f"ran on {_listed(counts)}"

    return Colouring("Node of the last attempt", categories, lambda f: of[label[f.id]], told)


def _by_status(dag: DAG, records: Mapping[Hashable, FunctionRecord]) -> Colouring:
    none = "no record"

    def status(f: Function) -> str:
        record = records.get(f.id)
        return none if record is None else record.status

    label = {id: status(f) for id, f in dag.functions.items()}
    there = set(label.values())
    categories = [_category(state, colour) for state, colour in STATES.items() if state in there]
    categories += [Category(s, OTHERS, "#f4f4f4") for s in sorted(there - set(STATES))]
    return Colouring(
        "How a function stands",
        categories,
        lambda f: label[f.id],
        lambda functions: _listed(Counter(label[f.id] for f in functions)),
    )


def _by_duration(dag: DAG, records: Mapping[Hashable, FunctionRecord]) -> Colouring:
    none = "not known"
    took: dict[Hashable, float] = {}
    for id in dag.functions:
        record = records.get(id)
        if record is not None and record.duration is not None:
            took[id] = max(0.0, record.duration)
    shortest, longest = min(took.values(), default=0.0), max(took.values(), default=0.0)
    # Steps of equal ratio, since durations differ by orders of magnitude; down to 1/1000 of the longest.
    low = max(shortest, longest / 1000)
    steps = len(SHADES) if longest > 1.5 * low else 1
    limits = [low * (longest / low) ** ((n + 1) / steps) for n in range(steps - 1)] if longest else []
    names = [f"up to {seconds(limit)}" for limit in limits]
    names.append(f"up to {seconds(longest)}")
    shade = SHADES if steps > 1 else SHADES[2:3]
    first: dict[str, Category] = {}
    for name, fill in zip(names, shade, strict=False):
        first.setdefault(name, Category(name, "#1f5f93", fill))

    def label(f: Function) -> str:
        duration = took.get(f.id)
        if duration is None:
            return none
        return next((n for n, limit in zip(names, limits, strict=False) if duration <= limit), names[-1])

    def told(functions: Sequence[Function]) -> str:
        times = sorted(took[f.id] for f in functions if f.id in took)
        if not times:
            return ""
        if len(times) == 1:
            return seconds(times[0])
        return f"{seconds(times[0])} to {seconds(times[-1])}, median {seconds(median(times))}"

    categories = list(first.values()) if took else []
    if len(took) < len(dag):
        categories.append(Category(none, OTHERS, "#ffffff"))
    return Colouring("How long the last attempt ran", categories, label, told)

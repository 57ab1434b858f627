"""Colours of the functions in a drawing: by cost, node, status or duration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from handoff_dask._display.groups import Box, pin_text
from handoff_dask._display.labels import duration_text, state_label
from handoff_dask._display.palette import (
    CATEGORIES,
    DURATION_FRAME,
    DURATIONS,
    OTHERS,
    RESOURCES,
    STATES,
    tint,
)
from handoff_dask._model.dag import DAG
from handoff_dask._model.function import Collocated, Function, declared_cost
from handoff_dask._model.records import FunctionRecord
from handoff_dask._model.resources import is_auto

#: Values of ``color=``.
SCHEMES = ("cost", "node", "status", "duration")


class Category(NamedTuple):
    """One entry of a legend.

    Attributes
    ----------
    label : str
        Text of the entry.
    edge : str
        Colour of the frame, ``#rrggbb``.
    fill : str
        Colour of the area, on which black text is legible.
    """

    label: str
    edge: str
    fill: str


class Colouring:
    """A mapping of functions to colours, with a legend.

    Parameters
    ----------
    title : str
        Title of the legend.
    categories : sequence of Category
        Entries of the legend.
    label_of : callable
        Function → label of its category.
    describe : callable, optional
        Functions of a box → a line of text with the information that their colours convey.
    """

    def __init__(
        self,
        title: str,
        categories: Sequence[Category],
        label_of: Callable[[Function], str],
        describe: Callable[[Sequence[Function]], str] | None = None,
    ) -> None:
        self.title = title
        self.legend = tuple(categories)
        self._label_of = label_of
        self._describe = describe

    def shares(self, box: Box) -> list[tuple[Category, float]]:
        """Return the categories in a box and their shares of its functions, in legend order."""
        counts = Counter(self._label_of(f) for f in box.functions)
        return [(c, counts[c.label] / len(box.functions)) for c in self.legend if c.label in counts]

    def lines(self, box: Box) -> tuple[str, ...]:
        """Return the text of a box, including the information that its colours convey."""
        description = self._describe(box.functions) if self._describe is not None else ""
        return (*box.lines, description) if description else box.lines


def colouring(dag: DAG, color: str | None, records: Any) -> Colouring | None:
    """Return the colours of a drawing of a DAG; None without a ``color``, and for costs if there are none.

    Raises
    ------
    TypeError
        ``records`` is neither a mapping of records nor an object with such an attribute.
    ValueError
        ``color`` is unknown, or it needs records and none are given.
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
        raise ValueError(f"color={color!r} needs records: pass records=result.records, or run.records")
    if color == "node":
        return _by_node(dag, found)
    return _by_status(dag, found) if color == "status" else _by_duration(dag, found)


def _records(records: Any) -> Mapping[Hashable, FunctionRecord] | None:
    if records is None:
        return None
    found = getattr(records, "records", records)
    if not isinstance(found, Mapping):
        raise TypeError(f"records must be a run, result or schedule, or the records of one, not {found!r}")
    return found


def _category(label: str, colour: str) -> Category:
    return Category(label, colour, tint(colour))


def _nominal(
    labels: Iterable[str], *, last: str, fixed: Mapping[str, str] | None = None
) -> tuple[list[Category], dict[str, str]]:
    """Give the most frequent labels a category each, and all other labels a common one.

    Parameters
    ----------
    labels : iterable of str
        One per function.
    last : str
        The label of functions without a value. It has a neutral colour and is last in the legend.
    fixed : mapping of str to str, optional
        Label → colour, for labels with a predefined colour.

    Returns
    -------
    categories : list of Category
        In legend order.
    category_of : dict
        Label → label of its category.
    """
    counts = Counter(labels)
    rest = counts.pop(last, 0)
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    fixed = fixed or {}
    free = [colour for colour in CATEGORIES if colour not in {fixed[r] for r in ranked if r in fixed}]
    categories, category_of = [], {last: last}
    others = "others"
    while others in counts:
        others += " "
    for label in ranked:
        colour = fixed.get(label) or (free.pop(0) if free else None)
        if colour is None:
            category_of[label] = others
        else:
            categories.append(_category(label, colour))
            category_of[label] = label
    if others in category_of.values():
        categories.append(_category(others, OTHERS))
    if rest:
        categories.append(Category(last, OTHERS, "#f4f4f4"))
    return categories, category_of


# ------------------------------------------------------------------------------ without records


def amounts(f: Function) -> dict[str, float]:
    """Return the positive amounts of a cost; an empty dict if the cost is invalid."""
    try:
        amounts = {name: 1.0 if is_auto(n) else float(n) for name, n in declared_cost(f).items()}
        return {str(name): amount for name, amount in amounts.items() if amount > 0}
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
    categories, category_of = _nominal(label.values(), last=none, fixed=RESOURCES)
    return Colouring(
        "Dominant resource (largest share of the DAG's total)",
        categories,
        lambda f: category_of[label[f.id]],
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
    categories, category_of = _nominal(label.values(), last=anywhere)
    return Colouring(
        "Pinned node, directly or by collocation",
        categories,
        lambda f: category_of[label[f.id]],
    )


# ------------------------------------------------------------------------------ with records


def _listed(counts: Mapping[str, int]) -> str:
    """Return labels and their counts as text, the most frequent first; a single label without its count."""
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
    categories, category_of = _nominal(label.values(), last=nowhere)

    def describe(functions: Sequence[Function]) -> str:
        counts = Counter(label[f.id] for f in functions)
        return nowhere if set(counts) == {nowhere} else f"ran on {_listed(counts)}"

    return Colouring("Node of the last attempt", categories, lambda f: category_of[label[f.id]], describe)


def _by_status(dag: DAG, records: Mapping[Hashable, FunctionRecord]) -> Colouring:
    none = "no record"

    def status(f: Function) -> str:
        record = records.get(f.id)
        return none if record is None else state_label(record.status)

    label = {id: status(f) for id, f in dag.functions.items()}
    present = set(label.values())
    colours = {state_label(state): colour for state, colour in STATES.items()}
    categories = [_category(name, colour) for name, colour in colours.items() if name in present]
    categories += [Category(name, OTHERS, "#f4f4f4") for name in sorted(present - set(colours))]
    return Colouring(
        "Status",
        categories,
        lambda f: label[f.id],
        lambda functions: _listed(Counter(label[f.id] for f in functions)),
    )


def _by_duration(dag: DAG, records: Mapping[Hashable, FunctionRecord]) -> Colouring:
    none = "unknown"
    took: dict[Hashable, float] = {}
    for id in dag.functions:
        record = records.get(id)
        if record is not None and record.duration is not None:
            took[id] = max(0.0, record.duration)
    shortest, longest = min(took.values(), default=0.0), max(took.values(), default=0.0)
    # A logarithmic scale, since durations span orders of magnitude; down to 1/1000 of the longest.
    low = max(shortest, longest / 1000)
    steps = len(DURATIONS) if longest > 1.5 * low else 1
    limits = [low * (longest / low) ** ((n + 1) / steps) for n in range(steps - 1)] if longest else []
    names = [f"up to {duration_text(limit)}" for limit in limits]
    names.append(f"up to {duration_text(longest)}")
    shade = DURATIONS if steps > 1 else DURATIONS[2:3]
    first: dict[str, Category] = {}
    for name, fill in zip(names, shade, strict=False):
        first.setdefault(name, Category(name, DURATION_FRAME, fill))

    def label(f: Function) -> str:
        duration = took.get(f.id)
        if duration is None:
            return none
        return next((n for n, limit in zip(names, limits, strict=False) if duration <= limit), names[-1])

    def describe(functions: Sequence[Function]) -> str:
        times = sorted(took[f.id] for f in functions if f.id in took)
        if not times:
            return ""
        if len(times) == 1:
            return duration_text(times[0])
        return (
            f"{duration_text(times[0])} to {duration_text(times[-1])}, median {duration_text(median(times))}"
        )

    categories = list(first.values()) if took else []
    if len(took) < len(dag):
        categories.append(Category(none, OTHERS, "#ffffff"))
    return Colouring("Duration of the last attempt", categories, label, describe)

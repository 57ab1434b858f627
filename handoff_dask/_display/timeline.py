"""Which function ran where and when."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from html import escape
from typing import Any

from handoff_dask._display.timeline_data import Bar, TimelineData, prepare
from handoff_dask._display.words import seconds
from handoff_dask._model.dag import DAG
from handoff_dask._model.records import FunctionRecord
from handoff_dask._model.resources import format_amounts

#: Colours of functions whose ids are alike; people who cannot tell red from green can tell these apart.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d31", "#7a68c4")
OTHERS = "#9a9a9a"

#: Outcome → colour of its area, of its edge, and pattern (Bokeh's name, matplotlib's), of those not finished.
OUTCOMES = {
    "failed": ("#ffd6d0", "#c00000", "x", "xxxx"),
    "lost": ("#ffffff", "#000000", ".", "...."),
    "cancelled": ("#ececec", "#707070", "-", "----"),
    "running": ("#ffffff", "#0072b2", "/", "////"),
}

#: Formats of images.
IMAGES = (".png", ".svg", ".pdf")


class Timeline:
    """Which function ran where and when. Made by ``timeline()`` of a run, result, schedule or records.

    A notebook shows it as an interactive figure; elsewhere it is saved. Each node has a lane for each
    function that it ran at once. An attempt that failed, was lost or cancelled has a pattern of its own; a
    dotted line ahead of a function tells since when it could have started. Below are, on the same time axis,
    how many functions waited, and what was in use of each resource of each node. The critical path is framed
    in black.
    """

    def __init__(self, parts: Sequence[tuple[str, TimelineData]]) -> None:
        self._parts = tuple(parts)

    def __repr__(self) -> str:
        titles = ", ".join(title for title, _ in self._parts)
        return f"<timeline of {titles}>"

    @property
    def critical_path(self) -> tuple[tuple[Hashable, int], ...]:
        """Function id and number of the attempt, of each step that kept the next from starting.

        A step is an input of the next, its previous attempt, or held what the next needed on its node. Of the
        first of two records that are compared; empty when it is not known what the functions take.
        """
        return tuple((step.bar.id, step.bar.attempt) for step in self._parts[0][1].critical_path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file.

        Parameters
        ----------
        path : str or path-like
            ``.html`` for an interactive page, complete in itself; ``.png``, ``.svg`` or ``.pdf`` for an
            image.

        Raises
        ------
        ImportError
            Bokeh, for pages, or matplotlib, for images, is not installed.
        ValueError
            The name ends in none of these.
        """
        suffix = os.path.splitext(path)[1].lower()
        if suffix == ".html":
            from handoff_dask._display import timeline_bokeh

            page, _ = timeline_bokeh.page(self._parts)
            with open(path, "w", encoding="utf-8") as file:
                file.write(page)
        elif suffix in IMAGES:
            from handoff_dask._display import timeline_image

            timeline_image.draw(self._parts).savefig(path, format=suffix[1:], dpi=110)
        else:
            raise ValueError(f"a timeline is saved as .html, {', '.join(IMAGES)}, not as {suffix!r}")

    def figure(self) -> Any:
        """The Bokeh layout, to be put elsewhere.

        Raises
        ------
        ImportError
            Bokeh is not installed.
        """
        from handoff_dask._display import timeline_bokeh

        return timeline_bokeh.draw(self._parts)

    def _repr_html_(self) -> str:
        from handoff_dask._display import timeline_bokeh

        try:
            page, height = timeline_bokeh.page(self._parts)
        except ImportError as error:
            return f"<p>{escape(repr(self))}: {escape(str(error))}</p>"
        # In a frame of its own it needs no script in the notebook, and no network.
        return (
            f"<iframe srcdoc='{escape(page)}' width='100%' height='{height}'"
            " style='border: none; background: white'></iframe>"
        )


def missing(package: str) -> ImportError:
    """The error for an optional dependency that is not there."""
    return ImportError(f"{package} is needed for this: pip install 'handoff-dask[timeline]'")


def timeline_of(
    title: str,
    records: Mapping[Hashable, FunctionRecord],
    other: Any = None,
    *,
    dag: DAG | None = None,
    now: float | None = None,
) -> Timeline:
    """The timeline of records, and of another one below it."""
    known = getattr(records, "_inputs", None)
    inputs = None
    if dag is not None:
        inputs = dag._inputs_among(records)
    elif known is not None:
        inputs = known()
    data = prepare(records, inputs, getattr(records, "_capacities", None), now)
    parts = [(title, data)]
    if other is not None:
        if isinstance(other, Mapping):
            other = timeline_of("records", other)
        elif not isinstance(other, Timeline):
            other = other.timeline()
        parts += other._parts
    return Timeline(parts)


def families(parts: Sequence[tuple[str, TimelineData]]) -> dict[str, str]:
    """Family of functions → colour: those that took longest have one of their own."""
    took: dict[str, float] = {}
    for _, data in parts:
        for bar in data.bars:
            took[bar.family] = took.get(bar.family, 0.0) + bar.stopped - bar.started
    ranked = sorted(took, key=lambda family: (-took[family], family))
    return dict(zip(ranked, COLOURS, strict=False))


def alike(bars: Sequence[Bar], colours: Mapping[str, str]) -> list[tuple[tuple[str, str], list[Bar]]]:
    """Bars that look the same, those that finished first: (outcome, name in the legend) → bars."""
    looks: dict[tuple[str, str], list[Bar]] = {}
    for bar in bars:
        name = bar.outcome
        if name == "finished":
            name = bar.family if bar.family in colours else "others"
        looks.setdefault((bar.outcome, name), []).append(bar)
    return sorted(looks.items(), key=lambda item: item[0][0] != "finished")


def heading(title: str, data: TimelineData) -> str:
    """Title, time, and how the attempts ended."""
    counts = ", ".join(f"{n:,d} {outcome}" for outcome, n in data.counts.items())
    return f"{title}: {seconds(data.end)}, {counts or 'nothing ran'}"


def details(bar: Bar, reason: str | None) -> dict[str, str]:
    """What is told of an attempt when somebody points at it."""
    started = f"{seconds(bar.started)}{' (not known: at the earliest)' if bar.guessed else ''}"
    error = "-" if bar.error is None else bar.error
    path = {"start": "begins here", "input": "its input came last", "retry": "its previous attempt"}
    path["room"] = "what it needed was held until then"
    return {
        "id": bar.id if isinstance(bar.id, str) else repr(bar.id),
        "node": str(bar.node),
        "attempt": f"{bar.attempt}, {bar.outcome}",
        "waited": seconds(bar.waited),
        "started": started,
        "ran": f"{seconds(bar.stopped - bar.started)}, until {seconds(bar.stopped)}",
        "cost": format_amounts(bar.cost),
        "devices": ", ".join(f"{name} {list(indices)}" for name, indices in bar.devices.items()) or "-",
        "error": error if len(error) <= 200 else error[:197] + "...",
        "path": "-" if reason is None else path[reason],
    }


class Rows:
    """Where the lanes and the rows of resources of one part are; downwards, a lane being 1 high."""

    def __init__(self, data: TimelineData) -> None:
        self.nodes: list[tuple[str, float, int]] = []  # name, top, lanes
        self.top: dict[Any, float] = {}
        y = 0.0
        for node, lanes in data.lanes.items():
            self.top[node] = y
            self.nodes.append((str(node), y, max(1, lanes)))
            y += max(1, lanes) + 0.5
        self.height = max(1.0, y - 0.5)
        #: Label, what it says on the right, times, shares of the height.
        self.levels: list[tuple[str, str, list[float], list[float]]] = []
        peak = data.waiting.peak
        if peak:
            most = f"at most {peak:,.0f}"
            self.levels.append(("waiting", most, *_outline(data.waiting, peak, data.end)))
        for (node, resource), level in data.utilisation.items():
            capacity = data.capacity(node, resource)
            full = max(level.peak, capacity or 0.0)
            if capacity:
                said = f"{level.mean(data.end) / capacity:.0%} of {capacity:g}"
            else:
                said = f"at most {level.peak:g}"
            self.levels.append((f"{node} {resource}", said, *_outline(level, full, data.end)))

    def bar(self, bar: Bar) -> tuple[float, float]:
        """Top and bottom of a bar."""
        top = self.top[bar.node] + bar.lane
        return top + 0.1, top + 0.9


def _outline(level: Any, full: float, end: float) -> tuple[list[float], list[float]]:
    """Corners of a step function, from 0 and back to 0."""
    xs, ys, last = [0.0], [0.0], 0.0
    for time, amount in zip(level.times, level.amounts, strict=True):
        xs += [time, time]
        ys += [last, last := amount / full]
    return [*xs, end, end], [*ys, last, 0.0]

"""Timelines: which function ran where and when."""

from __future__ import annotations

import os
from collections.abc import Generator, Hashable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from handoff_dask._display.labels import WAITING_FOR_NODE, attempt_used_text, capacity_text, duration_text
from handoff_dask._display.palette import category_colours
from handoff_dask._display.timeline_data import Bar, Level, TimelineData, prepare
from handoff_dask._model.dag import DAG
from handoff_dask._model.records import FunctionRecord
from handoff_dask._model.resources import format_amounts

#: Suffixes of image files.
IMAGES = (".png", ".svg", ".pdf")


class Timeline:
    """A timeline of attempts, made by ``timeline()`` of a run, result, schedule or records.

    A notebook displays it as an interactive figure; elsewhere, save it to a file. Each node has as many lanes
    as attempts ran on it concurrently. Failed, lost, cancelled and running attempts have different patterns.
    A dotted line before an attempt shows how long it waited for a node. The rows below, on the same time
    axis, show how many functions waited for a node, and how much of each node's resources was in use. The
    critical path is framed in black.
    """

    if TYPE_CHECKING:
        # For ``await run.timeline()``: see ``Result``.
        def __await__(self) -> Generator[Any, None, Timeline]: ...

    def __init__(self, parts: Sequence[tuple[str, TimelineData]]) -> None:
        self._parts = tuple(parts)

    def __repr__(self) -> str:
        titles = ", ".join(title for title, _ in self._parts)
        return f"<timeline of {titles}>"

    @property
    def critical_path(self) -> tuple[tuple[Hashable, int], ...]:
        """Function id and attempt number of each step of the critical path, the first step first.

        Each step delayed the start of the next one: as its last dependency to finish, as its previous
        attempt, or by holding a resource that it waited for. If two sets of records are compared, the path is
        that of the first. The path is empty if the functions' dependencies are unknown.
        """
        return tuple((step.bar.id, step.bar.attempt) for step in self._parts[0][1].critical_path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the timeline to a file.

        Parameters
        ----------
        path : str or path-like
            The suffix sets the format: ``.html`` for an interactive, self-contained page; ``.png``, ``.svg``
            or ``.pdf`` for an image.

        Raises
        ------
        ImportError
            Bokeh, for pages, or matplotlib, for images, is not installed.
        ValueError
            The path has another suffix.
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
            raise ValueError(f"a timeline can be saved as .html, {', '.join(IMAGES)}, not as {suffix!r}")

    def figure(self) -> Any:
        """Return the Bokeh layout, to embed in a page or application.

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
        # In its own frame the page needs no scripts in the notebook, and no network.
        return (
            f"<iframe srcdoc='{escape(page)}' width='100%' height='{height}'"
            " style='border: none; background: white'></iframe>"
        )


def missing(package: str) -> ImportError:
    """Return the error for a missing optional dependency."""
    return ImportError(f"{package} is needed for this: pip install 'handoff-dask[timeline]'")


def timeline_of(
    title: str,
    records: Mapping[Hashable, FunctionRecord],
    other: Any = None,
    *,
    dag: DAG | None = None,
    now: float | None = None,
) -> Timeline:
    """Return the timeline of records, with another timeline below it if ``other`` is given."""
    inputs_of = getattr(records, "_inputs", None)
    inputs = None
    if dag is not None:
        inputs = dag._inputs_among(records)
    elif inputs_of is not None:
        inputs = inputs_of()
    data = prepare(records, inputs, getattr(records, "_capacities", None), now)
    parts = [(title, data)]
    if other is not None:
        if isinstance(other, Mapping):
            other = timeline_of("records", other)
        elif not isinstance(other, Timeline):
            other = other.timeline()
        parts += other._parts
    return Timeline(parts)


def family_colours(parts: Sequence[tuple[str, TimelineData]]) -> dict[str, str]:
    """Return family of functions → colour, for the families with the longest total durations."""
    total: dict[str, float] = {}
    for _, data in parts:
        for bar in data.bars:
            total[bar.family] = total.get(bar.family, 0.0) + bar.stopped - bar.started
    ranked = sorted(total, key=lambda family: (-total[family], family))
    return category_colours(ranked)


def group_bars(bars: Sequence[Bar], colours: Mapping[str, str]) -> list[tuple[tuple[str, str], list[Bar]]]:
    """Group bars by appearance: pairs of (outcome, name in the legend) and bars, finished ones first."""
    groups: dict[tuple[str, str], list[Bar]] = {}
    for bar in bars:
        name = bar.outcome
        if name == "finished":
            name = bar.family if bar.family in colours else "others"
        groups.setdefault((bar.outcome, name), []).append(bar)
    return sorted(groups.items(), key=lambda item: item[0][0] != "finished")


def heading(title: str, data: TimelineData) -> str:
    """Return the title, the duration and the number of attempts per outcome."""
    counts = ", ".join(f"{n:,d} {outcome}" for outcome, n in data.counts.items())
    return f"{title}: {duration_text(data.end)}, {counts or 'nothing ran'}"


def details(bar: Bar, reason: str | None) -> dict[str, str]:
    """Return the rows of an attempt's tooltip: label → text."""
    started = f"{duration_text(bar.started)}{' at the earliest (unknown)' if bar.guessed else ''}"
    error = "-" if bar.error is None else bar.error
    reasons = {
        "start": "starts here",
        "input": "waited for its last input",
        "retry": "retried after its previous attempt",
        "capacity": "waited for a resource on its node",
    }
    return {
        "id": bar.id if isinstance(bar.id, str) else repr(bar.id),
        "node": str(bar.node),
        "attempt": f"{bar.attempt}, {bar.outcome}",
        "waited": duration_text(bar.waited),
        "started": started,
        "ran": f"{duration_text(bar.stopped - bar.started)}, until {duration_text(bar.stopped)}",
        "cost": format_amounts(bar.cost),
        "used": attempt_used_text(bar.cpu_seconds, bar.peak_memory, bar.peak_exact),
        "devices": ", ".join(f"{name} {list(indices)}" for name, indices in bar.devices.items()) or "-",
        "error": error if len(error) <= 200 else error[:197] + "...",
        "path": "-" if reason is None else reasons[reason],
    }


class Rows:
    """Vertical layout of one part: its lanes, and its rows of levels. A lane is 1 high; y points down."""

    def __init__(self, data: TimelineData) -> None:
        self.nodes: list[tuple[str, float, int]] = []  # name, top, lanes
        self.top: dict[Any, float] = {}
        y = 0.0
        for node, lanes in data.lanes.items():
            self.top[node] = y
            self.nodes.append((str(node), y, max(1, lanes)))
            y += max(1, lanes) + 0.5
        self.height = max(1.0, y - 0.5)
        #: Rows of levels: label on the left, text on the right, times in seconds, shares of the height.
        self.levels: list[tuple[str, str, list[float], list[float]]] = []
        peak = data.waiting.peak
        if peak:
            text = f"peak {peak:,.0f}"
            self.levels.append((WAITING_FOR_NODE, text, *_outline(data.waiting, peak, data.end)))
        for (node, resource), level in data.utilisation.items():
            capacity = data.capacity(node, resource)
            full = max(level.peak, capacity or 0.0)
            if capacity:
                text = f"{level.mean(data.end) / capacity:.0%} of {capacity_text(resource, capacity)} used"
            else:
                text = f"peak {level.peak:g}"
            self.levels.append((f"{node} {resource}", text, *_outline(level, full, data.end)))

    def bar(self, bar: Bar) -> tuple[float, float]:
        """Return the y coordinates of the top and bottom of a bar."""
        top = self.top[bar.node] + bar.lane
        return top + 0.1, top + 0.9


def _outline(level: Level, full: float, end: float) -> tuple[list[float], list[float]]:
    """Return the x and y coordinates of a level's corners, starting and ending at y = 0."""
    xs, ys, last = [0.0], [0.0], 0.0
    for time, amount in zip(level.times, level.amounts, strict=True):
        xs += [time, time]
        ys += [last, last := amount / full]
    return [*xs, end, end], [*ys, last, 0.0]

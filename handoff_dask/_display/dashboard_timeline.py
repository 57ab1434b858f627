"""The small timeline on the dashboard page, with a group of lanes per node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from handoff_dask._display.export import assign_lanes, sorted_by_start
from handoff_dask._display.labels import attempt_used_text
from handoff_dask._display.palette import HATCHES, OTHERS
from handoff_dask._model.resources import format_amounts

if TYPE_CHECKING:
    from handoff_dask._adapter.run_details import BarView

#: Tolerated overlap, in seconds, of successive bars in a lane: the start of a running attempt comes from the
#: scheduler's clock, the end of the previous attempt from the node's clock.
SLACK = 1e-3

#: Columns of the data sources: of finished attempts, and of all others.
FINISHED = ("y", "start", "stop", "colour", "function", "code", "node", "took", "cost", "used")
OTHER = (*FINISHED[:3], "fill", "edge", "pattern", *FINISHED[4:], "outcome")

Columns = dict[str, list[Any]]

# Most bars are the same at the next refresh, and costs are few.
_cost_text = lru_cache(1_000)(format_amounts)
_used_text = lru_cache(2_000)(attempt_used_text)


class Layout(NamedTuple):
    """The bars of all attempts, laid out in lanes.

    Attributes
    ----------
    finished, other : dict
        Column name → values, for the data source of finished attempts, and for that of all others.
    height : float
        The y coordinate at which the last node's lane ends; 0 without attempts.
    ticks : dict
        The y coordinate of the middle of a node's lanes → node.
    """

    finished: Columns
    other: Columns
    height: float
    ticks: dict[float, str]


class TimelineFigure:
    """A Bokeh figure of attempts: finished ones in the colour of their code, all others hatched."""

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d
        from bokeh.plotting import figure

        self._layout = lay_out((), {})
        self.finished = ColumnDataSource(self._layout.finished)
        self.other = ColumnDataSource(self._layout.other)
        self.figure = plot = figure(
            height=80,
            sizing_mode="stretch_width",
            toolbar_location=None,
            tools="",
            y_range=Range1d(1, 0),
            x_axis_label="seconds since submission",
            visible=False,
        )
        span = {"y": "y", "left": "start", "right": "stop", "height": 0.8}
        # The frame keeps very short attempts visible as a line.
        finished = plot.hbar(**span, fill_color="colour", line_color="colour", source=self.finished)
        finished.glyph.fill_alpha = 0.85
        other = plot.hbar(
            **span,
            fill_color="fill",
            line_color="edge",
            hatch_pattern="pattern",
            hatch_color="edge",
            hatch_scale=7,
            hatch_weight=1.2,
            source=self.other,
        )
        plot.x_range.start = 0
        plot.ygrid.grid_line_color = None
        plot.yaxis.major_tick_line_color = None
        # Always the same object: for a new one, Bokeh would search all objects of the page for references.
        self._ticker = plot.yaxis[0].ticker = FixedTicker(ticks=[])
        names = ("function", "code", "node")
        for drawn, outcome in ((finished, "finished"), (other, "@outcome")):
            tooltips = [(name, f"@{name}") for name in names]
            tooltips += [("outcome", outcome), ("took", "@took s"), ("cost", "@cost"), ("used", "@used")]
            plot.add_tools(HoverTool(tooltips=tooltips, renderers=[drawn]))

    def show(self, bars: Iterable[BarView], colours: Mapping[str, str]) -> None:
        """Show attempts. Only what has changed is sent to the browser."""
        layout, before = lay_out(bars, colours), self._layout
        self._layout = layout
        if layout.finished != before.finished:
            self.finished.data = layout.finished
        if layout.other != before.other:
            self.other.data = layout.other
        if (layout.height, layout.ticks) != (before.height, before.ticks):
            plot = self.figure
            plot.visible = bool(layout.ticks)
            self._ticker.ticks = list(layout.ticks)
            plot.yaxis.major_label_overrides = layout.ticks
            plot.height = int(min(900, 80 + 16 * layout.height))
            plot.y_range.start, plot.y_range.end = layout.height or 1, 0


def lay_out(bars: Iterable[BarView], colours: Mapping[str, str]) -> Layout:
    """Lay out attempts.

    Concurrent attempts on a node are in different rows of its lanes.

    Parameters
    ----------
    bars : iterable of BarView
    colours : mapping of str to str
        Code → colour.
    """
    by_node: dict[str, list[BarView]] = {}
    for bar in bars:
        by_node.setdefault(bar["node"], []).append(bar)
    finished: Columns = {name: [] for name in FINISHED}
    other: Columns = {name: [] for name in OTHER}
    ticks: dict[float, str] = {}
    top = 0.0
    for node in sorted(by_node):
        rows = 0
        ran = sorted_by_start((bar["start"], bar["stop"], bar) for bar in by_node[node])
        for row, (_, _, bar) in assign_lanes(ran, SLACK):
            rows = max(rows, row + 1)
            hatch = HATCHES.get(bar["outcome"])
            columns = other
            values: dict[str, Any] = {**bar, "y": round(top + row + 0.5, 1)}
            values["took"] = round(bar["stop"] - bar["start"], 3)
            values["cost"] = _cost_text(tuple(bar["cost"].items()))
            values["used"] = _used_text(bar["cpu_seconds"], bar["peak_memory"], bar["peak_exact"])
            if bar["outcome"] == "finished":
                columns = finished
                values["colour"] = colours.get(bar["code"], OTHERS)
            elif hatch is None:
                values.update(fill=OTHERS, edge=OTHERS, pattern=" ")
            else:
                values.update(fill=hatch.fill, edge=hatch.edge, pattern=hatch.bokeh)
            for name, column in columns.items():
                column.append(values[name])
        ticks[round(top + rows / 2, 1)] = node
        top += rows + 0.4
    return Layout(finished, other, round(top, 1), ticks)

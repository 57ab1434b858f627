"""The small timeline on the dashboard page, with a group of lanes per node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from handoff_dask._display.export import assign_lanes, sorted_by_start
from handoff_dask._display.palette import state_colour

if TYPE_CHECKING:
    from handoff_dask._adapter.snapshot import BarView

#: Tolerated overlap, in seconds, of successive bars in a lane: the start of a running attempt comes from the
#: scheduler's clock, the end of the previous attempt from the node's clock.
SLACK = 1e-3


def timeline_figure() -> tuple[Any, Any, list[tuple[str, float]]]:
    """Return an empty figure, its data source and its lanes, the latter as in :func:`timeline_columns`."""
    from bokeh.models import ColumnDataSource, HoverTool, Range1d
    from bokeh.plotting import figure

    source = ColumnDataSource(timeline_columns(())[0])
    plot = figure(
        height=80,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        y_range=Range1d(1, 0),
        x_axis_label="seconds since submission",
        visible=False,
    )
    plot.hbar(
        y="y",
        left="start",
        right="stop",
        height=0.8,
        fill_color="colour",
        fill_alpha=0.75,
        line_color="colour",  # keeps very short attempts visible as a line
        source=source,
    )
    plot.x_range.start = 0
    plot.ygrid.grid_line_color = None
    plot.yaxis.major_tick_line_color = None
    tooltips = [("function", "@function"), ("node", "@node"), ("outcome", "@outcome"), ("took", "@took s")]
    plot.add_tools(HoverTool(tooltips=tooltips))
    return plot, source, []


def timeline_columns(
    bars: Iterable[BarView],
) -> tuple[dict[str, list[Any]], list[tuple[str, float]], dict[float, str]]:
    """Lay out the bars of all attempts.

    Concurrent attempts on a node are in different rows of its lane.

    Returns
    -------
    columns : dict
        Column name → values, for the figure's data source.
    lanes : list of (str, float)
        Node and the y coordinate at which its lane ends.
    ticks : dict
        y coordinate of the middle of a lane → node.
    """
    by_node: dict[str, list[BarView]] = {}
    for bar in bars:
        by_node.setdefault(bar["node"], []).append(bar)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("y", "start", "stop", "colour", "function", "node", "outcome", "took")
    }
    lanes: list[tuple[str, float]] = []
    ticks: dict[float, str] = {}
    top = 0.0
    for node in sorted(by_node):
        rows = 0
        ran = sorted_by_start((bar["start"], bar["stop"], bar) for bar in by_node[node])
        for row, (_, _, bar) in assign_lanes(ran, SLACK):
            rows = max(rows, row + 1)
            columns["y"].append(top + row + 0.5)
            columns["start"].append(bar["start"])
            columns["stop"].append(bar["stop"])
            columns["colour"].append(state_colour(bar["outcome"]))
            columns["function"].append(bar["function"])
            columns["node"].append(bar["node"])
            columns["outcome"].append(bar["outcome"])
            columns["took"].append(round(bar["stop"] - bar["start"], 3))
        ticks[top + rows / 2] = node
        top += rows + 0.4
        lanes.append((node, top))
    return columns, lanes, ticks

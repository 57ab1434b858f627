"""Timelines as interactive Bokeh figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handoff_dask._display.labels import WAITING_FOR_NODE
from handoff_dask._display.palette import HATCHES, OTHERS, STATES, USED
from handoff_dask._display.timeline import (
    Rows,
    details,
    family_colours,
    group_bars,
    heading,
    missing,
)
from handoff_dask._display.timeline_data import TimelineData

Parts = Sequence[tuple[str, TimelineData]]

#: Rows of an attempt's tooltip: label and name of the column.
TOOLTIP = ("id", "node", "attempt", "waited", "started", "ran", "cost", "used", "devices", "error", "path")

#: Maximum heights in pixels: of a lane, of a row of a level, and of all lanes or rows together.
LANE, ROW, TOTAL = 24, 30, 900


def page(parts: Parts) -> tuple[str, int]:
    """Return a self-contained HTML page, and its height in pixels."""
    layout = draw(parts)
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    height = sum(child[0].height for child in layout.children) + 40
    title = " and ".join(title for title, _ in parts)
    return file_html(layout, INLINE, title=title), height


def draw(parts: Parts) -> Any:
    """Return the figures in one column, with a shared time axis."""
    try:
        from bokeh.layouts import gridplot
        from bokeh.models import Range1d
    except ImportError:
        raise missing("bokeh") from None
    end = max([data.end for _, data in parts]) or 1.0
    times = Range1d(-0.01 * end, 1.01 * end, bounds=(-0.05 * end, 1.05 * end))
    colours = family_colours(parts)
    figures = []
    for title, data in parts:
        rows = Rows(data)
        figures.append(_lanes(title, data, rows, times, colours))
        if rows.levels:
            figures.append(_levels(rows, times))
    return gridplot(
        [[f] for f in figures], sizing_mode="stretch_width", toolbar_location="right", merge_tools=True
    )


def _figure(times: Any, height: float, bottom: float, **more: Any) -> Any:
    from bokeh.models import Range1d
    from bokeh.plotting import figure

    plot = figure(
        x_range=times,
        y_range=Range1d(bottom + 0.2, -0.3),
        height=round(height),
        sizing_mode="stretch_width",
        tools="xpan,xwheel_zoom,xbox_zoom,reset,save",
        active_scroll="xwheel_zoom",
        min_border_left=150,
        min_border_right=90,
        background_fill_color="white",
        border_fill_color="white",
        **more,
    )
    plot.ygrid.visible = False
    plot.xaxis.axis_label = "seconds"
    plot.yaxis.major_tick_line_color = None
    plot.yaxis.minor_tick_line_color = None
    return plot


def _label_rows(plot: Any, labels: list[tuple[float, str]]) -> None:
    plot.yaxis.ticker = [y for y, _ in labels]
    plot.yaxis.major_label_overrides = {y: _short(text) for y, text in labels}


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else text[: most - 12] + "…" + text[-11:]


def _lanes(title: str, data: TimelineData, rows: Rows, times: Any, colours: dict[str, str]) -> Any:
    from bokeh.models import HoverTool, Legend

    lane = min(LANE, TOTAL / rows.height)
    plot = _figure(times, 110 + lane * rows.height, rows.height, title=heading(title, data))
    _label_rows(plot, [(top + lanes / 2, name) for name, top, lanes in rows.nodes])
    for _, top, _ in rows.nodes[1:]:
        plot.hspan(y=[top - 0.25], line_color="#bbbbbb")
    legend = []
    if data.waits:
        waits = [(since, bar.started, sum(rows.bar(bar)) / 2) for bar, since in data.waits]
        x0, x1, y = zip(*waits, strict=True)
        style = {"line_color": STATES["ready"], "line_dash": "dotted", "line_width": 2}
        drawn = plot.segment(x0=x0, x1=x1, y0=y, y1=y, **style)
        legend.append((WAITING_FOR_NODE, [drawn]))
    reasons = {(step.bar.id, step.bar.attempt): step.reason for step in data.critical_path}
    hovered = []
    for (outcome, name), bars in group_bars(data.bars, colours):
        edges = [rows.bar(bar) for bar in bars]
        tooltips = [details(bar, reasons.get((bar.id, bar.attempt))) for bar in bars]
        source: dict[str, list[Any]] = {
            "left": [bar.started for bar in bars],
            "right": [bar.stopped for bar in bars],
            "top": [top for top, _ in edges],
            "bottom": [bottom for _, bottom in edges],
            **{column: [tooltip[column] for tooltip in tooltips] for column in TOOLTIP},
        }
        if outcome == "finished":
            style = {"fill_color": colours.get(name, OTHERS), "line_color": "white", "line_width": 0.5}
        else:
            hatch = HATCHES[outcome]
            style = {
                "fill_color": hatch.fill,
                "line_color": hatch.edge,
                "hatch_pattern": hatch.bokeh,
                "hatch_color": hatch.edge,
                "hatch_scale": 7,
                "hatch_weight": 1.2,
                "line_dash": "dashed" if hatch.dashed else "solid",
            }
        drawn = plot.quad("left", "right", "top", "bottom", source=_source(source), **style)
        hovered.append(drawn)
        legend.append((name, [drawn]))
    if path := data.critical_path:
        legend.append(("critical path", _path(plot, path, rows)))
    plot.add_tools(HoverTool(renderers=hovered, tooltips=[(name, f"@{name}") for name in TOOLTIP]))
    if legend:
        plot.add_layout(
            Legend(
                items=legend,
                orientation="horizontal",
                click_policy="hide",
                border_line_color=None,
                padding=2,
                margin=2,
                spacing=10,
                label_text_font_size="11px",
            ),
            "above",
        )
    return plot


def _source(columns: dict[str, list[Any]]) -> Any:
    from bokeh.models import ColumnDataSource

    return ColumnDataSource(columns)


def _path(plot: Any, path: Any, rows: Rows) -> list[Any]:
    """Draw frames around the steps of the critical path, and lines from each to the next."""
    edges = [rows.bar(step.bar) for step in path]
    frames = plot.quad(
        left=[step.bar.started for step in path],
        right=[step.bar.stopped for step in path],
        top=[top for top, _ in edges],
        bottom=[bottom for _, bottom in edges],
        fill_color=None,
        line_color="black",
        line_width=2,
    )
    middles = [(top + bottom) / 2 for top, bottom in edges]
    lines = plot.segment(
        x0=[step.bar.stopped for step in path[:-1]],
        x1=[step.bar.started for step in path[1:]],
        y0=middles[:-1],
        y1=middles[1:],
        line_color="black",
        line_width=2,
    )
    return [frames, lines]


def _levels(rows: Rows, times: Any) -> Any:
    count = len(rows.levels)
    plot = _figure(
        times,
        60 + min(ROW, TOTAL / count) * count,
        count,
        title="functions waiting for a node, and used resources",
    )
    _label_rows(plot, [(n + 0.5, label) for n, (label, _, _, _) in enumerate(rows.levels)])
    for n, (_, _, xs, ys) in enumerate(rows.levels):
        colour = STATES["ready"] if not n and rows.levels[0][0] == WAITING_FOR_NODE else USED
        plot.patch(xs, [n + 0.9 - 0.8 * y for y in ys], fill_color=colour, line_color=None)
        plot.segment(
            x0=[times.start], x1=[times.end], y0=[n + 0.1], y1=[n + 0.1], line_color="#cccccc", line_width=1
        )
    _label_right(plot, [(n + 0.5, text) for n, (_, text, _, _) in enumerate(rows.levels)])
    return plot


def _label_right(plot: Any, texts: list[tuple[float, str]]) -> None:
    """Put texts at the right edge, where they stay when the time axis is panned."""
    from bokeh.models import LinearAxis

    axis = LinearAxis(
        ticker=[y for y, _ in texts],
        major_label_overrides=dict(texts),
        major_tick_line_color=None,
        minor_tick_line_color=None,
        axis_line_color=None,
    )
    plot.add_layout(axis, "right")

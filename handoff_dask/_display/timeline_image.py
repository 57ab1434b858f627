"""Timelines as matplotlib images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handoff_dask._display.labels import WAITING_FOR_NODE
from handoff_dask._display.palette import HATCHES, OTHERS, STATES, USED
from handoff_dask._display.timeline import (
    Rows,
    family_colours,
    group_bars,
    heading,
    missing,
)
from handoff_dask._display.timeline_data import Bar, TimelineData

#: Width of the image in inches.
WIDTH = 12.0

#: Maximum heights in inches: of a lane, of a row of a level, and of all lanes or rows together.
LANE, ROW, TOTAL = 0.24, 0.3, 14.0

#: Width of a character on a bar, as a share of the time axis.
CHARACTER_WIDTH = 0.0072


def draw(parts: Sequence[tuple[str, TimelineData]]) -> Any:
    """Return a matplotlib figure of all parts in one column, with a shared time axis."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing("matplotlib") from None
    laid_out = [(title, data, Rows(data)) for title, data in parts]
    heights = []
    for _, _, rows in laid_out:
        heights.append(max(0.6, rows.height * min(LANE, TOTAL / rows.height)))
        if rows.levels:
            heights.append(max(0.4, len(rows.levels) * min(ROW, TOTAL / len(rows.levels))))
    figure = Figure(
        figsize=(WIDTH, sum(heights) + 0.75 * len(heights) + 0.6), layout="constrained", facecolor="white"
    )
    axes = iter(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    end = max([data.end for _, data in parts]) or 1.0
    colours = family_colours(parts)
    for title, data, rows in laid_out:
        ax = next(axes)
        ax.set_xlim(-0.01 * end, 1.01 * end)
        _lanes(ax, title, data, rows, colours, end)
        if rows.levels:
            ax = next(axes)
            _levels(ax, rows)
    ax.set_xlabel("seconds")
    return figure


def _frame(ax: Any, height: float, labels: list[tuple[float, str]]) -> None:
    ax.set_ylim(height + 0.2, -0.2)
    ax.set_yticks([y for y, _ in labels], [_plain(text) for _, text in labels])
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelbottom=True)
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _plain(text: str, most: int = 26) -> str:
    """Shorten text, and escape it so that matplotlib does not read it as a formula."""
    text = text if len(text) <= most else text[: most - 12] + "…" + text[-11:]
    return text.replace("$", r"\$")


def _boxes(bars: Sequence[Bar], rows: Rows) -> list[list[tuple[float, float]]]:
    found = []
    for bar in bars:
        top, bottom = rows.bar(bar)
        left, right = bar.started, bar.stopped
        found.append([(left, top), (right, top), (right, bottom), (left, bottom)])
    return found


def _lanes(ax: Any, title: str, data: TimelineData, rows: Rows, colours: dict[str, str], end: float) -> None:
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    _frame(ax, rows.height, [(top + lanes / 2, name) for name, top, lanes in rows.nodes])
    ax.set_title(heading(title, data).replace("$", r"\$"), loc="left", fontsize=11, pad=26)
    for _, top, _ in rows.nodes[1:]:
        ax.axhline(top - 0.25, color="#bbbbbb", linewidth=0.8)
    legend: list[Any] = []
    style: dict[str, Any]
    for (outcome, name), bars in group_bars(data.bars, colours):
        if outcome == "finished":
            style = {"facecolor": colours.get(name, OTHERS), "edgecolor": "white", "linewidth": 0.4}
        else:
            hatch = HATCHES[outcome]
            style = {
                "facecolor": hatch.fill,
                "edgecolor": hatch.edge,
                "hatch": hatch.matplotlib,
                "linewidth": 0.9,
                "linestyle": "--" if hatch.dashed else "-",
            }
        ax.add_collection(PolyCollection(_boxes(bars, rows), **style), autolim=False)
        legend.append(Patch(label=_plain(name), **style))
    if data.waits:
        lines = [
            [(since, sum(rows.bar(bar)) / 2), (bar.started, sum(rows.bar(bar)) / 2)]
            for bar, since in data.waits
        ]
        style = {"linestyle": (0, (1, 1.5)), "linewidth": 1.3}
        ax.add_collection(LineCollection(lines, colors=STATES["ready"], **style), autolim=False)
        legend.append(Line2D([], [], color=STATES["ready"], label=WAITING_FOR_NODE, **style))
    if path := data.critical_path:
        boxes = _boxes([step.bar for step in path], rows)
        frames = PolyCollection(boxes, facecolor="none", edgecolor="black", linewidth=1.6)
        ax.add_collection(frames, autolim=False)
        middles = [(box[0][1] + box[2][1]) / 2 for box in boxes]
        links = [
            [(before.bar.stopped, y0), (after.bar.started, y1)]
            for before, y0, after, y1 in zip(path, middles, path[1:], middles[1:], strict=False)
        ]
        ax.add_collection(LineCollection(links, colors="black", linewidths=1.6), autolim=False)
        legend.append(Patch(facecolor="none", edgecolor="black", linewidth=1.6, label="critical path"))
    if rows.height * LANE <= TOTAL:
        _write_ids(ax, data, rows, end)
    if legend:
        ax.legend(
            handles=legend,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=len(legend),
            frameon=False,
            fontsize=8,
            borderpad=0.1,
            columnspacing=1.2,
            handlelength=1.8,
        )


def _write_ids(ax: Any, data: TimelineData, rows: Rows, end: float) -> None:
    """Write ids on the bars that are wide enough."""
    for bar in data.bars:
        text = bar.id if isinstance(bar.id, str) else repr(bar.id)
        if (bar.stopped - bar.started) / end < CHARACTER_WIDTH * (len(text) + 1) or len(text) > 40:
            continue
        ax.text(
            (bar.started + bar.stopped) / 2,
            sum(rows.bar(bar)) / 2,
            text.replace("$", r"\$"),
            ha="center",
            va="center",
            fontsize=7,
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.6},
        )


def _levels(ax: Any, rows: Rows) -> None:
    _frame(ax, len(rows.levels), [(n + 0.5, label) for n, (label, _, _, _) in enumerate(rows.levels)])
    for n, (label, text, xs, ys) in enumerate(rows.levels):
        colour = STATES["ready"] if label == WAITING_FOR_NODE and not n else USED
        ax.fill_between(xs, [n + 0.9 - 0.8 * y for y in ys], n + 0.9, color=colour, linewidth=0)
        ax.axhline(n + 0.1, color="#cccccc", linewidth=0.8)
        ax.text(
            1.005, n + 0.5, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8, clip_on=False
        )

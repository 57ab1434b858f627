"""An inline SVG picture of a DAG, in the colours of the page, made without Graphviz or JavaScript."""

from __future__ import annotations

from html import escape

from handoff_dask._display.colouring import Colouring, colouring
from handoff_dask._display.groups import Box, Outline, compact
from handoff_dask._display.layout import layout
from handoff_dask._display.markup import swatch
from handoff_dask._model.dag import DAG

#: Maximum number of functions drawn: grouping more would delay the repr noticeably.
MAX_FUNCTIONS = 20_000

#: Maximum numbers of boxes, tried in order until the edges are few enough to tell apart.
MAX_BOXES = (60, 20, 10)

#: Maximum number of edges.
MAX_EDGES = 150

#: Maximum number of characters per line of a box.
MAX_LINE = 30

#: Width of a character and height of a line, in pixels.
CHARACTER_WIDTH, LINE_HEIGHT = 6.6, 15.0


def drawing(dag: DAG) -> str:
    """Return the picture and its legend; the empty string for an empty DAG.

    Raises
    ------
    CyclicDependencyError
        The DAG has a cycle, so it has no topological order to draw it in.
    """
    if not len(dag):
        return ""
    if len(dag) > MAX_FUNCTIONS:
        return "<p>too large to draw here: use <code>visualize()</code></p>"
    for most in MAX_BOXES:
        drawn = compact(dag, most)
        if len(drawn.edges) <= MAX_EDGES:
            break
    colours = colouring(dag, "cost", None)
    return _svg(drawn, colours) + ("" if colours is None else legend(colours))


def legend(colours: Colouring) -> str:
    """Return the legend of a drawing's colours."""
    entries = "".join(
        f"<span style='white-space:nowrap;margin-right:1em'>{swatch(f'background:{c.edge}')}"
        f" {escape(c.label)}</span>"
        for c in colours.legend
    )
    return f"<p style='font-size:90%'>{escape(colours.title)}: {entries}</p>"


def _lines(box: Box) -> list[str]:
    lines = [part for line in box.lines for part in line.split("\n")]
    return [line if len(line) <= MAX_LINE else line[: MAX_LINE - 1] + "…" for line in lines[:6]]


def _svg(drawn: Outline, colours: Colouring | None) -> str:
    lines = [_lines(box) for box in drawn.boxes]
    sizes = [(max(map(len, text)) * CHARACTER_WIDTH + 18, len(text) * LINE_HEIGHT + 11) for text in lines]
    places = layout(sizes, drawn.edges)
    parts = [_edge(path) for path in places.paths]
    dashes, bold = " stroke-dasharray='4 3'", " font-weight='bold'"
    for box, text, (width, height), (x, y) in zip(drawn.boxes, lines, sizes, places.centres, strict=True):
        colour = "currentColor"
        opacity = "0"
        if colours is not None:
            colour = max(colours.shares(box), key=lambda share: share[1])[0].edge
            opacity = ".25"
        left, top = x - width / 2, y - height / 2
        frame = (
            f"width='{width:.0f}' height='{height:.0f}' rx='5' fill='{colour}' fill-opacity='{opacity}'"
            f" stroke='{colour}'{dashes if box.inline else ''}"
        )
        if len(box.functions) > 1:  # a second outline makes a group look like a stack
            parts.append(
                f"<path d='M{left + width:.1f},{top + 4:.1f}h4v{height:.0f}h-{width:.0f}v-4' fill='none'"
                f" stroke='{colour}'/>"
            )
        spans = "".join(
            f"<tspan x='{x:.1f}' dy='{LINE_HEIGHT if i else 0:.0f}'{'' if i else bold}>"
            f"{escape(line) or ' '}</tspan>"
            for i, line in enumerate(text)
        )
        parts.append(
            f"<g><title>{escape(chr(10).join(box.lines)[:500])}</title>"
            f"<rect x='{left:.1f}' y='{top:.1f}' {frame}/>"
            f"<text y='{top + LINE_HEIGHT:.1f}' text-anchor='middle' fill='currentColor'>{spans}</text></g>"
        )
    width, height = places.width + 16, places.height + 16
    return (
        "<div style='overflow-x:auto;max-width:100%'>"
        f"<svg xmlns='http://www.w3.org/2000/svg' role='img' width='{width:.0f}' height='{height:.0f}'"
        f" viewBox='-8 -8 {width:.0f} {height:.0f}' font-family='sans-serif' font-size='11.5'"
        f" style='color:inherit'>{''.join(parts)}</svg></div>"
    )


def _edge(path: list[tuple[float, float]]) -> str:
    """Return a curve through the points of an edge, with an arrowhead at its end."""
    x, y = path[0]
    curve = f"M{x:.0f},{y:.0f}"
    for at, (to_x, to_y) in enumerate(path[1:], 1):
        if at % 2:  # between two layers: a curve; within a layer: a straight line
            middle = (y + to_y) / 2
            curve += f"C{x:.0f},{middle:.0f} {to_x:.0f},{middle:.0f} {to_x:.0f},{to_y:.0f}"
        else:
            curve += f"L{to_x:.0f},{to_y:.0f}"
        x, y = to_x, to_y
    back = 6 if path[-1][1] >= path[-2][1] else -6
    head = f"M{x:.0f},{y:.0f}l-3.2,{-back}h6.4z"
    return (
        f"<path d='{curve}' fill='none' stroke='currentColor' stroke-opacity='.55'/>"
        f"<path d='{head}' fill='currentColor' fill-opacity='.7'/>"
    )

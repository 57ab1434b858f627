"""HTML building blocks that inherit the colours of the page: tables, bars, legends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from handoff_dask._display.labels import state_label
from handoff_dask._display.palette import STATES, USED, css_fill
from handoff_dask._display.text import amount_text, name_text

#: Maximum number of rows in a table.
MAX_ROWS = 20


def table(head: Iterable[str], rows: Iterable[Iterable[Any]], total: int) -> str:
    """Return a table of at most :data:`MAX_ROWS` rows, followed by the number of omitted rows.

    Numbers are aligned to the right.
    """

    def cell(value: Any) -> str:
        if isinstance(value, Markup):
            return f"<td style='text-align:left'>{value}</td>"
        side = "right" if type(value) in (int, float) else "left"
        text = amount_text(value) if side == "right" else name_text(value)
        return f"<td style='text-align:{side};overflow-wrap:anywhere'>{escape(text)}</td>"

    cells = "".join(f"<th style='text-align:left'>{escape(h)}</th>" for h in head)
    body = ""
    for _, row in zip(range(MAX_ROWS), rows, strict=False):
        body += "<tr>" + "".join(map(cell, row)) + "</tr>"
    more = f"<p>and {total - MAX_ROWS:,d} more</p>" if total > MAX_ROWS else ""
    return f"<table style='color:inherit'><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{more}"


class Markup(str):
    """A string that is already HTML and must not be escaped."""


def meter(share: float) -> Markup:
    """Return a bar filled to a share from 0 to 1, framed in the text colour."""
    return bar([(share, f"background:{USED}")], "6em")


def bar(shares: Iterable[tuple[float, str]], width: str) -> Markup:
    """Return a bar with a segment for each share (from 0 to 1) and its CSS declarations."""
    parts = "".join(
        f"<span style='display:inline-block;height:100%;width:{100 * max(0.0, min(1.0, share)):.2f}%;"
        f"{background}'></span>"
        for share, background in shares
        if share > 0
    )
    return Markup(
        f"<span style='display:inline-block;width:{width};height:.8em;border:1px solid;border-radius:3px;"
        f"overflow:hidden;white-space:nowrap;font-size:100%;line-height:0;vertical-align:middle'>{parts}</span>"
    )


def state_counts(counts: Mapping[str, int], total: int) -> str:
    """Return a bar of the functions in each state, and a legend with their numbers."""
    present = {state: counts[state] for state in STATES if counts.get(state)}
    present.update({state: n for state, n in counts.items() if n and state not in STATES})
    shares = [(n / max(1, total), css_fill(state)) for state, n in present.items()]
    legend = ", ".join(
        f"{swatch(css_fill(state))} {n:,d} {escape(state_label(state))}" for state, n in present.items()
    )
    return f"{bar(shares, '16em')} {legend}"


def swatch(background: str) -> str:
    """Return a small square with a background in CSS declarations, for a legend."""
    return f"<span style='display:inline-block;width:.8em;height:.8em;{background}'></span>"

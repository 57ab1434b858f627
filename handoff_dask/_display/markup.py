"""Pieces of HTML, in the colours of the page: tables, bars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from handoff_dask._display.colouring import STATES
from handoff_dask._display.text import amount_text, name_text

#: Rows of a table that are shown.
SHOWN = 20


def table(head: Iterable[str], rows: Iterable[Iterable[Any]], total: int) -> str:
    """A table of at most :data:`SHOWN` rows, and how many more there are. Numbers are on the right."""

    def cell(value: Any) -> str:
        if isinstance(value, Markup):
            return f"<td style='text-align:left'>{value}</td>"
        side = "right" if type(value) in (int, float) else "left"
        text = amount_text(value) if side == "right" else name_text(value)
        return f"<td style='text-align:{side};overflow-wrap:anywhere'>{escape(text)}</td>"

    cells = "".join(f"<th style='text-align:left'>{escape(h)}</th>" for h in head)
    body = ""
    for _, row in zip(range(SHOWN), rows, strict=False):
        body += "<tr>" + "".join(map(cell, row)) + "</tr>"
    more = f"<p>and {total - SHOWN:,d} more</p>" if total > SHOWN else ""
    return f"<table style='color:inherit'><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{more}"


class Markup(str):
    """HTML already."""


def meter(share: float, colour: str = "#56b4e9") -> Markup:
    """A bar that is filled to a share, in a frame of the colour of the text."""
    return bar([(share, colour)], "6em")


def bar(shares: Iterable[tuple[float, str]], width: str) -> Markup:
    """A bar of several colours."""
    parts = "".join(
        f"<span style='display:inline-block;height:100%;width:{100 * max(0.0, min(1.0, share)):.2f}%;"
        f"background:{colour}'></span>"
        for share, colour in shares
        if share > 0
    )
    return Markup(
        f"<span style='display:inline-block;width:{width};height:.8em;border:1px solid;border-radius:3px;"
        f"overflow:hidden;white-space:nowrap;font-size:100%;line-height:0;vertical-align:middle'>{parts}</span>"
    )


def states(counts: Mapping[str, int], total: int) -> str:
    """How many functions are in which state: a bar, and the same in words."""
    there = {state: counts[state] for state in STATES if counts.get(state)}
    there.update({state: n for state, n in counts.items() if n and state not in STATES})
    shares = [(n / max(1, total), STATES.get(state, "#9a9a9a")) for state, n in there.items()]
    words = ", ".join(
        f"{swatch(STATES.get(state, '#9a9a9a'))} {n:,d} {escape(state)}" for state, n in there.items()
    )
    return f"{bar(shares, '16em')} {words}"


def swatch(colour: str) -> str:
    """A little square of a colour."""
    return (
        f"<span style='display:inline-block;width:.8em;height:.8em;border:1px solid {colour};"
        f"background:{colour}80'></span>"
    )

"""Tables of what functions asked for and used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handoff_dask._display.html import never_raises
from handoff_dask._display.markup import table
from handoff_dask._display.table import table_lines
from handoff_dask._display.text import amount_text

if TYPE_CHECKING:
    from handoff_dask._client.usage import CodeUsage, Usage

HEAD = ("code", "attempts", "asked", "median", "95 %", "most", "wasted", "exceeded", "suggested")


def cells(row: CodeUsage) -> tuple[str, ...]:
    """Return the cells of a row, as text. ``~`` marks estimates."""
    about = "" if row.exact else "~"
    return (
        row.code,
        f"{row.count:,d}",
        "" if row.asked is None else amount_text(row.asked),
        *(f"{about}{amount_text(round(n, 1))}" for n in (row.used_median, row.used_p95, row.used_max)),
        "" if row.wasted is None else f"{row.wasted:.0%}",
        f"{row.exceeded:,d}",
        amount_text(row.suggested),
    )


def heading(usage: Usage) -> str:
    """Return what the table shows."""
    if not len(usage):
        return "Nothing was measured"
    unit = {"memory": "memory in MB", "cpu": "cores"}[usage[0].resource]
    return f"Use of {unit} by code"


def text(usage: Usage) -> str:
    """Return the table as text."""
    if not len(usage):
        return heading(usage)
    return "\n".join([heading(usage), *table_lines(HEAD, map(cells, usage), truncate=("code",), width=100)])


@never_raises
def html(usage: Usage) -> str:
    """Return the table as HTML."""
    body = table(HEAD, map(cells, usage), len(usage)) if len(usage) else ""
    return f"<p><b>{heading(usage)}</b></p>{body}"

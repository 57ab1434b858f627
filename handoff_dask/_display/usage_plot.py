"""A plot of what functions asked for and used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handoff_dask._display.palette import OTHERS, USED

if TYPE_CHECKING:
    from handoff_dask._client.usage import Usage


def draw(usage: Usage) -> Any:
    """Draw a bar per code from the median to the most that was used, and a mark for what was asked."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("usage.plot() needs Matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(8, 1.1 + 0.4 * max(1, len(usage))), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(usage))
    axes.barh(rows, [row.used_max for row in usage], color=OTHERS, height=0.6, label="the most used")
    axes.barh(rows, [row.used_p95 for row in usage], color=USED, height=0.6, alpha=0.5, label="95 %")
    axes.barh(rows, [row.used_median for row in usage], color=USED, height=0.6, label="median")
    marked = [(n, row.asked) for n, row in enumerate(usage) if row.asked is not None]
    axes.plot(
        [asked for _, asked in marked], [n for n, _ in marked], "|", color="black", ms=16, label="asked"
    )
    axes.set_yticks(list(rows), [row.code for row in usage])
    axes.invert_yaxis()
    resource = usage[0].resource if len(usage) else ""
    axes.set_xlabel({"memory": "memory in MB", "cpu": "cores"}.get(resource, resource))
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure

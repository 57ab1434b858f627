"""All calls from a lower layer to a higher one: a map of purposes to modules, imported at the first call."""

from __future__ import annotations

from handoff_dask._model import hooks

MODULES = {
    # Presentation of values: `_repr_html_`, a run in a notebook, `repr(result)`, `str(records)`.
    "html": "handoff_dask._display.html",
    "live": "handoff_dask._display.live",
    "text": "handoff_dask._display.text",
    "table": "handoff_dask._display.table",
    # Long methods that need optional packages: `timeline()`, `visualize()`, `to_pandas()`.
    "timeline": "handoff_dask._display.timeline",
    "graph": "handoff_dask._display.graph",
    "export": "handoff_dask._display.export",
    "usage_table": "handoff_dask._display.usage_table",
    "usage_plot": "handoff_dask._display.usage_plot",
    # `execute(progress=True)` displays progress; the plugin adds a page to Dask's dashboard.
    "progress": "handoff_dask._display.progress",
    "dashboard": "handoff_dask._display.dashboard",
    # The model does not import Dask: `DAG.from_delayed()`, `DAG.from_graph()`.
    "from_dask": "handoff_dask._adapter.from_dask",
}


def connect() -> None:
    """Register all modules."""
    hooks.register(MODULES)

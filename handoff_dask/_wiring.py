"""The calls from lower layers to higher ones, all of them: purpose → module, imported at the first call."""

from __future__ import annotations

from handoff_dask._model import hooks

MODULES = {
    # Drawing is no business of the values that are drawn: `_repr_html_`, a run in a notebook, `repr(result)`.
    "html": "handoff_dask._display.html",
    "live": "handoff_dask._display.live",
    "text": "handoff_dask._display.text",
    # Methods of values that are long, and need optional packages: `timeline()`, `visualize()`, `to_pandas()`.
    "timeline": "handoff_dask._display.timeline",
    "graph": "handoff_dask._display.graph",
    "export": "handoff_dask._display.export",
    # `execute(progress=True)` shows what it waits for; the plugin puts a page into Dask's dashboard.
    "progress": "handoff_dask._display.progress",
    "dashboard": "handoff_dask._display.dashboard",
    # The model knows no Dask: `DAG.from_delayed()`, `DAG.from_graph()`.
    "from_dask": "handoff_dask._adapter.from_dask",
}


def connect() -> None:
    """Register all of them."""
    hooks.register(MODULES)

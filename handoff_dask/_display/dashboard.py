"""The page ``/handoff`` of Dask's dashboard: its layout and periodic update."""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from handoff_dask._display import dashboard_text as text
from handoff_dask._display.dashboard_timeline import timeline_columns, timeline_figure

if TYPE_CHECKING:
    from bokeh.document import Document

    from handoff_dask._adapter.snapshot import Snapshot

logger = logging.getLogger(__name__)

#: Milliseconds between two updates.
INTERVAL = 1_000


class Page:
    """One open page.

    Parameters
    ----------
    doc : bokeh.document.Document
        The document to fill.
    read : callable
        Returns a snapshot, or None once the plugin has been removed.
    """

    def __init__(self, doc: Document, read: Callable[[], Snapshot | None]) -> None:
        from bokeh.layouts import column
        from bokeh.models import Div, InlineStyleSheet

        self._doc = doc
        self._read = read
        self._failing = False
        sheet = InlineStyleSheet(css=text.CSS)

        def part() -> Any:
            return Div(text="", sizing_mode="stretch_width", stylesheets=[sheet])

        self._problem, self._runs, self._nodes, self._waiting = part(), part(), part(), part()
        self._failures, self._heading = part(), part()
        self._figure, self._source, self._lanes = timeline_figure()
        doc.add_root(
            column(
                self._problem,
                self._runs,
                self._nodes,
                self._waiting,
                self._heading,
                self._figure,
                self._failures,
                sizing_mode="stretch_width",
            )
        )
        # Bokeh calls this until the page is closed.
        self._callback: Any = doc.add_periodic_callback(self.update, INTERVAL)
        self.update()

    def update(self) -> None:
        """Take a snapshot and update the changed sections.

        An error is displayed on the page. The first of successive errors is also logged.
        """
        try:
            snapshot = self._read()
            if snapshot is None:
                self._show(self._problem, text.section("handoff_dask", "", "The plugin was removed."))
                self._doc.remove_periodic_callback(self._callback)
                return
            self._draw(snapshot)
        except Exception as error:
            if not self._failing:
                logger.exception("handoff_dask could not draw its dashboard page /handoff")
            self._failing = True
            problem = f"<p class='bad'>The page could not be drawn: {escape(repr(error)[:500])}</p>"
            self._show(self._problem, text.section("handoff_dask", "", problem))
        else:
            self._failing = False

    def _draw(self, snapshot: Snapshot) -> None:
        self._show(self._problem, "")
        self._show(self._runs, text.runs_html(snapshot))
        self._show(self._nodes, text.nodes_html(snapshot["nodes"], snapshot["nodes_there"]))
        self._show(self._waiting, text.waiting_html(snapshot))
        self._show(self._failures, text.failures_html(snapshot["failures"]))
        timeline = snapshot["timeline"]
        self._show(self._heading, text.timeline_heading(timeline))
        columns, lanes, ticks = timeline_columns(timeline["bars"] if timeline is not None else ())
        if columns != self._source.data:
            self._source.data = columns
        if lanes != self._lanes:
            self._lanes = lanes
            self._figure.visible = bool(ticks)
            self._figure.yaxis.ticker = list(ticks)
            self._figure.yaxis.major_label_overrides = ticks
            self._figure.height = int(min(900, 80 + 16 * lanes[-1][1])) if lanes else 80
            self._figure.y_range.start, self._figure.y_range.end = (lanes[-1][1] if lanes else 1), 0

    @staticmethod
    def _show(part: Any, html: str) -> None:
        if part.text != html:
            part.text = html


def fill(doc: Document, read: Callable[[], Snapshot | None]) -> Page:
    """Build the page in a Bokeh document. While the page is open, it updates about once a second."""
    return Page(doc, read)

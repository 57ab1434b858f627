"""The page ``/handoff`` in Dask's dashboard: what it is made of, and how it is kept up to date."""

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

#: Milliseconds between two looks.
INTERVAL = 1_000


class Page:
    """The parts of an open page.

    Parameters
    ----------
    doc : bokeh.document.Document
        It is filled.
    read : callable
        Takes a snapshot; None when there is no plugin any more.
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
        # Bokeh runs this as long as the page is open.
        self._callback: Any = doc.add_periodic_callback(self.update, INTERVAL)
        self.update()

    def update(self) -> None:
        """Look, and show what has changed. An error is shown, and logged the first time."""
        try:
            seen = self._read()
            if seen is None:
                self._show(self._problem, text.section("handoff_dask", "", "Its plugin was removed."))
                self._doc.remove_periodic_callback(self._callback)
                return
            self._draw(seen)
        except Exception as error:
            if not self._failing:
                logger.exception("The page /handoff could not be drawn")
            self._failing = True
            problem = f"<p class='bad'>The page could not be drawn: {escape(repr(error)[:500])}</p>"
            self._show(self._problem, text.section("handoff_dask", "", problem))
        else:
            self._failing = False

    def _draw(self, seen: Snapshot) -> None:
        self._show(self._problem, "")
        self._show(self._runs, text.runs_html(seen))
        self._show(self._nodes, text.nodes_html(seen["nodes"], seen["nodes_there"]))
        self._show(self._waiting, text.waiting_html(seen))
        self._show(self._failures, text.failures_html(seen["failures"]))
        timeline = seen["timeline"]
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
    """Make a page in a Bokeh document, which refreshes itself about once a second while it is open."""
    return Page(doc, read)

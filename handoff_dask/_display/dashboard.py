"""The page ``/handoff`` of Dask's dashboard: its layout and periodic update."""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from handoff_dask._display import dashboard_text as text
from handoff_dask._display.dashboard_timeline import TimelineFigure

if TYPE_CHECKING:
    from bokeh.document import Document

    from handoff_dask._adapter.snapshot import PageData

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
        Id of a run, or None for the newest → the page's data, or None once the plugin has been removed.
    run_id : str, optional
        The run that is shown in detail, by default the newest.
    """

    def __init__(
        self, doc: Document, read: Callable[[str | None], PageData | None], run_id: str | None = None
    ) -> None:
        from bokeh.layouts import column
        from bokeh.models import Div, InlineStyleSheet, Select

        self._doc = doc
        self._read = read
        self._run_id = run_id
        self._failing = False
        sheet = InlineStyleSheet(css=text.CSS)

        def part() -> Any:
            return Div(text="", sizing_mode="stretch_width", stylesheets=[sheet])

        self._problem, self._runs, self._nodes, self._waiting = part(), part(), part(), part()
        self._failures, self._heading, self._run, self._usage = part(), part(), part(), part()
        self._selector = Select(title="Run in detail", value=run_id or "", margin=(0, 17, 10, 17), width=320)
        self._selector.on_change("value", self._select)
        self.timeline = TimelineFigure()
        doc.add_root(
            column(
                self._problem,
                self._runs,
                self._selector,
                self._run,
                self._usage,
                self._nodes,
                self._waiting,
                self._heading,
                self.timeline.figure,
                self._failures,
                sizing_mode="stretch_width",
            )
        )
        # Bokeh calls this until the page is closed.
        self._callback: Any = doc.add_periodic_callback(self.update, INTERVAL)
        self.update()

    def _select(self, attribute: str, old: str, new: str) -> None:
        """Show the details of another run."""
        self._run_id = new or None
        self.update()

    def update(self) -> None:
        """Read the data and update the changed sections.

        An error is displayed on the page. The first of successive errors is also logged.
        """
        try:
            data = self._read(self._run_id)
            if data is None:
                self._show(self._problem, text.section("handoff_dask", "", "The plugin was removed."))
                self._doc.remove_periodic_callback(self._callback)
                return
            self._draw(data)
        except Exception as error:
            if not self._failing:
                logger.exception("handoff_dask could not draw its dashboard page /handoff")
            self._failing = True
            problem = f"<p class='bad'>The page could not be drawn: {escape(repr(error)[:500])}</p>"
            self._show(self._problem, text.section("handoff_dask", "", problem))
        else:
            self._failing = False

    def _draw(self, data: PageData) -> None:
        details = data["details"]
        shown = self._run_id if details is None else details["run"]
        self._show(self._problem, "")
        self._show(self._runs, text.runs_html(data, shown))
        self._show(self._run, text.run_html(details, self._run_id))
        self._show(self._usage, text.usage_html(details))
        self._show(self._nodes, text.nodes_html(data["nodes"], data["nodes_there"]))
        self._show(self._waiting, text.waiting_html(data))
        self._show(self._failures, text.failures_html(data["failures"]))
        self._show(self._heading, text.timeline_heading(details))
        options = [("", "the newest run"), *((r["id"], f"{r['dag']} ({r['id']})") for r in data["runs"])]
        if self._run_id is not None and self._run_id not in dict(options):
            options.append((self._run_id, self._run_id))
        if options != self._selector.options:
            self._selector.options = options
        if details is None:
            self.timeline.show((), {})
        else:
            self.timeline.show(details["bars"], text.code_colours(details))

    @staticmethod
    def _show(part: Any, html: str) -> None:
        if part.text != html:
            part.text = html


def fill(doc: Document, read: Callable[[str | None], PageData | None], run_id: str | None = None) -> Page:
    """Build the page in a Bokeh document. While the page is open, it updates about once a second."""
    return Page(doc, read, run_id)

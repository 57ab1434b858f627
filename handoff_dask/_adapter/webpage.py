"""The dashboard page ``/handoff`` of a scheduler, and ``/handoff.json``."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tornado.web import Application, RequestHandler

from handoff_dask._adapter._dask import dashboard
from handoff_dask._adapter.config import wants_dashboard
from handoff_dask._adapter.messages import NAME
from handoff_dask._adapter.snapshot import PageData
from handoff_dask._model.hooks import module_for

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: Parameter of the page's address and of the endpoint's: id of the run whose details they show.
RUN = "run"

#: Seconds for which open pages stay connected after the plugin is removed: long enough for each page, which
#: refreshes once a second, to tell its reader why it no longer changes.
CLOSE_DELAY = 5.0


class Webpage:
    """Adds the plugin's page and JSON endpoint to the scheduler's dashboard, if it has one.

    Errors are logged and not raised: a broken page must not fail runs.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    source : callable
        Id of a run, or None for the newest → the page's data.
    """

    def __init__(self, scheduler: Scheduler, source: Callable[[str | None], PageData]) -> None:
        self._scheduler = scheduler
        self._source = source
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._added: list[Any] = []
        self._pages: list[str] | None = None
        try:
            self._open()
        except Exception:
            logger.exception("handoff_dask could not add its page to the dashboard")
            self.close()

    def _open(self) -> None:
        found = dashboard.find(self._scheduler)
        if found is None or not wants_dashboard():
            return
        self._add(dashboard.start_page(self._scheduler, f"/{NAME}", found.prefix, self._document))
        self._add(Application([(rf"{found.prefix}/{NAME}\.json", Json, {"read": self.read})]))
        self._pages = dashboard.pages(self._scheduler)
        if NAME not in self._pages:
            self._pages.append(NAME)

    def _add(self, application: Application) -> None:
        dashboard.add(self._scheduler, application)
        self._added.append(application)

    def _document(self, scheduler: Scheduler, extra: dict[str, Any], doc: Any) -> None:
        """Fill the document of a page that a reader has opened."""
        doc.title = "Dask: Handoff"
        dashboard.apply_theme(doc, extra)
        module_for("dashboard").fill(doc, self._read_on_loop, dashboard.argument(doc, RUN))

    def _read_on_loop(self, run_id: str | None) -> PageData | None:
        """Read the data from any thread: new versions of Bokeh create pages outside the event loop."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self._read_soon(run_id), self._loop).result()
        return self.read(run_id)

    async def _read_soon(self, run_id: str | None) -> PageData | None:
        return self.read(run_id)

    def read(self, run_id: str | None = None) -> PageData | None:
        """Return the page's data, with the details of a run; None if the plugin was removed."""
        return None if self._closed else self._source(run_id)

    def close(self) -> None:
        """Remove the page and the endpoint. Open pages say so at their next refresh."""
        self._closed = True
        for application in self._added:
            dashboard.remove(self._scheduler, application)
            if hasattr(application, "stop"):
                # Delayed, so that open pages can say why they no longer change; waiting would block the loop.
                self._loop.call_later(CLOSE_DELAY, partial(application.stop, wait=False))
        self._added.clear()
        if self._pages is not None and NAME in self._pages:
            self._pages.remove(NAME)
        self._pages = None


class Json(RequestHandler):
    """Serves the page's data as JSON."""

    def initialize(self, read: Callable[[str | None], PageData | None]) -> None:
        """Store the handler's arguments; Tornado calls this before each request."""
        self._read = read

    def get(self) -> None:
        """Send the data, or ``null`` if the plugin was removed."""
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.write(json.dumps(self._read(self.get_query_argument(RUN, None))))

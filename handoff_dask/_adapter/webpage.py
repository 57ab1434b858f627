"""The dashboard page ``/handoff`` of a scheduler, and ``/handoff.json``."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed.metrics import monotonic
from tornado.web import Application, RequestHandler

from handoff_dask._adapter._dask import dashboard
from handoff_dask._adapter.config import wants_dashboard
from handoff_dask._adapter.messages import NAME
from handoff_dask._adapter.snapshot import Snapshot
from handoff_dask._model.hooks import module_for

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: Seconds for which all readers share one snapshot.
MAX_AGE = 0.5

#: Seconds for which open pages stay connected after the plugin is removed: long enough for each page, which
#: refreshes once a second, to tell its reader why it no longer changes.
CLOSE_DELAY = 5.0


class Webpage:
    """Adds the plugin's page and JSON endpoint to the scheduler's dashboard, if it has one.

    Errors are logged and not raised: a broken page must not fail runs.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    snapshot : callable
        Takes a :class:`Snapshot`.
    """

    def __init__(self, scheduler: Scheduler, snapshot: Callable[[], Snapshot]) -> None:
        self._scheduler = scheduler
        self._snapshot = snapshot
        self._taken: tuple[float, Snapshot] | None = None
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
        module_for("dashboard").fill(doc, self._read_on_loop)

    def _read_on_loop(self) -> Snapshot | None:
        """Read a snapshot from any thread: new versions of Bokeh create pages outside the event loop."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self._read_soon(), self._loop).result()
        return self.read()

    async def _read_soon(self) -> Snapshot | None:
        return self.read()

    def read(self) -> Snapshot | None:
        """Return a snapshot at most :data:`MAX_AGE` seconds old; None if the plugin was removed."""
        if self._closed:
            return None
        now = monotonic()
        if self._taken is None or now - self._taken[0] >= MAX_AGE:
            self._taken = now, self._snapshot()
        return self._taken[1]

    def close(self) -> None:
        """Remove the page and the endpoint. Open pages say so at their next refresh."""
        self._closed = True
        self._taken = None
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
    """Serves the snapshot as JSON."""

    def initialize(self, read: Callable[[], Snapshot | None]) -> None:
        """Store the handler's arguments; Tornado calls this before each request."""
        self._read = read

    def get(self) -> None:
        """Send the snapshot, or ``null`` if the plugin was removed."""
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.write(json.dumps(self._read()))

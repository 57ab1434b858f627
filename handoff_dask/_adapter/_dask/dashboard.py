"""The dashboard of Dask's scheduler: a Bokeh application on the scheduler's web server.

The functions import Bokeh themselves: a scheduler with a dashboard has imported it already, and one without
need not have it installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tornado.ioloop import IOLoop

if TYPE_CHECKING:
    from distributed import Scheduler
    from tornado.web import Application


def find(scheduler: Scheduler) -> Any:
    """Return the Bokeh application of a scheduler's dashboard; None if it has none.

    Reaches: ``ServerNode.http_application`` and its ``applications``. The dashboard is the application with
    ``/status`` among its ``app_paths``; it has a ``prefix``.
    Why: publicly, only the configuration can extend the dashboard, before it starts.
    From: Dask 2025.7.
    """
    http = getattr(scheduler, "http_application", None)
    applications = getattr(http, "applications", ())
    return next((a for a in applications if "/status" in getattr(a, "app_paths", ())), None)


def start_page(scheduler: Scheduler, path: str, prefix: str, document: Callable[..., None]) -> Application:
    """Start an application of one page. ``document(scheduler, extra, doc)`` fills the page for each reader.

    Reaches: ``BokehApplication(applications, server, prefix=, template_variables=)`` of
    ``distributed.dashboard.core``.
    Why: as :func:`find`.
    From: Dask 2025.7.
    """
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables

    variables = template_variables(scheduler)
    page = BokehApplication({path: document}, scheduler, prefix=prefix, template_variables=variables)
    page.initialize(IOLoop.current())
    page.start()
    application: Application = page
    return application


def pages(scheduler: Scheduler) -> list[str]:
    """Return the names in the navigation bar: one list that all of Dask's pages share.

    Reaches: ``distributed.dashboard.scheduler.template_variables``, which returns the same object each time.
    Why: as :func:`find`.
    From: Dask 2025.7.
    """
    from distributed.dashboard.scheduler import template_variables

    names: list[str] = template_variables(scheduler)["pages"]
    return names


def add(scheduler: Scheduler, application: Application) -> None:
    """Serve an application next to the dashboard.

    Reaches: ``RoutingApplication.add_application`` of ``distributed.http.routing``.
    Why: as :func:`find`.
    From: Dask 2025.7.
    """
    scheduler.http_application.add_application(application)


def remove(scheduler: Scheduler, application: Application) -> None:
    """Stop serving an application.

    Reaches: ``RoutingApplication.applications``, a list, written.
    Why: as :func:`find`.
    From: Dask 2025.7.
    """
    if application in scheduler.http_application.applications:
        scheduler.http_application.applications.remove(application)


def argument(doc: Any, name: str) -> str | None:
    """Return a parameter of the address with which a reader opened a page; None if it is missing.

    Reaches: ``Document.session_context.request.arguments`` of Bokeh: name → list of bytes.
    Why: as :func:`find`.
    From: Dask 2025.7.
    """
    request = getattr(doc.session_context, "request", None)
    values = [] if request is None else request.arguments.get(name, [])
    return values[0].decode(errors="replace") if values else None


def apply_theme(doc: Any, extra: dict[str, Any]) -> None:
    """Give a page the style and the navigation bar of Dask's own pages.

    Reaches: ``env`` and ``BOKEH_THEME`` of ``distributed.dashboard.components.scheduler``, and the template
    ``simple.html``.
    Why: as :func:`find`.
    From: Dask 2025.7.
    """
    from distributed.dashboard.components.scheduler import BOKEH_THEME, env

    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    doc.theme = BOKEH_THEME

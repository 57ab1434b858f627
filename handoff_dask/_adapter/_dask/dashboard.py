"""The dashboard of Dask's scheduler: a Bokeh application among the pages that its server has.

Bokeh is imported inside the functions: Dask has done so where there is a dashboard, and elsewhere nobody
needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tornado.ioloop import IOLoop

if TYPE_CHECKING:
    from distributed import Scheduler
    from tornado.web import Application


def find(scheduler: Scheduler) -> Any:
    """The Bokeh application of a scheduler's dashboard, None if it has none.

    Reaches: ``ServerNode.http_application`` and the ``applications`` in it, of which the one of the dashboard
    has ``/status`` among its ``app_paths``, and a ``prefix``.
    Why: the dashboard can be extended by the configuration only, before it starts.
    From: Dask 2025.7.
    """
    http = getattr(scheduler, "http_application", None)
    applications = getattr(http, "applications", ())
    return next((a for a in applications if "/status" in getattr(a, "app_paths", ())), None)


def start_page(scheduler: Scheduler, path: str, prefix: str, document: Callable[..., None]) -> Application:
    """An application of one page, started: ``document(scheduler, extra, doc)`` fills it for each who looks.

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
    """The names in the navigation bar, one list that all of Dask's pages show.

    Reaches: ``distributed.dashboard.scheduler.template_variables``, which gives the same object each time.
    Why: as :func:`find`.
    From: Dask 2025.7.
    """
    from distributed.dashboard.scheduler import template_variables

    names: list[str] = template_variables(scheduler)["pages"]
    return names


def add(scheduler: Scheduler, application: Application) -> None:
    """Serve an application beside the dashboard.

    Reaches: ``RoutingApplication.add_application`` of ``distributed.http.routing``.
    Why: as :func:`find`.
    From: Dask 2025.7.
    """
    scheduler.http_application.add_application(application)


def remove(scheduler: Scheduler, application: Application) -> None:
    """Serve an application no more.

    Reaches: ``RoutingApplication.applications``, a list, written.
    Why: as :func:`find`.
    From: Dask 2025.7.
    """
    if application in scheduler.http_application.applications:
        scheduler.http_application.applications.remove(application)


def dress(doc: Any, extra: dict[str, Any]) -> None:
    """Give a page the looks, and the navigation bar, of Dask's own.

    Reaches: ``env`` and ``BOKEH_THEME`` of ``distributed.dashboard.components.scheduler``, and the template
    ``simple.html``.
    Why: as :func:`find`.
    From: Dask 2025.7.
    """
    from distributed.dashboard.components.scheduler import BOKEH_THEME, env

    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    doc.theme = BOKEH_THEME

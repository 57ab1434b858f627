"""The scheduler's dashboard."""

from __future__ import annotations

import pytest
from distributed import LocalCluster

from handoff_dask._adapter._dask import dashboard


@pytest.fixture(scope="module")
def shown():
    """A scheduler with a dashboard."""
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def on_loop_of(cluster, f, *args):
    async def called():
        return f(*args)

    return cluster.sync(called)


def test_find(shown, cluster):
    found = dashboard.find(shown.scheduler)
    assert isinstance(found.prefix, str), "the dashboard is another application: Webpage finds none"
    assert dashboard.find(cluster.scheduler) is None
    assert dashboard.find(object()) is None


def opened(shown, path):
    """Which of the applications answers a path, and where there is none."""
    return [a for a in shown.scheduler.http_application.applications if path in getattr(a, "app_paths", ())]


def test_start_page(shown):
    page = on_loop_of(shown, dashboard.start_page, shown.scheduler, "/test-start", "", lambda *args: None)
    assert "/test-start" in page.app_paths, "BokehApplication has other arguments: Webpage"
    on_loop_of(shown, lambda: page.stop(wait=False))


def test_pages(shown):
    names = dashboard.pages(shown.scheduler)
    assert "status" in names, "the navigation bar has other names: Webpage"
    assert dashboard.pages(shown.scheduler) is names, "each page has its own list: Webpage is in none"


def test_add(shown):
    page = on_loop_of(shown, dashboard.start_page, shown.scheduler, "/test-add", "", lambda *args: None)
    on_loop_of(shown, dashboard.add, shown.scheduler, page)
    assert opened(shown, "/test-add") == [page], "applications are added otherwise: Webpage"
    on_loop_of(shown, dashboard.remove, shown.scheduler, page)
    on_loop_of(shown, lambda: page.stop(wait=False))


def test_remove(shown):
    page = on_loop_of(shown, dashboard.start_page, shown.scheduler, "/test-remove", "", lambda *args: None)
    on_loop_of(shown, dashboard.add, shown.scheduler, page)
    for _ in range(2):
        on_loop_of(shown, dashboard.remove, shown.scheduler, page)
        assert opened(shown, "/test-remove") == [], "applications are kept otherwise: Webpage stays"
    on_loop_of(shown, lambda: page.stop(wait=False))


def test_dress():
    from bokeh.document import Document

    doc = Document()
    dashboard.dress(doc, {"pages": ["x"]})
    assert doc.template.name == "simple.html", "Dask's pages have another template: Webpage"
    assert doc.template_variables["pages"] == ["x"]

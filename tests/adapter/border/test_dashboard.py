"""The scheduler's dashboard."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from distributed import LocalCluster

from handoff_dask._adapter._dask import dashboard


@pytest.fixture(scope="module")
def with_dashboard():
    """A scheduler with a dashboard."""
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def on_loop_of(cluster, f, *args):
    async def called():
        return f(*args)

    return cluster.sync(called)


def test_find(with_dashboard, cluster):
    found = dashboard.find(with_dashboard.scheduler)
    assert isinstance(found.prefix, str), "the dashboard's application has changed: Webpage"
    assert dashboard.find(cluster.scheduler) is None
    assert dashboard.find(object()) is None


def serving(with_dashboard, path):
    """Return the applications that serve a path."""
    return [
        a
        for a in with_dashboard.scheduler.http_application.applications
        if path in getattr(a, "app_paths", ())
    ]


def test_start_page(with_dashboard):
    page = on_loop_of(
        with_dashboard, dashboard.start_page, with_dashboard.scheduler, "/test-start", "", lambda *args: None
    )
    assert "/test-start" in page.app_paths, "the arguments of BokehApplication have changed: Webpage"
    on_loop_of(with_dashboard, lambda: page.stop(wait=False))


def test_pages(with_dashboard):
    names = dashboard.pages(with_dashboard.scheduler)
    assert "status" in names, "the names in the navigation bar have changed: Webpage"
    assert dashboard.pages(with_dashboard.scheduler) is names, (
        "pages no longer share the list of names: Webpage"
    )


def test_add(with_dashboard):
    page = on_loop_of(
        with_dashboard, dashboard.start_page, with_dashboard.scheduler, "/test-add", "", lambda *args: None
    )
    on_loop_of(with_dashboard, dashboard.add, with_dashboard.scheduler, page)
    assert serving(with_dashboard, "/test-add") == [page], "applications are added differently: Webpage"
    on_loop_of(with_dashboard, dashboard.remove, with_dashboard.scheduler, page)
    on_loop_of(with_dashboard, lambda: page.stop(wait=False))


def test_remove(with_dashboard):
    page = on_loop_of(
        with_dashboard, dashboard.start_page, with_dashboard.scheduler, "/test-remove", "", lambda *args: None
    )
    on_loop_of(with_dashboard, dashboard.add, with_dashboard.scheduler, page)
    for _ in range(2):
        on_loop_of(with_dashboard, dashboard.remove, with_dashboard.scheduler, page)
        assert serving(with_dashboard, "/test-remove") == [], "applications are removed differently: Webpage"
    on_loop_of(with_dashboard, lambda: page.stop(wait=False))


def test_apply_theme():
    from bokeh.document import Document

    doc = Document()
    dashboard.apply_theme(doc, {"pages": ["x"]})
    assert doc.template.name == "simple.html", "the template of Dask's pages has changed: Webpage"
    assert doc.template_variables["pages"] == ["x"]


def test_argument():
    from bokeh.document import Document

    doc = Document()
    assert dashboard.argument(doc, "run") is None
    request = SimpleNamespace(arguments={"run": [b"a\xff", b"b"]})
    context = SimpleNamespace(request=request)
    doc._session_context = lambda: context
    assert dashboard.argument(doc, "run") == "a\ufffd", "the request of a page is stored elsewhere: Webpage"
    assert dashboard.argument(doc, "other") is None

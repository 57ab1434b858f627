"""The page in Dask's dashboard, as a browser shows it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from functools import partialmethod

import pytest
from distributed import Client, Scheduler, SpecCluster, Worker
from helpers import dag_of, gate, pass_gate, plugin_of, until

import handoff_dask as handoff
from handoff_dask import Function, RetryPolicy

MARKUP = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no browser found (on Debian: apt-get install chromium chromium-driver)",
    ),
]

#: All text on the page. Bokeh draws in shadow trees, which `textContent` leaves out.
TEXT = """
const texts = [];
function walk(root) {
    for (const node of root.childNodes) {
        if (node.nodeType === Node.TEXT_NODE) texts.push(node.data);
        if (node.shadowRoot) walk(node.shadowRoot);
        if (!["STYLE", "SCRIPT"].includes(node.nodeName)) walk(node);
    }
}
walk(document.body);
return texts.join(" ");
"""

#: Number of elements that match a selector, including those in shadow trees.
COUNT = """
function count(root) {
    let n = root.querySelectorAll(arguments[1]).length;
    for (const node of root.querySelectorAll("*"))
        if (node.shadowRoot) n += count(node.shadowRoot, arguments[1]);
    return n;
}
return count(document.body, arguments[0]);
"""

#: Bounding box of the first element that matches a selector.
BOX = """
function find(root) {
    const found = root.querySelector(arguments[1]);
    if (found) return found;
    for (const node of root.querySelectorAll("*"))
        if (node.shadowRoot) { const inner = find(node.shadowRoot, arguments[1]); if (inner) return inner; }
}
return find(document.body, arguments[0]).getBoundingClientRect().toJSON();
"""


#: Choose the option of the only drop-down list whose label contains a text.
SELECT = """
function find(root) {
    const found = root.querySelector("select");
    if (found) return found;
    for (const node of root.querySelectorAll("*"))
        if (node.shadowRoot) { const inner = find(node.shadowRoot); if (inner) return inner; }
}
const list = find(document.body);
list.selectedIndex = [...list.options].findIndex((option) => option.label.includes(arguments[0]));
list.dispatchEvent(new Event("change"));
"""


def breaks():
    raise ValueError(MARKUP)


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # With the back/forward cache, a page that the browser has left would stay connected.
    cache = "disable-features=BackForwardCache"
    for argument in ("headless=new", "disable-gpu", "disable-dev-shm-usage", cache):
        options.add_argument(f"--{argument}")
    if os.name == "posix" and os.getuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root in a sandbox
    driver = webdriver.Chrome(options=options, service=service.Service(DRIVER))
    driver.set_window_size(1200, 1400)
    yield driver
    driver.quit()


@pytest.fixture
def _short_sessions(monkeypatch):
    """Let Bokeh close the sessions of abandoned pages after some 3 seconds, instead of 15 to 32."""
    tornado = pytest.importorskip("bokeh.server.tornado")
    start = tornado.BokehTornado.__init__
    options = {"check_unused_sessions_milliseconds": 200, "unused_session_lifetime_milliseconds": 3000}
    monkeypatch.setattr(tornado.BokehTornado, "__init__", partialmethod(start, **options))


@pytest.fixture
def cluster():
    nodes = {"large": {"cpu": 2, "memory": 8000}, "small": {"cpu": 1, "memory": 1000}}
    options = {"memory_limit": 0, "dashboard": False, "protocol": "inproc"}
    scheduler = {"protocol": "inproc", "port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:0"}
    with SpecCluster(
        workers={
            name: {"cls": Worker, "options": {**options, "name": name, "nthreads": n["cpu"], "resources": n}}
            for name, n in nodes.items()
        },
        scheduler={"cls": Scheduler, "options": scheduler},
        silence_logs=logging.ERROR,
    ) as cluster:
        yield cluster


def test_the_page_shows_a_run_and_follows_it(cluster, browser):
    door = gate("browser")

    def held(id, memory):
        return Function(id, pass_gate, extra_args=["browser"], cost={"cpu": 1, "memory": memory})

    dag = dag_of(
        Function("breaks", breaks, retry=RetryPolicy(max_retries=0), priority=1),
        held(f"{MARKUP} first", 6000),
        held(MARKUP, 6000),
        held("last", 500),
        id=MARKUP,
    )
    with Client(cluster, set_as_default=False) as client:
        run = handoff.submit(dag, client, fail_fast=False)
        door.await_inside(2)
        until(lambda: plugin_of(cluster).failures.latest)
        page = f"http://127.0.0.1:{cluster.scheduler.http_server.port}/handoff"

        def text():
            return " ".join(browser.execute_script(TEXT).split())

        browser.get(page)
        until(lambda: "Recent failures latest 1" in text(), what="the page is drawn")
        seen = text()
        assert run.id in seen
        assert "2 running" in seen
        assert "6,500 of 8,000 MB used" in seen or "6,000 of 8,000 MB used" in seen
        assert "measured" in seen
        assert "pass_gate (last) 0 of 1 finished, 1 running" in seen
        assert re.search(r"Use by code .* memory asked .* cores exceeded breaks 1 ~?\d", seen)
        assert f"function {MARKUP!r} has waited" in seen  # as text
        assert "node 'small': needs 6000 MB memory, has 1000" in seen
        assert f"ValueError({MARKUP!r})" in seen
        assert browser.title == "Dask: Handoff"
        assert browser.execute_script(COUNT, "img[src=x]") == 0
        assert browser.execute_script(COUNT, "canvas") > 0  # the timeline
        problems = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not problems

        browser.set_window_size(500, 1400)
        until(lambda: "most urgent function" in text())
        overflow = "return document.documentElement.scrollWidth - innerWidth"
        until(lambda: browser.execute_script(overflow) <= 0, what="the page fits its window")

        door.open()
        run.wait(20)
        until(lambda: "3 finished" in text(), what="the page is updated")
        assert "No function is waiting for a node." in text()
        assert re.search(r"pass_gate \(last\) 1 500 MB ~?[\d.]+ MB", text()), "what it asked for and used"
        browser.set_window_size(1200, 1400)
        before = text().count(MARKUP)
        hover(browser, lambda: "outcome" in (now := text()) and now.count(MARKUP) > before)
        assert re.search(r"cost: cpu 1, memory 6000 used: [\d.]+ m?s of cpu, ", text())
        assert browser.execute_script(COUNT, "img[src=x]") == 0

        handoff.execute(dag_of(Function("f", len, extra_args=["abc"]), id="newer"), client)
        until(lambda: "Progress by code newer" in text(), what="the page shows the newest run in detail")
        browser.execute_script(SELECT, run.id)
        chosen = f"Progress by code {MARKUP} ({run.id})"
        until(lambda: chosen in text(), what="the page shows the selected run in detail")
        browser.get(f"{page}?run={run.id}")
        until(lambda: chosen in text(), what="a link leads to the run")
        assert browser.execute_script(COUNT, f"a[href='?run={run.id}']") >= 1

        client.unregister_scheduler_plugin("handoff")
        until(lambda: "The plugin was removed." in text(), what="the page says that the plugin is gone")
        assert browser.title == "Dask: Handoff"


def hover(browser, condition):
    """Move the pointer over the timeline, row by row, until a condition holds."""
    chains = pytest.importorskip("selenium.webdriver.common.action_chains")
    browser.execute_script("window.scrollTo(0, 0)")
    box = browser.execute_script(BOX, "canvas")
    for y in range(5, int(box["height"]), 8):
        for x in range(60, int(box["width"]) - 20, 60):
            move = chains.ActionChains(browser, duration=0)
            move.w3c_actions.pointer_action.move_to_location(int(box["x"]) + x, int(box["y"]) + y)
            move.perform()
            if condition():
                return
    raise AssertionError("no tooltip appeared")


@pytest.mark.slow
@pytest.mark.usefixtures("_short_sessions")
def test_snapshots_are_read_only_while_the_page_is_open(cluster, browser, monkeypatch):
    from handoff_dask._adapter import webpage

    reads = []
    original = webpage.Webpage.read
    monkeypatch.setattr(webpage.Webpage, "read", lambda page, *run: reads.append(1) or original(page, *run))
    with Client(cluster, set_as_default=False) as client:
        handoff.discover_nodes(client)
        browser.get(f"http://127.0.0.1:{cluster.scheduler.http_server.port}/handoff")
        until(lambda: len(reads) >= 3, what="the page refreshes itself")
        browser.get("about:blank")
        page = next(a for a in cluster.scheduler.http_application.applications if _is_ours(a))
        until(
            lambda: not page.get_sessions("/handoff"),
            60,
            "Bokeh closes the session",
        )
        before = len(reads)
        time.sleep(1.5)  # longer than the refresh interval
        assert len(reads) == before


def _is_ours(application):
    return "/handoff" in getattr(application, "app_paths", ())

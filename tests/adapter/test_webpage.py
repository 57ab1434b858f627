"""The page in Dask's dashboard: on schedulers with and without a dashboard, and as a separate document."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import dask
import pytest
from bokeh.document import Document
from bokeh.protocol import Protocol
from distributed import Client, LocalCluster
from helpers import dag_of, gate, pass_gate, until

import handoff_dask as handoff
from handoff_dask import Function, RetryPolicy
from handoff_dask._adapter import page_source, webpage
from handoff_dask._display import dashboard, dashboard_text, palette
from handoff_dask._display.dashboard_timeline import lay_out
from handoff_dask._display.timeline_data import prepare
from handoff_dask._model.records import Attempt, FunctionRecord

MARKUP = "<script>document.title='pwned'</script>"


def breaks():
    raise ValueError(MARKUP)


@pytest.fixture
def cluster():
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        dashboard_address="127.0.0.1:0",
        resources={"licence": 1},
        silence_logs=logging.ERROR,
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster, set_as_default=False) as client:
        yield client


def get(cluster, path):
    """Return the status and the text of a page."""
    url = f"http://127.0.0.1:{cluster.scheduler.http_server.port}/{path}"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def install(client):
    """Install the plugin."""
    handoff.discover_nodes(client)


def test_the_page_is_served_and_linked_until_the_plugin_is_removed(cluster, client):
    applications = list(cluster.scheduler.http_application.applications)
    assert get(cluster, "handoff")[0] == 404
    install(client)
    assert get(cluster, "handoff")[0] == 200
    assert '<a href="handoff">Handoff</a>' in get(cluster, "status")[1]
    assert get(cluster, "status")[1].count('"handoff"') == 1
    status, text = get(cluster, "handoff.json")
    assert status == 200
    assert [node["amounts"][-1] for node in json.loads(text)["nodes"]] == [
        {"resource": "licence", "capacity": 1, "used": 0}
    ]

    client.unregister_scheduler_plugin("handoff")
    assert get(cluster, "handoff")[0] == 404
    assert get(cluster, "handoff.json")[0] == 404
    assert '"handoff"' not in get(cluster, "status")[1]
    assert cluster.scheduler.http_application.applications == applications

    with Client(cluster, set_as_default=False) as another:
        install(another)
    assert get(cluster, "handoff")[0] == 200
    assert get(cluster, "status")[1].count('"handoff"') == 1


def test_json_of_an_active_run(cluster, client):
    door = gate("webpage")
    dag = dag_of(
        Function("held", pass_gate, extra_args=["webpage"], cost={"licence": 1}),
        Function(MARKUP, pass_gate, extra_args=["webpage"], cost={"licence": 1}),
        Function("breaks", breaks, retry=RetryPolicy(max_retries=0)),
        id=MARKUP,
    )
    run = handoff.submit(dag, client, fail_fast=False)
    door.await_inside(1)
    until(lambda: json.loads(get(cluster, "handoff.json")[1])["failures"])
    seen = json.loads(get(cluster, "handoff.json")[1])
    assert [r["id"] for r in seen["runs"]] == [run.id]
    assert seen["runs"][0]["counts"] == {"ready": 1, "running": 1, "failed": 1}
    assert [waits["function"] for waits in seen["waiting"]] == [MARKUP]
    assert [failure["function"] for failure in seen["failures"]] == ["breaks"]
    door.open()
    run.wait(20)


def test_the_page_and_the_json_of_a_given_run(cluster, client):
    first = handoff.submit(dag_of(Function("f", len, extra_args=["abc"]), id="first"), client)
    first.wait(20)
    handoff.execute(dag_of(Function("g", len, extra_args=["abc"]), id="second"), client)
    newest = json.loads(get(cluster, "handoff.json")[1])
    assert newest["details"]["dag"] == "second"
    asked = json.loads(get(cluster, f"handoff.json?run={first.id}")[1])
    assert asked["details"]["dag"] == "first"
    (code,) = asked["details"]["codes"]
    assert (code["code"], code["counts"]) == ("len (f)", {"finished": 1})
    assert [b["code"] for b in asked["details"]["bars"]] == ["len (f)"]
    assert json.loads(get(cluster, "handoff.json?run=nobody")[1])["details"] is None
    assert {run["dag"] for run in asked["runs"]} == {"first", "second"}
    measured = asked["nodes"][0]["measured"]
    assert measured["memory"] > 10
    assert measured["cpu"] >= 0


def compute(seconds):
    """Compute for some time; fail the first attempt after that."""
    begin = time.thread_time()
    while time.thread_time() - begin < seconds:
        pass
    if handoff.current().attempt == 1:
        raise ValueError("again")


def test_the_json_has_what_attempts_asked_for_and_used(cluster, client):
    f = Function("f", compute, extra_args=[0.05], cost={"cpu": 1, "memory": 300})
    run = handoff.submit(dag_of(f), client, max_retries=1)
    attempts = run.result(20).records["f"].attempts
    details = json.loads(get(cluster, "handoff.json")[1])["details"]
    for bar, attempt in zip(details["bars"], attempts, strict=True):
        assert bar["cost"] == {"cpu": 1, "memory": 300}
        assert bar["cpu_seconds"] == pytest.approx(attempt.cpu_seconds, abs=1e-5)
        assert bar["peak_memory"] == pytest.approx(attempt.peak_memory, abs=0.01)
        assert not bar["peak_exact"]
    memory, cpu = details["codes"][0]["used"]
    assert memory == {
        "resource": "memory",
        "attempts": 2,
        "asked": [300, 300],
        "median": min(a.peak_memory for a in attempts),
        "most": max(a.peak_memory for a in attempts),
        "exact": False,
        "exceeded": 0,
    }
    assert cpu["most"] == max(a.cpu_seconds / (a.stopped - a.started) for a in attempts)
    assert (cpu["asked"], cpu["exact"]) == ([1, 1], True)


def test_all_readers_share_one_snapshot(cluster, client, monkeypatch):
    install(client)
    taken = []
    original = page_source.PageSource._take
    monkeypatch.setattr(page_source.PageSource, "_take", lambda source: taken.append(1) or original(source))
    monkeypatch.setattr(page_source, "monotonic", lambda: 1e9)
    for n in range(5):
        get(cluster, f"handoff.json?run={n}")
    assert len(taken) == 1
    monkeypatch.setattr(page_source, "monotonic", lambda: 1e9 + 1)
    get(cluster, "handoff.json")
    assert len(taken) == 2


def test_without_readers_no_snapshot_is_taken(cluster, client, monkeypatch):
    taken = []
    original = webpage.Webpage.read
    monkeypatch.setattr(webpage.Webpage, "read", lambda page, *run: taken.append(1) or original(page, *run))
    install(client)
    handoff.execute(dag_of(Function("f", len, extra_args=["abc"])), client)
    assert not taken


def test_an_error_in_the_page_does_not_fail_runs(cluster, client, monkeypatch, caplog):
    install(client)

    def fail(*args):
        raise RuntimeError("no snapshot today")

    monkeypatch.setattr("handoff_dask._adapter.page_source.snapshot", fail)
    with caplog.at_level(logging.CRITICAL, "tornado"):
        assert get(cluster, "handoff")[0] == 200  # the page itself shows the error
        assert get(cluster, "handoff.json")[0] == 500
    assert handoff.execute(dag_of(Function("f", len, extra_args=["abc"])), client)["f"] == 3


def test_a_page_that_cannot_be_added_does_not_fail_runs(cluster, client, monkeypatch):
    def fail(*args):
        raise RuntimeError("another Dask")

    monkeypatch.setattr(webpage.dashboard, "find", fail)
    assert handoff.execute(dag_of(Function("f", len, extra_args=["abc"])), client)["f"] == 3
    assert get(cluster, "handoff")[0] == 404


def test_the_page_can_be_turned_off(cluster, client):
    with dask.config.set({"handoff.dashboard": False}):
        install(client)
    assert get(cluster, "handoff")[0] == 404
    assert '"handoff"' not in get(cluster, "status")[1]


def test_the_page_has_the_prefix_of_the_dashboard():
    from distributed import Scheduler

    from handoff_dask._adapter.plugin import HandoffPlugin

    async def main():
        async with Scheduler(
            protocol="inproc", port=0, dashboard=True, dashboard_address="127.0.0.1:0", http_prefix="/dask"
        ) as scheduler:
            await scheduler.register_scheduler_plugin(HandoffPlugin(), name="handoff", idempotent=True)

            def fetch(path):
                port = scheduler.http_server.port
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
                    return answer.status

            for path in ("dask/handoff", "dask/handoff.json"):
                assert await asyncio.to_thread(fetch, path) == 200

    asyncio.run(main())


WITHOUT_BOKEH = """
import sys
sys.modules["bokeh"] = None
import json, urllib.request
from distributed import Client, LocalCluster
import handoff_dask as handoff
from handoff_dask import DAG, Function

if __name__ == "__main__":
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        before = list(cluster.scheduler.http_application.applications)
        with Client(cluster, set_as_default=False) as client:
            dag = DAG()
            dag.add_function(Function("f", len, extra_args=["abc"]))
            assert handoff.execute(dag, client)["f"] == 3
            assert "handoff" in cluster.scheduler.plugins
            assert cluster.scheduler.http_application.applications == before
    assert "handoff_dask._display.dashboard" not in sys.modules
    print("done")
"""


def test_without_bokeh_no_page_is_added(tmp_path):
    script = tmp_path / "without_bokeh.py"
    script.write_text(WITHOUT_BOKEH)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.stdout.strip().endswith("done"), done.stderr


def test_bokeh_is_not_imported_without_a_dashboard(tmp_path):
    script = tmp_path / "no_dashboard.py"
    script.write_text(
        "import sys\n"
        "import handoff_dask as handoff\n"
        "if __name__ == '__main__':\n"
        "    with handoff.local_cluster({'a': {'cpu': 1}}) as cluster:\n"
        "        print(*handoff.discover_nodes(cluster))\n"
        "    print('bokeh' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.stdout.split() == ["a", "False"], done.stderr


# ---------------------------------------------------------------------- the document


def seen_with(**parts):
    return {
        "time": 0.0,
        "runs": [],
        "runs_there": 0,
        "waiting": [],
        "queues_grouped": 0,
        "queues_there": 0,
        "functions_waiting": 0,
        "nodes": [],
        "nodes_there": 0,
        "failures": [],
        "details": None,
        **parts,
    }


def bar(function, node, start, stop, outcome, code="blur", used=(None, None, False)):
    cpu_seconds, peak_memory, peak_exact = used
    return {
        "function": function,
        "code": code,
        "node": node,
        "start": start,
        "stop": stop,
        "outcome": outcome,
        "cost": {"cpu": 1, "memory": 200},
        "cpu_seconds": cpu_seconds,
        "peak_memory": peak_memory,
        "peak_exact": peak_exact,
    }


def use(resource, asked, median, most, exact=True, exceeded=0, attempts=3):
    return {
        "resource": resource,
        "attempts": attempts,
        "asked": asked,
        "median": median,
        "most": most,
        "exact": exact,
        "exceeded": exceeded,
    }


EVERYTHING = seen_with(
    runs=[
        {
            "id": MARKUP,
            "dag": MARKUP,
            "status": MARKUP,
            "functions": 3,
            "counts": {"finished": 1, "ready": 1, MARKUP: 1},
            "priority": 0,
            "share": 0.5,
            "elapsed": 3700.0,
            "eta": 127.0,
            "known": 0.5,
            "error": MARKUP,
        }
    ],
    waiting=[
        {
            "reason": MARKUP,
            "queued": 3,
            "queues": 1,
            "function": MARKUP,
            "dag": MARKUP,
            "run": MARKUP,
            "why": f"{MARKUP}:\n  - {MARKUP}",
        }
    ],
    nodes=[
        {
            "name": MARKUP + "'",
            "accepting": True,
            "running": 1,
            "amounts": [
                {"resource": "'" + MARKUP, "capacity": 2, "used": 1.5},
                {"resource": "cpu", "capacity": 8, "used": 6},
                {"resource": "memory", "capacity": 64000, "used": 20000},
                {"resource": "gpu", "capacity": 2, "used": 1},
            ],
            "measured": {
                "cpu": 2.04,
                "memory": 48000.4,
                "gpu": 0.35,
                "gpu_memory": 1234,
                "gpu_memory_total": 80000,
            },
        }
    ],
    failures=[
        {
            "when": 0.0,
            "function": MARKUP,
            "dag": MARKUP,
            "run": MARKUP,
            "attempt": 1,
            "node": MARKUP,
            "error": MARKUP,
        }
    ],
    details={
        "run": MARKUP,
        "dag": MARKUP,
        "status": MARKUP,
        "elapsed": 1.0,
        "codes": [
            {
                "code": MARKUP,
                "counts": {"finished": 6, "running": 1, "failed": 1},
                "used": [
                    use("memory", (500, 2000), 212.4, 2400.0, exact=False, exceeded=2, attempts=1234),
                    use("cpu", (1.5, 1.5), 0.94, 1.02, attempts=1233),
                ],
            },
            {
                "code": "blur",
                "counts": {"finished": 1, "ready": 2, "waiting": 1},
                "used": [use("cpu", None, 0.5, 3.0)],
            },
            {"code": "new", "counts": {"waiting": 1}, "used": []},
        ],
        "codes_there": 5,
        "sampled": False,
        "usage_partial": False,
        "every": 2,
        "bars": [
            bar(MARKUP, "a", 0.0, 2.0, MARKUP, MARKUP),
            bar("x", "a", 1.0, 2.0, "failed"),
            bar("y", "b", 1.0, 2.0, "finished"),
        ],
    },
)


def texts(doc):
    from bokeh.models import Div

    return "".join(div.text for div in doc.select({"type": Div}))


def test_user_text_is_escaped():
    doc = Document()
    dashboard.fill(doc, lambda run_id: EVERYTHING)
    html = texts(doc)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 15
    assert "'<" not in html.replace("'>", "")
    assert "1 h 1 min" in html


def test_the_page_shows_estimates_amounts_with_units_and_measured_use():
    html = dashboard_text.runs_html(EVERYTHING, None)
    assert ">at least 2 min 10 s<" in html
    assert "Share: the largest fraction of any one resource" in html
    html = dashboard_text.nodes_html(EVERYTHING["nodes"], 1)
    assert ">1.5 of 2 used<" in html
    assert ">6 of 8 used, 2 measured<" in html
    assert ">20,000 of 64,000 MB used, 48,000 measured<" in html
    assert ">1 of 2 used, 35 % busy and 1,234 of 80,000 MB measured<" in html
    assert html.count("<b style='left:calc(") == 3  # nothing is measured for the user's own resource
    assert "left:calc(75% - 1px)" in html  # 48,000 of 64,000 MB


def test_the_progress_bars_show_finished_running_and_failed_functions_of_each_code():
    html = dashboard_text.run_html(EVERYTHING["details"], None)
    colours = dashboard_text.code_colours(EVERYTHING["details"])
    assert list(colours) == [MARKUP, "blur", "new"]
    assert "6 of 8 finished, 1 running, 1 failed" in html
    assert "1 of 4 finished, 2 waiting for a node, 1 waiting for inputs" in html
    assert f"<i style='width:75.00%;background:{colours[MARKUP]}'>" in html
    assert f"<i style='width:12.50%;{palette.css_hatch('failed')}'>" in html
    assert "and 2 more codes" in html


def test_what_codes_used_is_beside_what_they_asked_for():
    html = dashboard_text.usage_html(EVERYTHING["details"])
    head, first, second = re.findall("<tr>(.*?)</tr>", html)
    titles = [
        f"{name} {what}" for name in ("memory", "cores") for what in ("asked", "median", "most", "exceeded")
    ]
    assert re.findall("<th.*?>(.*?)</th>", head) == ["code", "attempts", *titles]

    def cells(row):
        return [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?>(.*?)</td>", row)][1:]

    assert cells(first) == ["1,234", "500 to 2,000 MB", "~212 MB", "~2,400 MB", "2", "1.5", "0.9", "1", "0"]
    assert "<span class='bad'>2</span>" in first
    assert cells(second) == ["3", "", "", "", "", "", "0.5", "3", ""]
    assert f"background:{dashboard_text.code_colours(EVERYTHING['details'])['blur']}" in second
    assert "still counting" not in html
    assert "still counting" in dashboard_text.usage_html({**EVERYTHING["details"], "usage_partial": True})
    unmeasured = {**EVERYTHING["details"], "codes": EVERYTHING["details"]["codes"][2:]}
    assert dashboard_text.usage_html(unmeasured) == dashboard_text.usage_html(None) == ""


def test_tooltips_have_what_an_attempt_asked_for_and_used():
    bars = [
        bar("f", "a", 0, 1, "finished", used=(0.5, 212.4, False)),
        bar("g", "a", 0, 1, "failed", used=(1.5, 80.0, True)),
        bar("h", "a", 0, 1, "running"),
    ]
    laid_out = lay_out(bars, {})
    assert laid_out.finished["cost"] == ["cpu 1, memory 200"]
    assert laid_out.finished["used"] == ["500 ms of cpu, ~212 MB"]
    assert laid_out.other["used"] == ["1.5 s of cpu, 80 MB", "-"]


def test_a_run_that_is_not_known():
    html = dashboard_text.run_html(None, "'<x>")
    assert "The scheduler does not know run &#x27;&lt;x&gt;." in html
    assert "No runs yet." in dashboard_text.run_html(None, None)


def test_each_run_has_a_link_that_cannot_contain_markup():
    html = dashboard_text.runs_html(EVERYTHING, None)
    assert "href='?run=%3Cscript%3Edocument.title%3D%27pwned%27%3C%2Fscript%3E'" in html


def test_the_selector_changes_the_run_shown_in_detail():
    asked = []
    doc = Document()
    page = dashboard.fill(doc, lambda run_id: asked.append(run_id) or EVERYTHING, "linked")
    assert page._selector.value == "linked"
    assert [value for value, _ in page._selector.options] == ["", MARKUP, "linked"]
    page._selector.value = MARKUP
    page._selector.value = ""
    page.update()
    assert asked == ["linked", MARKUP, None, None]


def test_the_document_follows_snapshots_and_says_when_the_plugin_is_removed():
    seen = [seen_with(), EVERYTHING, None]
    doc = Document()
    page = dashboard.fill(doc, lambda run_id: seen[0])
    assert "No function is waiting for a node." in texts(doc)
    assert len(doc.session_callbacks) == 1
    ticker = page.timeline.figure.yaxis[0].ticker
    del seen[0]
    page.update()
    assert page.timeline.figure.yaxis[0].ticker is ticker, "Bokeh searches the whole page for a new object"
    assert ticker.ticks == [1.0, 2.9]
    assert "No function is waiting for a node." not in texts(doc)
    finished, other = page.timeline.finished.data, page.timeline.other.data
    assert (finished["start"], finished["y"]) == ([1.0], [2.9])  # below the two rows of a
    assert (other["start"], other["y"]) == ([0.0, 1.0], [0.5, 1.5])  # two at once on a
    assert page.timeline.figure.visible
    del seen[0]
    page.update()
    assert "The plugin was removed." in texts(doc)
    assert not doc.session_callbacks


def test_bars_have_the_colour_of_their_code_and_failures_are_hatched():
    bars = [
        bar("f", "a", 0, 1, "finished"),
        bar("g", "a", 0, 1, "finished", "other"),
        *(bar(outcome, "a", 0, 1, outcome) for outcome in ("failed", "lost", "cancelled", "running", "new")),
    ]
    laid_out = lay_out(bars, {"blur": "#123456"})
    assert laid_out.finished["colour"] == ["#123456", palette.OTHERS]
    assert laid_out.other["outcome"] == ["failed", "lost", "cancelled", "running", "new"]
    assert laid_out.other["pattern"] == [palette.HATCHES[o].bokeh for o in laid_out.other["outcome"][:4]] + [
        " "
    ]
    assert laid_out.other["edge"][0] == palette.STATES["failed"]
    heading = dashboard_text.timeline_heading({**EVERYTHING["details"], "bars": bars})
    assert f"<i style='{palette.css_hatch('failed')}'></i>failed" in heading


def test_bars_have_the_same_lanes_as_in_a_timeline():
    spans = [(0, 3), (0, 2), (1, 2.5), (2.0004, 2.4), (3, 4), (3, 5), (3.5, 3.5)]
    records = {
        n: FunctionRecord(n, "finished", "a", (Attempt(n, "a", start, start, stop, "finished"),), {})
        for n, (start, stop) in enumerate(spans)
    }
    lanes = {bar.id: bar.lane for bar in prepare(records).bars}
    bars = [bar(str(n), "a", start, stop, "finished") for n, (start, stop) in enumerate(spans)]
    columns, _, height, ticks = lay_out(bars, {})
    assert {int(n): y - 0.5 for n, y in zip(columns["function"], columns["y"], strict=True)} == lanes
    assert (height, ticks) == (3.4, {1.5: "a"})


def test_bars_that_overlap_by_less_than_the_clock_error_share_a_lane():
    bars = [bar("x", "a", start, stop, "finished") for start, stop in [(0, 1), (0.9995, 2)]]
    assert lay_out(bars, {}).finished["y"] == [0.5, 0.5]


def test_the_document_sends_only_changes():
    doc = Document()
    page = dashboard.fill(doc, lambda run_id: EVERYTHING)
    changes = []
    doc.on_change(changes.append)
    page.update()
    assert not changes


def large_page(elapsed):
    """Return what a page shows at most: 50 nodes, and 600 attempts that end or run at a given time."""
    amounts = [
        {"resource": name, "capacity": 64000, "used": 32000 + n}
        for n, name in enumerate(("cpu", "memory", "gpu"))
    ]
    return seen_with(
        nodes=[
            {
                "name": f"node-with-a-name-{n:02d}",
                "accepting": True,
                "running": 4,
                "amounts": amounts,
                "measured": {"cpu": elapsed, "memory": 1234.5 + elapsed, "gpu": 0.5},
            }
            for n in range(50)
        ],
        nodes_there=50,
        details={
            **EVERYTHING["details"],
            "bars": [
                bar(
                    f"function-{n:05d}",
                    f"node-with-a-name-{n % 50:02d}",
                    n // 50,
                    n // 50 + elapsed,
                    "finished" if n < 500 else "running",
                    used=(elapsed, 1234.5 + n, False),
                )
                for n in range(600)
            ],
        },
    )


def kilobytes(kind, *content):
    """Return the size of a message to the browser."""
    message = Protocol().create(kind, *content)
    return (len(message.content_json) + sum(len(b.to_bytes()) for b in message.buffers)) / 1000


def test_a_page_with_50_nodes_and_its_updates_are_light():
    """Measured: 124 and 107 kB."""
    seen = [large_page(0.5)]
    doc = Document()
    page = dashboard.fill(doc, lambda run_id: seen[0])
    assert 80 < kilobytes("PULL-DOC-REPLY", "request", doc) < 150
    changes = []
    doc.on_change(changes.append)
    seen[0] = large_page(0.9)
    page.update()
    assert kilobytes("PATCH-DOC", list(changes)) < 130


def test_the_document_shows_errors_and_logs_the_first(caplog):
    seen = [seen_with()]
    doc = Document()
    page = dashboard.fill(doc, lambda run_id: seen[0])
    seen[0] = {"runs": MARKUP}
    page.update()
    page.update()
    assert "The page could not be drawn: " in texts(doc)
    assert sum("could not draw its dashboard page" in record.message for record in caplog.records) == 1
    seen[0] = seen_with()
    page.update()
    assert "could not be drawn" not in texts(doc)


def test_a_page_whose_plugin_is_removed_before_the_first_refresh():
    doc = Document()
    dashboard.fill(doc, lambda run_id: None)
    assert "The plugin was removed." in texts(doc)

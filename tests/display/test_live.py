"""Live reprs of runs: in a real kernel, and in the notebook that it saves."""

import asyncio
import re

import nbformat
import pytest
from helpers import dag_of, gate, identity, pass_gate, until
from nbclient import NotebookClient

from handoff_dask import DAG, Function, submit
from handoff_dask._client import run_lifecycle
from handoff_dask._client.progress import follow_in_background

SETUP = """
import sys, threading, types, warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "Creating scratch directories is taking")  # on a busy machine
doors = sys.modules["doors"] = types.ModuleType("doors")
import handoff_dask as handoff
from handoff_dask import DAG, Function
from handoff_dask._client import run_lifecycle
run_lifecycle._SHOW_TIMEOUT = 50  # a busy machine may take long to show the end
from distributed import Client
door = doors.door = threading.Event()
nodes = {"large": {"cpu": 2}, "small": {"cpu": 1}}
cluster = handoff.local_cluster(nodes, processes=False)
client = Client(cluster)
def held():
    from doors import door
    assert door.wait(50)
dag = DAG("shown")
for n in range(4):
    dag.add_function(Function(n, held, cost={"cpu": 1}))
dag.add_function(Function("after", lambda *_: 1, args=list(range(4))))
"""
CLOSE = "door.set(); client.close(); cluster.close()"


def execute(tmp_path, *cells):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, *cells, CLOSE)]
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name="python3", timeout=80, startup_timeout=80, resources=where).execute()
    assert [o for cell in notebook.cells for o in cell.outputs if o.get("name") == "stderr"] == []
    return [cell.outputs for cell in notebook.cells[1:-1]]


def only_output(outputs):
    """Return the HTML and the text of a cell's only output."""
    (output,) = outputs
    return output.data["text/html"], output.data["text/plain"]


def test_the_saved_notebook_shows_the_end_of_the_run(tmp_path):
    (outputs,) = execute(
        tmp_path, "run = handoff.submit(dag, client); display(run); door.set(); run.wait(50);"
    )
    html, text = only_output(outputs)
    assert re.search(r"<b>Run \w+</b> of DAG &#x27;shown&#x27;: finished, 5 of 5 results", html)
    assert "5 of 5 finished" in html
    assert "5 finished</p>" in html
    assert re.fullmatch(r"<Run \w+ of DAG 'shown': finished> 5 of 5 finished, [\d.]+ m?s", text)


def test_the_output_is_updated_after_its_cell_has_ended(tmp_path):
    """One cell displays the run, the next one waits for its end. Until then, the output lists the nodes."""
    first, second = execute(
        tmp_path,
        "from handoff_dask._display import progress\n"
        "seen, show = [], progress.CellOutput.show\n"
        "def noted(place, html, text):\n"
        "    seen.append(html)\n"
        "    show(place, html, text)\n"
        "progress.CellOutput.show = noted\n"
        "run = handoff.submit(dag, client)\n"
        "run",
        "import time\n"
        "while not any('3 running' in html for html in seen): time.sleep(0.01)\n"
        "door.set()\n"
        "run.result(50)\n"
        "print(next(html for html in seen if '3 running' in html))\n"
        "print('tasks', len(run._display_tasks))",
    )
    html, _ = only_output(first)
    assert ": finished, 5 of 5 results" in html
    assert "<table" not in html  # the load of nodes is no longer shown
    (printed,) = second
    assert ">large<" in printed.text
    assert "cpu 2 of 2" in printed.text
    assert ">small<" in printed.text
    assert printed.text.endswith("tasks 0\n")


@pytest.mark.slow
def test_closing_the_client_ends_the_updates(tmp_path):
    outputs, _ = execute(
        tmp_path,
        "client2 = Client(cluster); run = handoff.submit(dag, client2); run",
        "import time\n"
        "client2.close()\n"
        "while run._display_tasks: time.sleep(0.01)",  # the next cell closes their event loop
    )
    html, text = only_output(outputs)
    assert ": cancelled" in html
    assert ": cancelled, because its client was closed>" in text


@pytest.mark.slow
def test_a_run_of_an_asynchronous_client(tmp_path):
    (outputs,) = execute(
        tmp_path,
        "async with Client(cluster.scheduler_address, asynchronous=True) as mine:\n"
        "    run = handoff.submit(dag, mine)\n"
        "    display(run)\n"
        "    door.set()\n"
        "    await run",
    )[:1]
    html, _ = only_output(outputs)
    assert ": finished, 5 of 5 results" in html


def test_other_shells_use_the_ordinary_repr(client):
    run = submit(dag_of(Function("f", identity, extra_args=[1])), client)
    with pytest.raises(NotImplementedError):  # IPython then uses the other reprs
        run._ipython_display_()
    run.wait(20)


class FakeDisplay:
    def __init__(self):
        self.updates = []
        self.closed = 0

    def update(self, progress):
        self.updates.append(progress)

    def close(self):
        self.closed += 1


def test_a_finished_run_is_displayed_once(client):
    run = submit(dag_of(Function("f", identity, extra_args=[1])), client)
    run.wait(20)
    display = FakeDisplay()
    follow_in_background(run, display)
    until(lambda: display.closed)
    assert len(display.updates) == 1
    assert display.updates[0].finished == 1
    assert not run._display_tasks


def test_a_display_does_not_keep_a_run_alive(client):
    door = gate("watched")
    run = submit(dag_of(Function("f", pass_gate, extra_args=["watched"])), client)
    door.await_inside(1)
    display = FakeDisplay()
    follow_in_background(run, display)
    until(lambda: display.updates)
    del run
    until(lambda: display.closed, what="the display is closed")
    door.open()


def test_wait_returns_after_the_display_shows_the_end(client, monkeypatch):
    """Even if the scheduler answers slowly: the output of a finished cell is saved as it is."""
    run = submit(dag_of(Function("f", identity, extra_args=[1])), client)
    original = run._progress

    async def slow(seen):
        await asyncio.sleep(0.2)
        return await original(seen)

    monkeypatch.setattr(run_lifecycle, "_SHOW_TIMEOUT", 20)  # on a busy machine, 0.2 s take longer
    monkeypatch.setattr(run, "_progress", slow)
    display = FakeDisplay()
    follow_in_background(run, display)
    assert run.wait(20)
    assert display.closed == 1
    assert display.updates[-1].finished == 1


def test_a_stuck_display_does_not_delay_wait(client, monkeypatch):
    """Even if the scheduler never answers the display's request."""
    run = submit(dag_of(Function("f", identity, extra_args=[1])), client)

    async def never(seen):
        await asyncio.Event().wait()

    monkeypatch.setattr(run, "_progress", never)
    display = FakeDisplay()
    follow_in_background(run, display)
    assert run.wait(20)
    client.loop.add_callback(lambda: [task.cancel() for task in run._display_tasks])
    until(lambda: display.closed)


def test_the_repr_sends_no_request(client, monkeypatch):
    run = submit(dag_of(Function("f", identity, extra_args=[1])), client)
    run.wait(20)

    def refuse(*args, **kwargs):
        raise AssertionError("asked")

    with monkeypatch.context() as patch:
        patch.setattr(client, "sync", refuse)
        patch.setattr(type(run), "_fetch_report", refuse)
        patch.setattr(type(run), "_progress", refuse)
        assert ": finished, 1 of 1 result" in run._repr_html_()


def test_repr_of_an_empty_run(client):
    run = submit(DAG("nothing"), client)
    assert run._repr_html_().startswith(
        f"<p><b>Run {run.id}</b> of DAG &#x27;nothing&#x27;: finished, 0 of 0"
    )

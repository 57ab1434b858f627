"""Runs that keep themselves up to date in a notebook: a real kernel, and what is saved afterwards."""

import asyncio
import re

import nbformat
import pytest
from helpers import dag_of, gate, identity, pass_gate, until
from nbclient import NotebookClient

from handoff_dask import DAG, Function, submit
from handoff_dask._client.progress import follow_in_background

SETUP = """
import sys, threading, types, warnings
warnings.simplefilter("error")
doors = sys.modules["doors"] = types.ModuleType("doors")
import handoff_dask as handoff
from handoff_dask import DAG, Function
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


def shown(outputs):
    """The HTML and the text of the one thing that a cell shows."""
    (output,) = outputs
    return output.data["text/html"], output.data["text/plain"]


def test_what_is_saved_is_how_the_run_ended(tmp_path):
    (outputs,) = execute(
        tmp_path, "run = handoff.submit(dag, client); display(run); door.set(); run.wait(50);"
    )
    html, text = shown(outputs)
    assert re.search(r"<b>Run \w+</b> of DAG &#x27;shown&#x27;: finished, 5 of 5 results", html)
    assert "5 of 5 finished" in html
    assert "5 finished</p>" in html
    assert re.fullmatch(r"<Run \w+ of DAG 'shown': finished> 5 of 5 finished, [\d.]+ m?s", text)


def test_a_cell_that_is_over_is_kept_up_to_date(tmp_path):
    """It is shown by one cell, ends in another, and the picture of it while it runs has its nodes."""
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
    html, _ = shown(first)
    assert ": finished, 5 of 5 results" in html
    assert "<table" not in html  # what nodes do is over, too
    (printed,) = second
    assert ">large<" in printed.text
    assert "cpu 2 of 2" in printed.text
    assert ">small<" in printed.text
    assert printed.text.endswith("tasks 0\n")


def test_closing_the_client_is_the_end_of_it(tmp_path):
    outputs, _ = execute(
        tmp_path, "client2 = Client(cluster); run = handoff.submit(dag, client2); run", "client2.close()"
    )
    html, text = shown(outputs)
    assert ": cancelled" in html
    assert ": cancelled, because its client was closed>" in text


def test_an_asynchronous_client(tmp_path):
    (outputs,) = execute(
        tmp_path,
        "async with Client(cluster.scheduler_address, asynchronous=True) as mine:\n"
        "    run = handoff.submit(dag, mine)\n"
        "    display(run)\n"
        "    door.set()\n"
        "    await run",
    )[:1]
    html, _ = shown(outputs)
    assert ": finished, 5 of 5 results" in html


def test_without_a_notebook_it_is_as_everything_else(client):
    run = submit(dag_of(Function("f", identity, extra_args=[1])), client)
    with pytest.raises(NotImplementedError):  # IPython then asks for the other reprs
        run._ipython_display_()
    run.wait(20)


class Seen:
    def __init__(self):
        self.updates = []
        self.closed = 0

    def update(self, progress):
        self.updates.append(progress)

    def close(self):
        self.closed += 1


def test_a_run_that_has_ended_is_looked_at_once(client):
    run = submit(dag_of(Function("f", identity, extra_args=[1])), client)
    run.wait(20)
    seen = Seen()
    follow_in_background(run, seen)
    until(lambda: seen.closed)
    assert len(seen.updates) == 1
    assert seen.updates[0].finished == 1
    assert not run._display_tasks


def test_watching_does_not_keep_a_run(client):
    door = gate("watched")
    run = submit(dag_of(Function("f", pass_gate, extra_args=["watched"])), client)
    door.await_inside(1)
    seen = Seen()
    follow_in_background(run, seen)
    until(lambda: seen.updates)
    del run
    until(lambda: seen.closed, what="the watcher has noticed")
    door.open()


def test_whoever_has_waited_finds_the_end_shown(client, monkeypatch):
    """Also where the scheduler takes its time to answer: a cell that is over is saved as it is."""
    run = submit(dag_of(Function("f", identity, extra_args=[1])), client)
    original = run._progress

    async def slow(seen):
        await asyncio.sleep(0.2)
        return await original(seen)

    monkeypatch.setattr(run, "_progress", slow)
    seen = Seen()
    follow_in_background(run, seen)
    assert run.wait(20)
    assert seen.closed == 1
    assert seen.updates[-1].finished == 1


def test_waiting_for_a_run_is_not_kept_up_by_a_picture(client, monkeypatch):
    """The scheduler does not answer whoever watches: that does not concern whoever waits."""
    run = submit(dag_of(Function("f", identity, extra_args=[1])), client)

    async def never(seen):
        await asyncio.Event().wait()

    monkeypatch.setattr(run, "_progress", never)
    seen = Seen()
    follow_in_background(run, seen)
    assert run.wait(20)
    client.loop.add_callback(lambda: [task.cancel() for task in run._display_tasks])
    until(lambda: seen.closed)


def test_looking_at_a_run_asks_nothing_of_the_cluster(client, monkeypatch):
    run = submit(dag_of(Function("f", identity, extra_args=[1])), client)
    run.wait(20)

    def refuse(*args, **kwargs):
        raise AssertionError("asked")

    with monkeypatch.context() as patch:
        patch.setattr(client, "sync", refuse)
        patch.setattr(type(run), "_fetch_report", refuse)
        patch.setattr(type(run), "_progress", refuse)
        assert ": finished, 1 of 1 results" in run._repr_html_()


def test_an_empty_run(client):
    run = submit(DAG("nothing"), client)
    assert run._repr_html_().startswith(
        f"<p><b>Run {run.id}</b> of DAG &#x27;nothing&#x27;: finished, 0 of 0"
    )

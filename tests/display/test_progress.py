"""Progress displays: terminal, log and notebook."""

from __future__ import annotations

import io
import os
import re
import select
import sys
import types

import pytest
from helpers import dag_of, gate, pass_gate
from scheduling.harness import Core, fn

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask._adapter import run_progress
from handoff_dask._adapter.active import ActiveRun
from handoff_dask._client.progress import progress_of
from handoff_dask._display import progress as displays
from handoff_dask._display.progress import (
    NotebookProgress,
    ProgressLine,
    ProgressLog,
    RichProgress,
    display_of,
    eta_text,
    failure_line,
    failure_lines,
    progress_html,
    progress_line,
)
from handoff_dask._model.progress import FailedAttempt, NodeLoad, Progress, Waiting

FAILED = FailedAttempt("f", 1, "n1", "failed", "ValueError('[bold]no\nway[/bold]')", False)
NODE = NodeLoad("[red]1[/red] <b>", 3, {"cpu": 2}, {"cpu": 4, "gpu": 0})


class Terminal(io.StringIO):
    def isatty(self):
        return True


def of(total, elapsed, counts, **more):
    return Progress(total, counts, elapsed, **more)


def test_a_terminal_line_is_overwritten():
    stream = Terminal()
    line = ProgressLine(stream)
    line.update(of(10, 1.25, {"finished": 2, "running": 3, "waiting": 5, "failed": 0}))
    line.update(of(10, 2.0, {"finished": 10}))
    line.close()
    assert stream.getvalue() == (
        "\r\x1b[K2 of 10 finished, 3 running, 1.25 s\r\x1b[K10 of 10 finished, 2 s\n"
    )


def test_failures_stay_above_the_terminal_line():
    stream = Terminal()
    ProgressLine(stream).update(of(2, 1.0, {"running": 1}, failed_attempts=(FAILED,), failed_total=1))
    assert (
        stream.getvalue() == f"\r\x1b[K{failure_line(FAILED)}\n\x1b[K0 of 2 finished, 1 running, 1 retry, 1 s"
    )


def test_a_log_has_a_line_per_tenth():
    stream = io.StringIO()
    log = ProgressLog(stream)
    for finished in range(21):
        log.update(of(20, finished, {"finished": finished}))
    log.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[-1] == "20 of 20 finished, 20 s"


def test_a_log_of_a_long_run_has_a_line_per_minute_and_at_the_end():
    stream = io.StringIO()
    log = ProgressLog(stream)
    for minute in range(4):
        for second in (0, 30):
            log.update(of(10, 60 * minute + second, {"running": 1}))
    log.close()
    assert [line.rpartition(", ")[2] for line in stream.getvalue().splitlines()] == [
        "0 s",
        "1 min 0 s",
        "2 min 0 s",
        "3 min 0 s",
        "3 min 30 s",
    ]


@pytest.mark.parametrize(
    ("eta", "known", "text"),
    [
        (None, 0.0, ""),
        (0.2, 1.0, "about 1 s left"),
        (7.4, 1.0, "about 7 s left"),
        (33.0, 0.5, "at least 30 s left"),
        (127.0, 0.9, "about 2 min 10 s left"),
        (3 * 3600 + 95.0, 1.0, "about 3 h 2 min left"),
    ],
)
def test_the_estimate_is_rounded_to_its_precision(eta, known, text):
    assert eta_text(eta, known) == text


def test_failure_lines():
    assert (
        failure_line(FAILED)
        == "'f' failed on n1, attempt 1, will be retried: ValueError('[bold]no way[/bold]')"
    )
    lost = FailedAttempt(("g", 1), 2, None, "lost", None, True)
    assert failure_line(lost) == "('g', 1) was lost, attempt 2, will not run again"
    assert failure_line(lost._replace(final=False)) == "('g', 1) was lost, attempt 2, will run again"
    assert failure_lines(of(1, 0, {}, failed_attempts=(lost,), more_failed_attempts=1200))[0] == (
        "1,200 more attempts failed or were lost"
    )
    assert len(failure_line(FAILED._replace(error="x" * 1000))) < 250


def test_a_log_has_the_same_lines_about_failures():
    stream = io.StringIO()
    log = ProgressLog(stream)
    log.update(of(10, 1.0, {"running": 1}))
    log.update(of(10, 1.5, {"running": 1}, failed_attempts=(FAILED,), failed_total=1))
    log.update(of(10, 2.0, {"running": 1}, failed_total=1))
    log.close()
    assert stream.getvalue().splitlines() == [
        "0 of 10 finished, 1 running, 1 s",
        failure_line(FAILED),
        "0 of 10 finished, 1 running, 1 retry, 2 s",
    ]


def test_a_lost_attempt_is_no_retry():
    counts = {"finished": 4, "running": 1, "failed": 1}
    assert progress_line(of(6, 1, counts, failed_total=7, lost_total=4)) == (
        "4 of 6 finished, 1 running, 1 failed, 2 retries, 4 attempts lost, 1 s"
    )
    assert progress_line(of(6, 1, {}, failed_total=1, lost_total=1)) == "0 of 6 finished, 1 attempt lost, 1 s"


def test_the_scheduler_reports_lost_attempts():
    core = Core()
    core.nodes(a="cpu 2", b="cpu 1")
    run = core.run(f=fn("cpu 1"), g=fn("cpu 1"))
    core.decide()
    core.fail("f", error="OSError()")
    core.leave("a")
    core.leave("b")
    answer = run_progress.progress(ActiveRun(run, "client", 0.0), core.state, 0)
    progress = progress_of(answer, run.spec.ids, 0.0)
    assert (progress.failed_total, progress.lost_total) == (2, 1)


def test_rich_shows_nodes_and_escapes_markup():
    pytest.importorskip("rich")
    stream = Terminal()
    display = display_of("my [blue]run[/blue]", stream)
    assert type(display) is RichProgress
    display.update(
        of(
            8,
            1.0,
            {"finished": 4, "running": 3, "failed": 1},
            nodes=(NODE,),
            more_nodes=5,
            failed_attempts=(FAILED,),
            failed_total=3,
            eta=5.0,
            known=1.0,
        )
    )
    display.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert failure_line(FAILED) in text
    assert "my [blue]run[/blue]" in text
    assert "[red]1[/red] <b>" in text
    assert "4 of 8, 3 running, 1 failed, 2 retries" in text
    assert "3 running, cpu 2 of 4" in text
    assert "and 5 more nodes, 1 s, about 5 s left" in text


@pytest.fixture
def terminal():
    """Two streams that write to one terminal, and a function that returns the terminal's output so far."""
    master, slave = os.openpty()

    def output():
        text = b""
        while select.select([master], [], [], 0.5)[0]:  # the terminal delivers its input in pieces
            text += os.read(master, 100_000)
        return text.decode()

    with open(slave, "w") as one, open(os.dup(slave), "w") as other:
        yield one, other, output
    os.close(master)


def test_output_to_a_file_is_not_redirected(terminal, tmp_path, monkeypatch):
    pytest.importorskip("rich")
    stream, _, output = terminal
    with open(tmp_path / "out", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        display = RichProgress("run", stream)
        display.update(of(2, 1.0, {"finished": 1}))
        print("printed")
        assert sys.stdout is file
        display.close()
    stream.flush()
    assert (tmp_path / "out").read_text() == "printed\n"
    assert "printed" not in output()


def test_output_to_the_same_terminal_stays_above_the_bar(terminal, monkeypatch):
    pytest.importorskip("rich")
    stream, out, output = terminal
    monkeypatch.setattr(sys, "stdout", out)
    display = RichProgress("title", stream)
    display.update(of(2, 1.0, {"finished": 1}))
    print("printed")
    text = output()
    assert 0 <= text.find("title") < text.find("printed") < text.rfind("title")
    display.close()
    assert sys.stdout is out


def test_a_terminal_without_rich_gets_the_plain_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    for name in [name for name in sys.modules if name.startswith("rich.")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert type(display_of("run", Terminal())) is ProgressLine


def test_other_streams_get_a_log():
    assert type(display_of("run", io.StringIO())) is ProgressLog


def test_a_notebook_updates_a_single_output(monkeypatch):
    made = []

    class Handle:
        def update(self, value, raw):
            assert raw
            made.append(value)

    def display(value, raw, display_id):
        assert raw
        assert display_id
        made.append(value)
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display
    kernel = types.ModuleType("IPython")
    kernel.get_ipython = type("ZMQInteractiveShell", (), {})
    kernel.display = module
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    notebook = display_of("run", io.StringIO())
    assert type(notebook) is NotebookProgress
    for n in range(12):
        attempt = FAILED._replace(function_id=n)
        notebook.update(of(20, n, {"finished": n}, failed_attempts=(attempt,), nodes=(NODE,)))
    notebook.close()
    assert len(made) == 13
    assert made[-1]["text/html"].count("&#10007;") == NotebookProgress.MAX_FAILURES
    assert "11 of 20 finished" in made[-1]["text/html"]
    assert made[-1]["text/plain"] == "run: 11 of 20 finished, 11 s"


WAITING = of(3, 20.2, {"ready": 3}, waiting=Waiting("a node with [gpu] 1", 20.2, 60))
WAITING_LINE = "waiting for a node with [gpu] 1 (20 of 60 s)"


def test_a_run_that_waits_for_nodes_shows_which():
    assert progress_line(WAITING) == WAITING_LINE
    assert WAITING_LINE in progress_html("run", WAITING, [])
    stream = Terminal()
    rich = RichProgress("run", stream)
    rich.update(WAITING)
    rich.close()
    assert WAITING_LINE in " ".join(stream.getvalue().split())


def test_a_log_has_a_line_when_the_awaited_nodes_change():
    stream = io.StringIO()
    log = ProgressLog(stream)
    for awaited in ("node 'x'", "node 'x'", "node 'y'", None, None):
        waiting = None if awaited is None else Waiting(awaited, 1, 60)
        log.update(of(3, 1, {"ready": 3}, waiting=waiting))
    log.close()
    assert stream.getvalue().splitlines() == [
        "waiting for node 'x' (1 of 60 s)",
        "waiting for node 'y' (1 of 60 s)",
        "0 of 3 finished, 3 waiting for a node, 1 s",
        "0 of 3 finished, 3 waiting for a node, 1 s",
    ]


def test_html_is_escaped():
    text = progress_html("<b>", of(1, 0, {}, nodes=(NODE,), more_nodes=2), ["<script>"])
    assert "<script>" not in text
    assert "[red]1[/red] &lt;b&gt;" in text
    assert "<b>&lt;b&gt;</b>" in text
    assert "and 2 more nodes" in text


def test_the_whole_progress_fits_in_a_line():
    assert progress_line(
        of(5000, 130, {"finished": 1200, "waiting": 3, "ready": 1000}, eta=90, known=0.1)
    ) == ("1,200 of 5,000 finished, 1,000 waiting for a node, 2 min 10 s, at least 1 min 30 s left")


@pytest.mark.parametrize("fails", [False, True])
def test_execute_shows_progress_on_standard_error(client, capsys, fails):
    dag = dag_of(*[Function(i, "operator:truediv", extra_args=[1, 1]) for i in range(5)])
    if fails:
        dag.add_function(Function("bad", "operator:truediv", extra_args=[1, 0], max_retries=0))
        with pytest.raises(handoff.FunctionFailedError):
            handoff.execute(dag, client, progress=True, fail_fast=False)
    else:
        handoff.execute(dag, client, progress=True)
    text = capsys.readouterr().err
    assert f"5 of {len(dag)} finished" in text
    assert ("1 failed" in text) == fails


def test_progress_is_off_by_default(client, capsys):
    handoff.execute(dag_of(Function("f", "operator:add", extra_args=[1, 1])), client)
    assert capsys.readouterr().err == ""


def test_failed_attempts_are_reported_once_with_node_and_error(client, monkeypatch):
    seen = []
    monkeypatch.setattr(
        displays, "display_of", lambda title: types.SimpleNamespace(update=seen.append, close=lambda: None)
    )
    monkeypatch.setattr(run_progress, "MAX_TROUBLES", 1)
    dag = dag_of(*(Function(n, "operator:truediv", extra_args=[1, 0], max_retries=0) for n in range(2)))
    with pytest.raises(handoff.FunctionFailedError):
        handoff.execute(dag, client, progress=True, fail_fast=False)
    failed_attempts = [attempt for progress in seen for attempt in progress.failed_attempts]
    assert sum(len(p.failed_attempts) + p.more_failed_attempts for p in seen) == 2
    assert seen[-1].failed_total == 2
    assert failed_attempts[-1].final
    assert failed_attempts[-1].attempt == 1
    assert failed_attempts[-1].node in handoff.discover_nodes(client)
    assert "division by zero" in failed_attempts[-1].error


def test_only_the_last_attempt_of_a_function_is_final(client, monkeypatch):
    """Even if all attempts have failed by the first update."""
    seen = []
    monkeypatch.setattr(
        displays, "display_of", lambda title: types.SimpleNamespace(update=seen.append, close=lambda: None)
    )
    dag = dag_of(Function("f", "operator:truediv", extra_args=[1, 0], max_retries=2))
    with pytest.raises(handoff.FunctionFailedError):
        handoff.execute(dag, client, progress=True)
    failed_attempts = [attempt for progress in seen for attempt in progress.failed_attempts]
    assert [(t.attempt, t.final) for t in failed_attempts] == [(1, False), (2, False), (3, True)]


def test_progress_includes_the_load_of_nodes(client, monkeypatch):
    door, seen = gate("load"), []

    def update(progress):
        seen.append(progress)
        if progress.counts.get("running"):  # the functions run until an update has shown it
            door.open()

    monkeypatch.setattr(
        displays, "display_of", lambda title: types.SimpleNamespace(update=update, close=lambda: None)
    )
    dag = dag_of(*(Function(n, pass_gate, extra_args=["load"], cost={"cpu": 1}) for n in range(4)))
    handoff.execute(dag, client, progress=True)
    during = next(progress for progress in seen if progress.counts.get("running"))
    assert {node.name for node in during.nodes} == set(handoff.discover_nodes(client))
    assert sum(node.running for node in during.nodes) == during.counts["running"]
    assert sum(node.used["cpu"] for node in during.nodes) >= 1
    assert seen[-1].finished == 4


def test_estimates_take_little_of_the_schedulers_time(monkeypatch):
    now, asked = [0.0], []

    def slow(*arguments):
        asked.append(now[0])
        now[0] += 0.1
        return run_progress.TimeLeft(20.0, 1.0)

    monkeypatch.setattr(run_progress, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_progress, "time_left", slow)
    estimate = run_progress.Estimate()
    state = types.SimpleNamespace(placement=types.SimpleNamespace(nodes=None, estimates=None))
    active = types.SimpleNamespace(run=None)
    assert estimate.at(active, state).seconds == 20
    now[0] += 5
    assert estimate.at(active, state).seconds == pytest.approx(15)
    now[0] += 5.1
    assert estimate.at(active, state).seconds == 20
    assert len(asked) == 2

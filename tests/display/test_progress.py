from __future__ import annotations

import io

import pytest
from helpers import dag_of

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask._display.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_one_line_is_overwritten():
    stream = Terminal()
    line = ProgressLine(10, stream)
    line.update({"finished": 2, "running": 3, "waiting": 5, "failed": 0}, 1.25)
    line.update({"finished": 10}, 2.0)
    line.close()
    assert stream.getvalue() == (
        "\r\x1b[K2 of 10 finished, 3 running, 1.2 s\r\x1b[K10 of 10 finished, 2.0 s\n"
    )


def test_elsewhere_there_is_a_line_for_each_tenth():
    stream = io.StringIO()
    line = ProgressLine(20, stream)
    for finished in range(21):
        line.update({"finished": finished}, finished)
    line.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[-1] == "20 of 20 finished, 20.0 s"


@pytest.mark.parametrize("fails", [False, True])
def test_execute_shows_progress_on_standard_error(client, capsys, fails):
    dag = dag_of(*[Function(i, "operator:truediv", extra_args=[1, 1]) for i in range(5)])
    if fails:
        dag.add_function(Function("bad", "operator:truediv", extra_args=[1, 0], max_retries=0))
        with pytest.raises(handoff.FunctionFailedError):
            handoff.execute(dag, client, progress=True, fail_fast=False)
    else:
        handoff.execute(dag, client, progress=True)
    shown = capsys.readouterr().err
    assert f"5 of {len(dag)} finished" in shown
    assert ("1 failed" in shown) == fails


def test_without_being_asked_nothing_is_shown(client, capsys):
    handoff.execute(dag_of(Function("f", "operator:add", extra_args=[1, 1])), client)
    assert capsys.readouterr().err == ""

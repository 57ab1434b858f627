"""Tables, JSON and exit codes."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import handoff_dask as handoff
from handoff_dask._cli import output
from handoff_dask._cli.errors import code_of


def test_durations_are_aligned_like_numbers(capsys):
    times = ["0.12 ms", "5 s", "1 min 3 s", "1,000 h 0 min"]
    output.table(("took", "share"), zip(times, ["5%", "100%", "0%", None], strict=True))
    assert capsys.readouterr().out.splitlines() == [
        "         took  share",
        "      0.12 ms     5%",
        "          5 s   100%",
        "    1 min 3 s     0%",
        "1,000 h 0 min",
    ]


@pytest.fixture
def terminal(monkeypatch):
    """Pretend that standard output is a terminal with a number of columns."""

    def terminal(columns):
        monkeypatch.setattr(
            output.shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((columns, 24))
        )
        monkeypatch.setattr(output.sys.stdout, "isatty", lambda: True)

    return terminal


ROWS = [("a", 1, "x" * 50), ("a long name", None, "y"), ("b", 1000, None)]


def test_nothing_is_truncated_outside_a_terminal(capsys):
    output.table(("name", "n", "value"), ROWS, truncate=("value", "name"))
    assert capsys.readouterr().out == (
        f"name            n  value\na               1  {'x' * 50}\na long name        y\nb            1000\n"
    )


@pytest.mark.parametrize(("columns", "width"), [(200, 50), (60, 41), (19 + 12, 12), (5, 12)])
def test_columns_are_truncated_in_order_down_to_a_minimum_width(capsys, terminal, columns, width):
    terminal(columns)
    output.table(("name", "n", "value"), ROWS, truncate=("value", "name"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("a long name ")
    value = lines[1][19:]
    assert len(value) == width
    assert value == "x" * 50 if width == 50 else value == "x" * (width - 3) + "..."


def test_other_columns_are_not_truncated(capsys, terminal):
    terminal(10)
    output.table(("run", "DAG"), [("0123456789abcdef", "d" * 30)], truncate=("DAG",))
    assert capsys.readouterr().out.splitlines()[1] == "0123456789abcdef  ddddddddd..."


def test_a_cell_has_one_line(capsys):
    output.table(("value",), [("a\n  b\tc",)])
    assert capsys.readouterr().out == "value\na b c\n"


@pytest.mark.parametrize(
    ("value", "document"),
    [
        ({1: "a", "2": "b"}, {"1": "a", "2": "b"}),
        ({1: "a", "1": "b"}, [[1, "a"], ["1", "b"]]),
        (
            {("a", 1): 1, "('a', 1)": {None: 0, "None": 1}},
            [[["a", 1], 1], ["('a', 1)", [[None, 0], ["None", 1]]]],
        ),
    ],
)
def test_keys_with_the_same_text_are_kept_in_json(capsys, value, document):
    output.print_json({"result": value})
    assert json.loads(capsys.readouterr().out) == {"result": document}


def test_values_that_json_cannot_represent_become_their_repr(capsys):
    value = {
        ("a", 1): (1, 2.5, None, True),
        "nan": float("nan"),
        "inf": [float("inf")],
        "array": np.arange(2),
        "number": np.float64(1.5),
    }
    output.print_json(value)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "('a', 1)": [1, 2.5, None, True],
        "nan": "nan",
        "inf": ["inf"],
        "array": "array([0, 1])",
        "number": 1.5,
    }


#: Exception → exit code.
CODES = {
    handoff.AllocationError: 3,
    handoff.RunError: 1,
    handoff.ClusterNotReadyError: 4,
    handoff.InvalidDAGError: 2,
    handoff.HistoryError: 2,
    handoff.CheckpointError: 2,
    handoff.RunNotFoundError: 2,
    ImportError: 2,
    handoff.HandoffError: 1,
    ZeroDivisionError: 70,
}


@pytest.mark.parametrize(("kind", "code"), CODES.items())
def test_every_exception_has_its_exit_code(kind, code):
    """Subclasses have the same exit code, unless they are listed themselves."""
    todo = [kind]
    while todo:
        each = todo.pop()
        assert code_of(each.__new__(each)) == code, each
        ours = (k for k in each.__subclasses__() if k.__module__ == "handoff_dask.exceptions")
        todo += [k for k in ours if k not in CODES]

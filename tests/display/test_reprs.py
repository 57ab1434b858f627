"""Further notebook reprs. Whatever the values, a repr is short, escaped and does not raise."""

import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
from helpers import dag_of, identity
from markup import EVIL, OURS, Table

import handoff_dask as handoff
from handoff_dask import DAG, Function, RetryPolicy, execute_local, simulate
from handoff_dask._display.svg import MAX_FUNCTIONS
from handoff_dask._display.text import amount_text, size_text, value_text

NODES = {"n1": {"cpu": 4, "memory": 8192}, "n2": {"cpu": 2, "gpu": 1}}


class Hostile:
    """A class whose repr and shape raise."""

    def __repr__(self):
        raise RuntimeError("no")

    @property
    def shape(self):
        raise RuntimeError("no")


def text_of(markup):
    """Return the visible text of HTML."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def test_repr_of_a_function():
    f = Function(
        "<f>", sorted, args=["<a>"], cost={"cpu": 2}, node=["n1", "n2"], retry=RetryPolicy(1), timeout=3
    )
    table = Table(f._repr_html_())
    assert table.tags <= OURS
    rows = dict(table.rows)
    assert rows["code"] == "sorted from builtins"
    assert rows["args"] == "('<a>',)"
    assert rows["cost"] == "cpu 2"
    assert rows["node"] == "n1 or n2"
    assert rows["timeout"] == "3"
    assert "kwargs" not in rows


def test_repr_of_nodes(client):
    nodes = handoff.discover_nodes(client)
    assert isinstance(nodes, dict)
    assert nodes == dict(nodes)
    assert repr(nodes) == repr(dict(nodes))
    table = Table(nodes._repr_html_())
    assert table.rows == [
        ["node", "cpu", "memory (MB)", "gpu"],
        ["node1", "4", "8,192", "1"],
        ["node2", "2", "4,096", ""],
    ]
    assert "2 nodes : cpu 6, memory 12,288, gpu 1 in total" in text_of(nodes._repr_html_())


def test_repr_of_a_schedule():
    dag = dag_of(*(Function(n, list, cost={"cpu": 2}) for n in range(6)))
    schedule = simulate(dag, NODES, 2.0)
    markup = schedule._repr_html_()
    assert [[cell.strip() for cell in row] for row in Table(markup).rows] == [
        ["node", "functions", "cpu used", "memory used", "gpu used"],
        ["n1", "4", "100%", "0%", ""],
        ["n2", "2", "100%", "", "0%"],
    ]
    assert "6 functions in 4 s; lower bound 4 s" in text_of(markup)


def test_records_as_text():
    def fails():
        raise ValueError

    with pytest.raises(handoff.FunctionFailedError) as caught:
        execute_local(dag_of(Function("a", list), Function("f", fails, max_retries=0)))
    text = re.sub(r"  [\d.]+ m?s\b", "  T", str(caught.value.run.records))
    assert [line.split() for line in text.splitlines()] == [
        ["function", "status", "node", "attempts", "took", "cpu", "time"],
        ["a", "finished", "local", "1", "T", "T"],
        ["f", "failed", "local", "1", "T", "T"],
    ]


def test_many_records_as_text():
    records = simulate(dag_of(*(Function(n, list) for n in range(30))), {"n": {"cpu": 1}}, 2.0).records
    lines = str(records).splitlines()
    assert lines[:2] == [
        "function  status    node  attempts  took",
        "       0  finished  n            1   2 s",
    ]
    assert lines[-2:] == ["      19  finished  n            1   2 s", "... and 10 more"]
    assert len(lines) == 22
    assert repr(records) == "<records of 30 functions>"


def test_records_of_unusual_ids_as_text():
    class Id:
        def __str__(self):
            raise RuntimeError("no")

        __repr__ = __str__

    records = simulate(dag_of(Function(Id(), list), Function("x" * 300, list)), {"n": {"cpu": 1}}).records
    lines = str(records).splitlines()
    assert max(map(len, lines)) == 100
    assert lines[1].startswith("<Id, whose repr raises RuntimeError>")
    assert lines[2].startswith("xxx")
    assert str(simulate(DAG(), {"n": {"cpu": 1}}).records) == "function  status  node  attempts  took"


def test_repr_of_records(client):
    def breaks(x):
        raise ValueError(EVIL)

    dag = dag_of(
        Function("a", list, cost={"gpu": 1, "cpu": 0.5}),
        Function(EVIL, breaks, args=["a"], max_retries=1),
        Function("c", identity, args=[EVIL]),
    )
    run = handoff.submit(dag, client, fail_fast=False)
    run.wait(20)
    markup = run.records._repr_html_()
    table = Table(markup)
    assert table.tags <= OURS
    head, *rows = table.rows
    rows = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert rows["a"]["status"] == "finished"
    assert rows["a"]["node"] == "node1"
    assert rows["a"]["cost"] == "gpu 1, cpu 0.5"
    assert rows["a"]["devices"] == "gpu [0]"
    assert re.fullmatch(r"[\d.]+ [mµ]?s", rows["a"]["took"])
    assert re.fullmatch(r"[\d.]+ B", rows["a"]["size"])
    assert rows[EVIL]["attempts"] == "2"
    assert rows[EVIL]["error"] == repr(ValueError(EVIL))
    assert rows["c"]["status"] == "skipped"
    assert "Records of 3 functions : 1 finished, 1 failed, 1 skipped" in text_of(markup)


def test_repr_of_a_run_shows_its_last_known_progress(client):
    from handoff_dask._model.progress import NodeLoad, Progress

    run = handoff.submit(dag_of(Function("f", list)), client)
    run.wait(20)
    run._last_progress = Progress(
        9, {"finished": 2, "running": 3, "failed": 1}, 5.0, (NodeLoad(EVIL, 3, {"cpu": 3}, {"cpu": 4}),), 2
    )
    markup = run._repr_html_()
    assert Table(markup).tags <= OURS
    text = text_of(markup)
    assert "2 of 9 finished, 5 s" in text
    assert "2 finished, 3 running, 1 failed" in text
    assert Table(markup).rows[0] == [EVIL, "", "3 running, cpu 3 of 4 used"]
    assert "and 2 more nodes" in text
    assert "width:75.00%" in markup


def test_repr_of_a_result_counts_functions_per_node(client):
    result = handoff.execute(dag_of(*(Function(n, list, cost={"cpu": 1}) for n in range(6))), client)
    rows = Table(result._repr_html_()).rows
    at = rows.index(["node", "functions", ""])
    assert sum(int(row[1]) for row in rows[at + 1 :]) == 6
    assert len(rows[at + 1 :]) == len(set(result.allocations.values()))


def test_text_repr_of_a_result_is_short():
    text = repr(execute_local(dag_of(*(Function(n, lambda: "x" * 10_000) for n in range(500)))))
    assert text.startswith("<Result of DAG 'test' in ")
    assert "results {0: 'xxx" in text
    assert text.count("(500 items)") == 2
    assert "allocations {0: 'local'" in text
    assert len(text) < 600


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        ("a\nb", r"'a\nb'"),
        (list(range(10_000)), "[0, 1, 2, 3, 4, 5, ...] (10,000 items)"),
        ([[1] * 1000], "[[1, 1, 1, 1, 1, 1, ...]]"),
        (np.zeros((3, 4)), "ndarray of 3 × 4, float64"),
        ([np.zeros(5000)], "[ndarray of 5,000, float64]"),
        (np.float64(2.5), repr(np.float64(2.5))),
        (pd.DataFrame({"a": range(1000)}), "DataFrame of 1,000 × 1"),
        (Hostile(), "<Hostile, whose repr raises RuntimeError>"),
        (1 << 100_000, "an integer of 100,001 bits"),
        (None, "None"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_short_text_of_values(value, text):
    assert value_text(value) == text


def test_long_values_are_not_converted_in_full():
    class Item:
        written = 0

        def __repr__(self):
            Item.written += 1
            return "item"

    assert value_text([Item()] * 100_000).endswith("(100,000 items)")
    assert Item.written <= 6
    assert len(value_text("x" * 10**7)) == 80
    assert len(value_text(dict.fromkeys(range(1000), "y" * 1000))) <= 80


def test_amounts_and_sizes():
    assert [amount_text(n) for n in (1048576, 0.5, 1234.56, "two", float("nan"))] == [
        "1,048,576",
        "0.5",
        "1,234.6",
        "two",
        "nan",
    ]
    assert [size_text(n) for n in (0, 1023, 2048, 3 * 2**30, None)] == [
        "0 B",
        "1.00 kiB",
        "2.00 kiB",
        "3.00 GiB",
        "",
    ]


def test_no_repr_raises():
    bad = Hostile()
    dag = dag_of(Function(bad, lambda: bad, extra_args=[bad], cost={"cpu": bad}, node=bad), id=bad)
    good = dag_of(Function("f", lambda: bad))
    for value in (dag, dag[bad], execute_local(good), simulate(good, NODES), execute_local(good).records):
        markup = value._repr_html_()
        assert markup.startswith("<p>")
        assert len(markup) < 20_000


def test_a_cycle_is_listed_as_a_problem():
    markup = dag_of(Function("f", identity, args=["g"]), Function("g", identity, args=["f"]))._repr_html_()
    assert "1 problem" in text_of(markup)
    assert "not drawn" in markup


def test_long_lists_of_problems_are_truncated():
    markup = dag_of(*(Function(n, identity, args=["absent"]) for n in range(500)))._repr_html_()
    assert "500 problems" in text_of(markup)
    assert markup.count("<li>") == 11
    assert "and 490 more" in markup


@pytest.mark.parametrize("n", [2000, MAX_FUNCTIONS + 1, 100_000])
def test_large_dags_have_short_reprs(n):
    dag = DAG()
    for i in range(n):
        dag.add_function(Function(i, identity, args=[i // 7] if i else (), cost={"cpu": i % 90}))
    markup = dag._repr_html_()
    assert len(markup) < 100_000
    assert f"{n:,d} functions" in markup
    assert ("<svg" in markup) == (n <= MAX_FUNCTIONS)


def test_the_picture_inherits_the_colours_of_the_page():
    dag = dag_of(
        Function("load", list, cost={"cpu": 1}, node="n1"),
        Function("scale", identity, args=["load"], type="inline"),
        *(Function(n, identity, args=["scale"], cost={"gpu": 1}) for n in range(30)),
    )
    markup = dag._repr_html_()
    picture = markup[markup.index("<svg") : markup.index("</svg>")]
    assert re.findall(r"<text [^>]*fill='([^']*)'", picture) == ["currentColor"] * 3
    assert "identity × 30" in picture
    assert "on n1" in picture
    assert picture.count("stroke-dasharray") == 1
    assert "gpu" in text_of(markup[markup.index("</svg>") :])
    assert not re.search(r"\bblack\b|\bwhite\b(?!-space)|#000|#fff", markup)

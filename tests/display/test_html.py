"""HTML reprs of DAGs, results and runs."""

import re
from html import unescape

import pytest
from helpers import dag_of, identity
from markup import EVIL, HEAD, OURS, Table

from handoff_dask import DAG, Collocated, Function, execute_local, submit


def test_repr_of_a_dag():
    dag = dag_of(
        Function("load", list, cost={"cpu": 2}, node="n1"),
        Function("use", identity, args=["load"], node=Collocated("load")),
        Function("given", type="input"),
        id="mine",
    )
    text = dag._repr_html_()
    assert "<b>DAG &#x27;mine&#x27;</b>: 3 functions, 1 dependency<" in text
    table = Table(text)
    assert table.functions() == [
        HEAD,
        ["load", "list", "", "cpu 2", "n1"],
        ["use", "identity", "load", "", "beside load"],
        ["given", "", "", "", ""],
    ]
    assert table.rows[:2] == [
        ["resource", "functions", "largest cost", "total cost"],
        ["cpu", "1", "2", "2"],
    ]


def test_repr_of_a_dag_is_escaped():
    dag = dag_of(
        Function(EVIL, list, cost={EVIL: 1}, node=EVIL), Function("f", identity, args=[EVIL]), id=EVIL
    )
    text = dag._repr_html_()
    table = Table(text)
    assert table.tags <= OURS
    assert table.functions()[1] == [EVIL, "list", "", f"{EVIL} 1", EVIL]
    assert table.functions()[2][2] == EVIL
    assert EVIL in unescape(text)


def test_repr_of_a_result_is_escaped():
    dag = dag_of(Function(EVIL, lambda: EVIL), id=EVIL)
    text = execute_local(dag)._repr_html_()
    table = Table(text)
    assert table.tags <= OURS
    assert table.rows[1][0] == EVIL
    assert table.rows[1][4] == repr(EVIL)
    assert repr(EVIL) in unescape(text)


def test_repr_of_a_result():
    failed = []

    def flaky():
        if not failed:
            failed.append(1)
            raise OSError
        return "x" * 100

    dag = dag_of(Function("f", flaky), Function("g", lambda f: 7, args=["f"]), id="mine")
    text = execute_local(dag, keep=["f"])._repr_html_()
    assert re.search(r"<b>Result of DAG &#x27;mine&#x27;</b>: [\d.]+ m?s, 2 functions, 1 value<", text)
    head, f, g = Table(text).rows
    assert head == ["function", "node", "attempts", "took", "value"]
    assert f[:3] == ["f", "local", "2"]
    assert f[4] == "'" + "x" * 76 + "..."
    assert g[:3] == ["g", "local", "1"]
    assert g[4] == ""  # not kept
    assert all(re.fullmatch(r"[\d.]+ m?s", row[3]) for row in (f, g))


def test_values_are_truncated_to_80_characters():
    dag = dag_of(*(Function(n, lambda n=n: "x" * n) for n in (78, 79)))
    rows = Table(execute_local(dag, max_concurrency=1)._repr_html_()).rows[1:]
    assert [row[4] for row in rows] == ["'" + "x" * 78 + "'", "'" + "x" * 76 + "..."]


def test_repr_of_a_run(client):
    dag = dag_of(Function("a", identity, extra_args=[1]), Function("b", identity, args=["a"]), id=EVIL)
    run = submit(dag, client)
    assert run.wait(30)
    text = run._repr_html_()
    assert Table(text).tags <= OURS
    assert f"Run {run.id} of DAG {EVIL!r}: finished, 2 of 2 results, " in re.sub("</?b>", "", unescape(text))


def test_long_tables_are_truncated():
    written = []

    class Value:
        def __repr__(self):
            written.append(1)
            return "value"

    dag = dag_of(*(Function(n, Value) for n in range(1025)))
    for text in (dag._repr_html_(), execute_local(dag)._repr_html_()):
        assert len(Table(text).rows) == 1 + 20
        assert text.count("<p>and 1,005 more</p>") == 1
    assert len(written) == 20


@pytest.mark.parametrize("n", [0, 1, 20])
def test_short_tables_are_not_truncated(n):
    text = dag_of(*(Function(i, list) for i in range(n)))._repr_html_()
    assert len(Table(text).rows) == 1 + n
    assert "more" not in text


@pytest.mark.parametrize(
    "fields",
    [{"cost": {"cpu": "two"}}, {"cost": 3}, {"args": 5}, {"args": [[1]]}, {"code": None}, {"kwargs": 3}],
)
def test_repr_of_an_invalid_dag(fields):
    text = dag_of(Function("f", **{"code": list, **fields}))._repr_html_()
    table = Table(text)
    assert table.functions()[1][0] == "f"
    assert "problem</b>" in text
    assert "<li>function &#x27;f&#x27;" in text


def test_repr_of_an_empty_dag():
    assert "0 functions" in DAG("mine")._repr_html_()

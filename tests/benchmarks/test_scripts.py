"""The benchmark scripts run, at small sizes. Their figures are not judged."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import dashboard
import engines
import memory
import progress
import pytest
import reports
import synthetic
import variants
import workflows
from engines import Outcome, fresh_cluster
from traces import lower_bound

from handoff_dask import DAG, Function
from handoff_dask._scheduling import rank

DATA = Path(__file__).parents[2] / "benchmarks" / "data"


# synthetic.py


def test_trace_in_the_repository_matches_the_generator(capsys):
    assert synthetic.main(["--samples", "3", "--width", "4", "--seed", "1"]) == 0
    assert capsys.readouterr().out == (DATA / "small.json").read_text()


def test_seed_changes_the_trace_but_not_its_shape():
    one, other = (synthetic.generate(4, 5, seed) for seed in (1, 2))
    assert list(one["tasks"]) == list(other["tasks"])
    assert one["tasks"] != other["tasks"]
    kinds = {id.rsplit("-", 1)[0] for id in one["tasks"]}
    assert kinds == set(synthetic.KINDS)


# workflows.py


def test_workflows_runs_every_engine(capsys, tmp_path):
    path = tmp_path / "figures.json"
    small = [str(DATA), "--scale", "0.1", "--clusters", "unequal", "--json", str(path)]
    assert workflows.main([*small, "--engines", "plain,tuned,handoff,simulator,learner"]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["trace"], row["functions"], row["problems"]) == ("synthetic-3x4-1", 36, [])
    assert all(len(makespans) == 1 for makespans in row["makespans"].values())
    (line,) = [line for line in printed.splitlines() if line.startswith("synthetic-3x4-1")]
    for makespans in row["makespans"].values():
        assert f"{makespans[0] / row['lower_bound']:.3f}" in line.split()


def test_workflows_repeats_and_prints_markdown(capsys):
    small = [str(DATA / "small.json"), "--scale", "5", "--engines", "simulator,learner"]
    assert workflows.main([*small, "--repeats", "3", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 6  # headings, rule, and for each cluster a row and the mean
    assert {line.count("|") for line in table} == {8}


def test_workflows_reports_violations(capsys, monkeypatch):
    right = engines.run_simulator

    def too_fast(trace, nodes, timeout):
        outcome = right(trace, nodes, timeout)
        return Outcome(outcome.makespan / 2, outcome.log[1:])

    monkeypatch.setitem(engines.ENGINES, "simulator", too_fast)
    assert workflows.main([str(DATA), "--engines", "simulator", "--clusters", "equal"]) == 1
    errors = capsys.readouterr().err
    assert "never ran" in errors
    assert "below the lower bound" in errors


def test_workflows_continues_after_a_failed_run(capsys, monkeypatch):
    def fails(trace, nodes, timeout):
        raise TimeoutError("no end")

    monkeypatch.setitem(engines.ENGINES, "plain", fails)
    assert workflows.main([str(DATA), "--engines", "plain,simulator", "--clusters", "equal"]) == 1
    printed, errors = capsys.readouterr()
    assert errors == "synthetic-3x4-1 on equal: plain: TimeoutError: no end\n"
    assert printed.count("failed") == 2  # in the row, and in place of the mean


def test_workflows_refuses_unknown_names(capsys):
    with pytest.raises(SystemExit):
        workflows.main([str(DATA), "--engines", "plain,magic"])
    assert "unknown name 'magic' (known: plain, tuned" in capsys.readouterr().err


# reports.py


def test_ideals_equal_the_lower_bounds():
    for case in reports.cases():
        assert lower_bound(case.trace, case.nodes)[0] == pytest.approx(case.ideal), case.name


def test_reports_measures_every_side():
    case = next(case for case in reports.cases() if case.name == "gpu after source, source last")
    trace = case.trace.with_seconds(f.seconds / 20 for f in case.trace.functions.values())
    row = reports.measure(replace(case, trace=trace, ideal=case.ideal / 20), list(reports.SIDES), 1)
    assert row.problems == []
    assert all(len(ratios) == 1 for ratios in row.ratios.values())


def test_reports_refuses_unknown_cases(capsys):
    with pytest.raises(SystemExit):
        reports.main(["no such"])
    assert "uneven nodes" in capsys.readouterr().err


# memory.py


@pytest.mark.parametrize("side", memory.SIDES)
def test_memory_measures_a_small_tree(side):
    measured = memory.measure(memory.tree(0.0, 0.0, width=8), memory.SIDES[side])
    assert measured.leaves == 8
    assert (
        2 * memory.BLOCK <= measured.nbytes <= 2 * 15 * memory.BLOCK * 1.01
    )  # each block at most once per node


def test_memory_prints_every_side(capsys, monkeypatch):
    monkeypatch.setitem(memory.CASES, "tree", (lambda load, step: memory.tree(load, step, width=4), 4))
    assert memory.main(["tree", "--load", "0.001", "--step", "0.001", "--repeats", "1"]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.split()[:2] == ["tree", "7"]
    assert row.count("s)") == len(memory.SIDES)


def test_memory_reports_wrong_values(capsys, monkeypatch):
    monkeypatch.setitem(memory.CASES, "tree", (lambda load, step: memory.tree(load, step, width=4), 5))
    assert memory.main(["tree", "--load", "0", "--step", "0", "--repeats", "1"]) == 1
    assert "plain Dask returned 4 leaves instead of 5" in capsys.readouterr().err


def test_memory_dags():
    dag = memory.map_reduce(0.0, 0.0)
    assert (len(dag), len(dag.sources), dag.sinks) == (221, 200, ("final",))
    dag = memory.tree(0.0, 0.0)
    assert (len(dag), len(dag.sources), len(dag.sinks)) == (511, 256, 1)


# Shared helpers


def test_hanging_run_times_out():
    dag = DAG("slow").add_function(Function(id="slow", code=time.sleep, extra_args=[0.5], cost={"cpu": 1}))
    run = engines.plain_dask(dag)
    with fresh_cluster({"node": {"cpu": 1}}) as (_, client), pytest.raises(TimeoutError):
        run(client, 0.01)


# progress.py


def test_progress_is_measured(capsys):
    progress.main(functions=20, pairs=2)
    out = capsys.readouterr().out
    assert out.count("20 functions: ") == 2
    assert "ratio: median " in out


# dashboard.py


def test_the_dashboard_page_is_measured(capsys):
    dashboard.main(nodes=2, functions=20, updates=1)
    out = capsys.readouterr().out
    assert out.startswith("2 nodes, 20 functions\npage: ")
    assert re.search(r"^update: [1-9][\d]* kB, at most [\d]+ kB$", out, re.MULTILINE)
    assert re.search(r"^collecting: [\d.]+ ms, at most [\d.]+ ms$", out, re.MULTILINE)


# variants.py


@pytest.mark.slow
def test_variants_change_one_rule_at_a_time(capsys):
    assert variants.main(["--seeds", "1", "--markdown"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = {cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in lines[1:])}
    assert list(rows) == list(variants.VARIANTS)
    rules = rows.pop("all rules")
    assert any(row != rules for row in rows.values())
    assert rank._take_turns is variants.TAKE_TURNS, "the rules are restored"

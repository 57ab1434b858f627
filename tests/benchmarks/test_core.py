"""The scripts that measure the core, for one and two checkouts, at small sizes. Figures are not judged."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import common
import core
import makespans
import pytest
from checks import find_violations
from engines import run_simulator
from makespans import Key

CHECKOUT = common.CHECKOUT


# core.py


def row_params():
    """One row of each kind for every test run; CI measures the others, too."""
    seen = set()
    for name, row in core.make_rows(10_000, 500).items():
        yield pytest.param(name, marks=pytest.mark.slow if row.measure in seen else ())
        seen.add(row.measure)


@pytest.mark.parametrize("name", list(row_params()))
def test_row_of_core(name):
    row = core.make_rows(10_000, 500)[name]
    measured = row.measure(**row.arguments)
    assert measured.micros > 0
    assert measured.makespan is None or measured.makespan >= 0.5


def test_makespans_of_rows_are_deterministic():
    first, second = (core.layered(functions=200, nodes=3).makespan for _ in range(2))
    assert first == second


def test_shrink_divides_sizes_but_not_counts():
    rows = core.make_rows(1_000_000, 1000)
    assert rows["layered 1,000,000 x 10 nodes"].arguments == {"functions": 1000, "nodes": 4}
    assert rows["joining nodes, 0 finished runs"].arguments == {"nodes": 4, "runs": 0}
    assert rows["ids files, lowering"].arguments == {"functions": 20, "files": True, "lowering": True}


def test_allocator_that_scans_all_continues_after_a_misfit():
    ready = [core.handoff.ReadyFunction(i, {"cpu": n}, None, {}, 0, 0.0) for i, n in enumerate((1, 4, 1))]
    assert core.first_fit(ready, {"a": {"cpu": 2}}) == {0: "a"}
    assert core.first_fit(ready, {"a": {"cpu": 2}}, scan_all=True) == {0: "a", 2: "a"}


def test_names_are_imported_from_the_first_module_that_has_them():
    assert core.import_first("Kind", "_scheduling.nowhere", "_scheduling.spec") is core.Kind
    with pytest.raises(ImportError, match=r"no Nothing in _scheduling\.spec, _scheduling\.nowhere"):
        core.import_first("Nothing", "_scheduling.spec", "_scheduling.nowhere")


@pytest.mark.slow
def test_core_compares_two_checkouts(capsys, tmp_path):
    path = tmp_path / "figures.json"
    small = ["--shrink", "500", "--rows", "runs 1 ", "ids numbered, l", "--json", str(path)]
    assert core.main([*small, "--against", str(CHECKOUT), "--repeats", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()[4:]
    assert [line.split()[0] for line in lines] == ["row", "ids", "runs"]
    assert lines[0].split()[2:] == ["before", "makespan", "after", "makespan", "ratio"]
    figures = json.loads(path.read_text())["rows"]
    assert {side: len(m) for side, m in figures["runs 1 at once"].items()} == {"before": 2, "after": 2}
    (makespan,) = {m["makespan"] for all_of in figures["runs 1 at once"].values() for m in all_of}
    assert makespan > 0


def test_row_that_takes_too_long(capsys):
    assert core.main(["--shrink", "500", "--rows", "runs 1 ", "--timeout", "0.01"]) == 1
    assert "too long" in capsys.readouterr().out


def test_unknown_row(capsys):
    with pytest.raises(SystemExit):
        core.main(["--rows", "nothing"])
    assert "no row of that name (known: layered" in capsys.readouterr().err


def test_package_of_the_checkout_is_imported(tmp_path):
    package = tmp_path / "handoff_dask"
    package.mkdir()
    (package / "__init__.py").write_text("where = __file__")
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text("import handoff_dask, json\nprint('first')\nprint(json.dumps(handoff_dask.where))")
    assert Path(common.run_in_checkout(tmp_path, script, [], 60)).parent == package
    script.write_text("raise SystemExit(3)")
    with pytest.raises(subprocess.CalledProcessError):
        common.run_in_checkout(tmp_path, script, [], 60)
    with pytest.raises(FileNotFoundError, match="is not a checkout"):
        common.run_in_checkout(script.parent, script, [], 60)


# makespans.py


@pytest.mark.slow
def test_makespans_compares_two_checkouts(capsys, tmp_path):
    path = tmp_path / "figures.json"
    small = ["--seeds", "1", "--strategies", "best_fit,first_available", "--json", str(path), "--strict"]
    assert makespans.main([*small, "--against", str(CHECKOUT)]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert "*" not in printed
    figures = json.loads(path.read_text())["makespans"]
    assert figures["before"] == figures["after"]
    # Two strategies, durations known and learnt, each with two traces on two clusters, and the ten cases.
    assert len(figures["after"]) == 2 * 2 * (2 * 2 + 10)
    assert printed.count(" mean ") == 2 * 2 * (2 * 2 + 1)
    cases = [row for row in figures["after"] if row[0] == "best_fit" and row[3] == "case"]
    assert [row[-1] for row in cases] == pytest.approx([1.0] * 20)


def test_worse_makespans_are_marked(capsys):
    keys = [Key("best_fit", "known", "equal", "file", name) for name in "abcd"]
    before = dict.fromkeys(keys, 1.0)
    assert not makespans.report({"before": before, "after": {**before, keys[0]: 1.029}}, False)
    assert "*" not in capsys.readouterr().out
    assert makespans.report({"before": before, "after": {**before, keys[0]: 1.031}}, False)
    a, mean = (line for line in capsys.readouterr().out.splitlines() if "1.031" in line or "mean" in line)
    assert a.endswith("*")
    assert mean.endswith("1.008")
    assert makespans.report({"before": before, "after": dict.fromkeys(keys, 1.02)}, False)
    assert capsys.readouterr().out.splitlines()[-1].endswith("1.020*")


def test_every_strategy_is_simulated():
    *_, case = makespans.instances(CHECKOUT / "benchmarks" / "data", 0, 1.0)
    for strategy in makespans.STRATEGIES:
        outcome = run_simulator(case.trace, case.nodes, 0.0, strategy=strategy)
        assert find_violations(case.trace, case.nodes, outcome.log, outcome.makespan, case.bound) == []

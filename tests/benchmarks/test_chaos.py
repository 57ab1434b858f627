"""Chaos runs pass all checks, and the checks detect violations."""

from __future__ import annotations

import sys

import chaos
import pytest
from checks import Interval

from handoff_dask._model.records import Attempt, FunctionRecord


@pytest.mark.skipif(sys.platform == "win32", reason="nodes are killed by signals")
@pytest.mark.parametrize(
    ("seed", "functions", "kills"),
    [(1, 800, 2), *(pytest.param(seed, 2000, 6, marks=pytest.mark.slow) for seed in (1, 2, 3))],
)
def test_chaos_run_has_no_violations(seed, functions, kills):
    outcome = chaos.run_seed(seed, functions, kills, timeout=100)
    assert outcome.violations == []
    assert outcome.kills >= kills / 2
    assert outcome.failed > 0.15 * functions  # the planned failures, less those lost with nodes
    assert outcome.recomputed > 0


def test_failing_seed_is_reported(capsys, monkeypatch):
    def run_seed(seed, n, kills):
        if seed == 4:
            raise TimeoutError("no end")
        return chaos.Outcome(seed, 5, 1.0, 2, 3, 4, ["something"] if seed == 5 else [])

    monkeypatch.setattr(chaos, "run_seed", run_seed)
    assert chaos.main(["--first", "3", "--seeds", "1"]) == 0
    assert chaos.main(["--first", "3", "--seeds", "3"]) == 1
    printed, errors = capsys.readouterr()
    assert [line.split()[-1] for line in printed.splitlines()[-3:]] == ["passed", "error", "failed"]
    assert errors == "seed 4: TimeoutError: no end\nseed 5: something\n"


def test_plan_depends_only_on_the_seed():
    assert chaos.plan(1, 300) == chaos.plan(1, 300)
    assert chaos.plan(1, 300) != chaos.plan(2, 300)
    assert max(f.failures for f in chaos.plan(1)) < chaos.MAX_RETRIES


def test_overcommitment_is_detected():
    costs, shapes = [{"cpu": 1}], {"n": {"cpu": 1}}
    after = [Interval((0, 1), "n", 1.0, 2.0), Interval((0, 2), "n", 2.0, 3.0)]
    during = [Interval((0, 1), "n", 1.0, 2.0), Interval((0, 2), "n", 1.5, 3.0)]
    assert list(chaos.overcommitted(after, costs, shapes)) == []
    assert list(chaos.overcommitted(during, costs, shapes)) == ["n has cpu 1, but 2 was in use at 1.5"]


def test_repeated_and_unfinished_attempts_are_detected(tmp_path):
    (tmp_path / "a").write_text("1 1 start 1.0\n1 1 stop 2.0\n2 1 start 3.0\n")
    (tmp_path / "b").write_text("1 1 start 4.0\n")
    found: list[str] = []
    log = chaos.read_log(tmp_path, {"b": 5.0}, found)
    assert log == [Interval((1, 1), "a", 1.0, 2.0), Interval((1, 1), "b", 4.0, 5.0)]
    assert found == ["(2, 1) did not end on a, although the node was not killed", "(1, 1) ran 2 times"]


def record(*attempts, status="finished"):
    return {0: FunctionRecord(0, status, None, tuple(Attempt(n, "a", outcome=o) for n, o in attempts), {})}


@pytest.mark.parametrize(
    ("failures", "attempts", "killed", "text"),
    [
        (1, [(1, "failed"), (2, "finished")], {}, None),
        (0, [(1, "lost"), (2, "finished")], {"a": 1.0}, None),
        (0, [(1, "lost"), (2, "finished")], {}, "attempt 1 of 2 of 0 on a is lost"),
        (0, [(1, "finished"), (2, "finished")], {}, "attempt 1 of 2 of 0 on a is finished"),
        (0, [(1, "failed"), (2, "finished")], {}, "attempt 1 of 2 of 0 on a is failed"),
        (1, [(1, "finished")], {}, "attempt 1 of 1 of 0 on a is finished"),
        (0, [(1, "finished"), (2, "cancelled")], {"a": 1.0}, "0 is finished: ['finished', 'cancelled']"),
        (0, [(1, "finished"), (3, "finished")], {"a": 1.0}, "0 has attempts [1, 3]"),
    ],
)
def test_wrong_attempts_are_detected(failures, attempts, killed, text):
    plans = [chaos.Plan((), {}, None, failures, 0.0)]
    log = [Interval((0, n), "a", 0.0, 0.0) for n, _ in attempts]
    found = list(chaos.check_records(plans, record(*attempts), log, killed))
    assert found[:1] == ([] if text is None else [text])
